// The UI as a PyFlare server serves it, over spans sent as OTLP. Either starts servers of its own:
//
//   PYFLARE_BINARY=…/pyflare node --test test/e2e/server.test.mjs
//
// or goes to one that runs, without the tests that must stop or configure it:
//
//   PYFLARE_URL=http://127.0.0.1:4319 PYFLARE_OTLP_URL=http://127.0.0.1:4318 node --test test/e2e/server.test.mjs
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { runnerImport } from 'vite';
import { launch, openPage } from './browser.mjs';
import { Pyflare } from './pyflare.mjs';
import { chat as chatWith, hex, send as sendTo, span } from './spans.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const binary = process.env.PYFLARE_BINARY;
let server = process.env.PYFLARE_URL?.replace(/\/$/, '');
let otlp = (process.env.PYFLARE_OTLP_URL ?? 'http://127.0.0.1:4318').replace(/\/$/, '');
const mark = hex(4);
const service = `ui-${mark}`;
const model = `model-${mark}`;
const chat = chatWith(model);
const send = (spans) => sendTo(otlp, service, spans);
const chats = (count, start) => Array.from({ length: count }, () => span(hex(16), hex(8), undefined, `chat ${model}`, chat, { start }));

/** A cell of the row of the tests' own service on the overview. */
const requestsOnOverview = (page, count) =>
  page.waitForFunction(([name, wanted]) => [...document.querySelectorAll('tbody tr')].some((line) => line.textContent.includes(name) && line.children[3].textContent.replace(/\D/g, '') === wanted), [service, String(count)], { timeout: 15_000 });

describe('against a PyFlare server', { skip: server === undefined && binary === undefined ? 'neither PYFLARE_BINARY nor PYFLARE_URL is set' : false }, () => {
  let browser;
  let own;
  before(async () => {
    browser = await launch();
    if (server !== undefined) return;
    own = await Pyflare.start(binary);
    ({ url: server, otlp } = own);
  });
  after(async () => {
    await browser?.close();
    await own?.remove();
  });

  const on = async (path, run, options = {}) => {
    const opened = await openPage(browser, `${server}/${path}`, options);
    await run(opened.page);
    await opened.close();
  };

  test('an empty server says how to send to its own addresses', { skip: binary === undefined || process.env.PYFLARE_URL !== undefined ? 'needs a server of its own' : false }, () =>
    on('#/', async (page) => {
      await page.getByText('No requests yet').waitFor();
      await page.getByText(`OTEL_EXPORTER_OTLP_ENDPOINT=${otlp}`).waitFor();
      await page.getByRole('button', { name: 'Demo traffic' }).click();
      await page.getByText(`pyflare demo --endpoint ${otlp}`).waitFor();
      await own.demo(3);
      await page.getByRole('table').getByText('demo-').first().waitFor({ timeout: 10_000 });
    }));

  test('the overview shows spans within seconds of their export, without a reload', () =>
    on('#/', async (page) => {
      await page.getByText('Live', { exact: true }).waitFor();
      await send(chats(3));
      const row = page.getByRole('row', { name: new RegExp(service) }).first();
      await row.waitFor({ timeout: 10_000 });
      const shown = (await row.getByRole('cell').allInnerTexts()).map((text) => text.trim());
      assert.equal(shown[2], '3', `requests in ${shown.join(' | ')}`);
      await send([span(hex(16), hex(8), undefined, `chat ${model}`, chat, { error: true })]);
      await requestsOnOverview(page, 4);
    }));

  test('a monitor is explained, created, watched, and dropped', () =>
    on('#/new', async (page) => {
      const name = `ui_${mark}`;
      const editor = page.getByRole('textbox', { name: 'Statement of the monitor' });
      await editor.fill(`CREATE MONITOR ${name} AS\nSELECT service_name, count(*) AS calls, sum(input_tokens) AS tokens\nFROM spans\nWHERE model = '${model}'\nGROUP BY service_name`);
      await page.getByRole('button', { name: 'Explain' }).click();
      await page.getByRole('heading', { name: 'How it is kept' }).waitFor();
      await page.getByRole('button', { name: new RegExp(`Create ${name}`) }).click();
      await page.getByRole('link', { name, exact: true }).waitFor();
      await page.locator('.watched .grid').waitFor();
      const before = await page.locator('.watched .grid-row:not(.grid-head) .grid-cell').nth(1).innerText({ timeout: 1500 }).catch(() => '0');
      await send(chats(2));
      await page.waitForFunction((wanted) => document.querySelectorAll('.watched .grid-row:not(.grid-head) .grid-cell')[1]?.textContent === wanted, String(Number(before) + 2), { timeout: 10_000 });
      await page.getByRole('link', { name, exact: true }).click();
      await page.getByRole('button', { name: `Drop ${name}` }).click();
      await page.getByRole('button', { name: 'Drop the monitor' }).click();
      await page.getByRole('heading', { name: 'Monitors', exact: true }).waitFor();
      await page.getByRole('link', { name: 'requests' }).waitFor();
      assert.equal(await page.getByRole('link', { name, exact: true }).count(), 0);
    }));

  test('every example is accepted, fills, and can be dropped', async () => {
    const { module } = await runnerImport(fileURLToPath(new URL('../../src/monitors/examples.ts', import.meta.url)));
    assert.ok(module.examples.length >= 4);
    for (const example of module.examples) {
      const name = /MONITOR (\w+)/.exec(example.sql)[1];
      await on('#/new', async (page) => {
        await page.getByRole('button', { name: new RegExp(`^${example.title}`) }).click();
        await page.getByRole('button', { name: `Create ${name}` }).click();
        await page.locator('.watched .grid').waitFor();
        const traceId = hex(16);
        await sendTo(otlp, `examples-${mark}`, [
          span(traceId, hex(8), undefined, 'chat', { ...chatWith(`example-${mark}`), 'user.id': 'user-1' }),
          span(traceId, hex(8), undefined, 'execute_tool lookup', { 'gen_ai.operation.name': 'execute_tool', 'gen_ai.tool.name': 'lookup', 'error.type': 'timeout', 'user.id': 'user-1' }, { error: true }),
        ]);
        await page.locator('.watched .grid-row:not(.grid-head)').first().waitFor({ timeout: 10_000 });
        assert.equal(await page.getByRole('alert').count(), 0, example.title);
        await page.getByRole('link', { name, exact: true }).click();
        await page.getByRole('button', { name: `Drop ${name}` }).click();
        await page.getByRole('button', { name: 'Drop the monitor' }).click();
        await page.getByRole('heading', { name: 'Monitors', exact: true }).waitFor();
        await page.getByRole('link', { name: 'requests' }).waitFor();
        assert.equal(await page.getByRole('link', { name, exact: true }).count(), 0);
      });
    }
  });

  test('the columns that the page offers are those that the server has', () =>
    on('#/new', async (page) => {
      await page.getByLabel('Relation').selectOption('spans');
      const offered = await page.locator('.column-list code').allInnerTexts();
      assert.ok(offered.length > 30);
      const answer = await fetch(`${server}/api/v1/sql`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ query: `SELECT ${offered.join(', ')} FROM history.spans`, limit: 1 }) });
      assert.equal(answer.status, 200, await answer.text());
    }));

  test('a statement that cannot be maintained is refused at its place', () =>
    on('#/new', async (page) => {
      await page.getByRole('textbox', { name: 'Statement of the monitor' }).fill('CREATE MONITOR wrong AS\nSELECT nothing_of_the_kind FROM spans');
      await page.getByRole('button', { name: 'Create wrong' }).click();
      const alert = page.getByRole('alert');
      await alert.getByText(/PF-4\d\d\d/).waitFor();
      assert.match(await alert.innerText(), /Line 2, column 8/);
    }));

  test('a trace with a tree, an orphan and hostile text is found and opened', async () => {
    const traceId = hex(16);
    const root = hex(8);
    const evil = '<img src=x onerror="window.__broken = true">';
    await send([
      span(traceId, root, undefined, `agent-${mark}`, { 'gen_ai.operation.name': 'invoke_agent', 'user.id': evil }, { start: 2000, length: 1500 }),
      span(traceId, hex(8), root, evil, chat, { start: 1900, length: 300 }),
      span(traceId, hex(8), hex(8), 'orphan', {}, { start: 1500, length: 100, error: true }),
    ]);
    await on(`#/traces?q=agent-${mark}`, async (page) => {
      await page.getByRole('link', { name: `agent-${mark}` }).click({ timeout: 15_000 });
      await page.getByRole('treegrid').waitFor();
      assert.equal(await page.getByRole('treegrid').getByRole('row').count(), 4);
      await page.getByText('missing parent').waitFor();
      await page.getByRole('row', { name: /<img src=x/ }).click();
      await page.getByRole('complementary', { name: 'Selected span' }).getByText(model).first().waitFor();
      assert.equal(await page.locator('main img').count(), 0);
    });
  });

  test('SQL over the live view and over the stored spans agree with what was sent', () =>
    on('#/sql', async (page) => {
      for (const query of [`SELECT sum(requests) AS n FROM live.requests WHERE model = '${model}'`, `SELECT count(*) AS n FROM history.spans WHERE model = '${model}'`]) {
        await page.getByRole('textbox', { name: 'Query' }).fill(query);
        await page.getByRole('button', { name: 'Run' }).click();
        await page.getByText('1 row', { exact: true }).waitFor();
        // 4 for the overview, 2 for the monitor, 1 in the trace.
        await page.waitForFunction(() => document.querySelector('.grid-row:not(.grid-head) .grid-cell')?.textContent === '7', undefined, { timeout: 10_000 });
        await page.getByRole('textbox', { name: 'Query' }).fill('SELECT 1');
      }
    }));

  test('a trace of 5,000 spans opens within seconds, with long, foreign and missing names', async () => {
    const traceId = hex(16);
    const root = hex(8);
    const long = `accounts/somebody/models/${'very-long-name-'.repeat(20)}`;
    const spans = [span(traceId, root, undefined, `большой ${mark} 大きな`, { 'gen_ai.operation.name': 'invoke_agent' }, { start: 9000, length: 8000 }), span(traceId, hex(8), root, '', {}, { start: 8000, length: 0 }), span(traceId, hex(8), root, long, chatWith(long), { start: 8000, length: 900 })];
    let above = root;
    for (let depth = 0; depth < 60; depth++) {
      const id = hex(8);
      spans.push(span(traceId, id, above, `level ${depth}`, {}, { start: 8500 - depth * 20, length: 5000 - depth * 40 }));
      above = id;
    }
    while (spans.length < 5000) spans.push(span(traceId, hex(8), root, `step ${spans.length}`, chat, { start: 9000 - spans.length, length: 300, error: spans.length % 500 === 0 }));
    for (let at = 0; at < spans.length; at += 1000) await sendTo(otlp, `large-${mark}`, spans.slice(at, at + 1000));
    for (const viewport of [{ width: 1440, height: 900 }, { width: 390, height: 844 }]) {
      const begun = Date.now();
      await on(`#/traces/${traceId}`, async (page) => {
        await page.getByRole('treegrid').waitFor();
        assert.ok(Date.now() - begun < 8000, `opened in ${Date.now() - begun} ms`);
        await page.getByText('5\u202f000').first().waitFor();
        assert.ok((await page.getByRole('row').count()) < 60);
        const fits = await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth && [...document.querySelectorAll('.span-name')].every((cell) => cell.scrollWidth >= cell.clientWidth && cell.getBoundingClientRect().right <= cell.nextElementSibling.getBoundingClientRect().left + 9));
        assert.ok(fits, `at ${viewport.width}`);
        await page.getByLabel('Find spans by name, service or class').fill('level 59');
        await page.getByText('1 match').waitFor();
        await page.keyboard.press('Enter');
        await page.getByRole('complementary', { name: 'Selected span' }).getByRole('heading', { name: 'level 59' }).waitFor();
      }, { viewport });
    }
  });

  test('no page has a serious accessibility fault, in light and in dark', async () => {
    for (const path of ['#/', '#/monitors/latency', '#/traces']) {
      await on(path, async (page) => {
        await page.getByRole('heading').first().waitFor();
        await page.waitForTimeout(700);
        await page.evaluate(axe);
        // What colours cannot change is looked at once.
        for (const [colorScheme, rules] of [['light', undefined], ['dark', ['color-contrast']]]) {
          await page.emulateMedia({ colorScheme });
          const found = await page.evaluate((runOnly) => window.axe.run({ resultTypes: ['violations'], ...(runOnly && { runOnly }) }), rules);
          const serious = found.violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
          assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html }) => html).join(' | ')}`), [], `${path} ${colorScheme}`);
        }
      }, { bypassCSP: true });
    }
  });
});

describe('a server that goes away and comes back', { skip: binary === undefined ? 'PYFLARE_BINARY is not set' : false }, () => {
  test('the page goes on by itself, without gap and without doubles', async () => {
    const own = await Pyflare.start(binary);
    const browser = await launch();
    try {
      const to = (count, start) => sendTo(own.otlp, service, chats(count, start));
      const opened = await openPage(browser, `${own.url}/#/`);
      const table = await openPage(browser, `${own.url}/#/monitors/requests`);
      const loads = { page: 0, table: 0 };
      opened.page.on('load', () => loads.page++);
      table.page.on('load', () => loads.table++);
      // In a minute of their own: what does not change after a reconnect must stay in sight.
      await to(3, 180_000);
      await requestsOnOverview(opened.page, 3);
      await own.stop('SIGKILL');
      await opened.page.getByText('Disconnected').or(opened.page.getByText('Reconnecting…')).first().waitFor();
      await own.start();
      // Sent before the page is back: it must be there once, as what was acknowledged before the kill is.
      await to(4);
      await requestsOnOverview(opened.page, 7);
      await opened.page.getByText('Live', { exact: true }).waitFor();
      await own.stop('SIGTERM');
      await own.start();
      await to(5);
      await requestsOnOverview(opened.page, 12);
      assert.equal(await opened.page.getByRole('alert').count(), 0);
      // The table of the view, row by row, is what the server says.
      const answer = await fetch(`${own.url}/api/v1/sql`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ query: 'SELECT requests FROM live.requests' }) });
      const stored = (await answer.json()).rows.map(([count]) => String(count)).sort();
      await table.page.waitForFunction((wanted) => {
        const shown = [...document.querySelectorAll('.grid-row:not(.grid-head)')].map((row) => row.lastElementChild.textContent).sort();
        return JSON.stringify(shown) === JSON.stringify(wanted);
      }, stored, { timeout: 15_000 });
      assert.deepEqual(loads, { page: 0, table: 0 });
      await opened.close();
      await table.close();
    } finally {
      await browser.close();
      await own.remove();
    }
  });

  test('pages without live data say that it is gone and come back', async () => {
    const own = await Pyflare.start(binary);
    const browser = await launch();
    try {
      const all = [];
      for (const path of ['#/monitors', '#/traces']) all.push(await openPage(browser, `${own.url}/${path}`));
      for (const { page } of all) await page.getByRole('heading').first().waitFor();
      await own.stop('SIGKILL');
      for (const { page } of all) await page.getByRole('alert').getByText('PyFlare does not answer').waitFor({ timeout: 15_000 });
      await own.start();
      for (const { page } of all) await page.getByRole('alert').waitFor({ state: 'detached', timeout: 15_000 });
      for (const opened of all) await opened.close();
    } finally {
      await browser.close();
      await own.remove();
    }
  });
});

describe('a server with keys', { skip: binary === undefined ? 'PYFLARE_BINARY is not set' : false }, () => {
  test('the page asks for a key and shows the key’s project only, live as well', async () => {
    const key = { acme: `pf_acme-${hex(12)}`, blue: `pf_blue-${hex(12)}` };
    const own = await Pyflare.start(binary, { environment: { PYFLARE_AUTH_KEYS: `${key.acme}=acme,${key.blue}=blue` } });
    const browser = await launch();
    try {
      const opened = await openPage(browser, `${own.url}/#/`);
      const { page } = opened;
      const addresses = [];
      page.on('request', (request) => addresses.push(request.url()));
      page.on('websocket', (socket) => addresses.push(socket.url()));
      await page.getByRole('heading', { name: 'This server asks for a key' }).waitFor();
      await page.getByRole('textbox', { name: 'Key' }).fill(`pf_wrong-${hex(12)}`);
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByRole('alert').getByText('PF-1002').waitFor();
      await page.getByRole('textbox', { name: 'Key' }).fill(key.acme);
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByText('x-pyflare-key=pf_…').waitFor();
      await sendTo(own.otlp, 'acme-service', chats(2), { 'x-pyflare-key': key.acme });
      await sendTo(own.otlp, 'blue-service', chats(3), { 'x-pyflare-key': key.blue });
      await page.getByRole('row', { name: /acme-service/ }).waitFor({ timeout: 10_000 });
      assert.equal(await page.getByRole('row', { name: /blue-service/ }).count(), 0);
      await page.getByLabel('Project').selectOption({ label: 'Add a project…' });
      await page.getByRole('textbox', { name: 'Key' }).fill(key.blue);
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByRole('row', { name: /blue-service/ }).waitFor({ timeout: 10_000 });
      assert.equal(await page.getByRole('row', { name: /acme-service/ }).count(), 0);
      await page.getByLabel('Project').selectOption('acme');
      await page.getByRole('row', { name: /acme-service/ }).waitFor({ timeout: 10_000 });
      await page.reload();
      await page.getByRole('row', { name: /acme-service/ }).waitFor({ timeout: 10_000 });
      assert.ok(addresses.length > 0 && addresses.every((address) => !address.includes('pf_')));
      await opened.close();
    } finally {
      await browser.close();
      await own.remove();
    }
  });
});

describe('projects of a server without keys', { skip: binary === undefined ? 'PYFLARE_BINARY is not set' : false }, () => {
  test('are found by themselves and chosen, live rows and traces alike', async () => {
    const own = await Pyflare.start(binary);
    const browser = await launch();
    try {
      const opened = await openPage(browser, `${own.url}/#/`);
      const { page } = opened;
      await page.getByText('No requests yet').waitFor();
      await sendTo(own.otlp, 'acme-service', [span(hex(16), hex(8), undefined, 'acme question', chat)], { 'x-pyflare-project': 'acme' });
      // The only project with rows is shown without being asked for.
      await page.getByRole('row', { name: /acme-service/ }).waitFor({ timeout: 20_000 });
      await sendTo(own.otlp, 'default-service', chats(2));
      await page.getByLabel('Project').selectOption('default');
      await page.getByRole('row', { name: /default-service/ }).waitFor({ timeout: 10_000 });
      assert.equal(await page.getByRole('row', { name: /acme-service/ }).count(), 0);
      await page.getByLabel('Project').selectOption('acme');
      await page.getByRole('link', { name: 'Traces', exact: true }).click();
      await page.getByRole('link', { name: 'acme question' }).waitFor({ timeout: 10_000 });
      await opened.close();
    } finally {
      await browser.close();
      await own.remove();
    }
  });
});
