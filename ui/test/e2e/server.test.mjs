// The UI as a PyFlare server serves it, over spans sent as OTLP. Needs a running server:
//
//   PYFLARE_URL=http://127.0.0.1:4319 PYFLARE_OTLP_URL=http://127.0.0.1:4318 node --test test/e2e/server.test.mjs
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { launch, openPage } from './browser.mjs';

const server = process.env.PYFLARE_URL?.replace(/\/$/, '');
const otlp = (process.env.PYFLARE_OTLP_URL ?? 'http://127.0.0.1:4318').replace(/\/$/, '');
const mark = randomBytes(4).toString('hex');
const service = `ui-${mark}`;
const hex = (bytes) => randomBytes(bytes).toString('hex');

const attribute = (key, value) => ({ key, value: typeof value === 'number' ? { intValue: String(value) } : { stringValue: value } });

function span(traceId, spanId, parent, name, attributes, { error = false, start = 900, length = 400 } = {}) {
  const begun = BigInt(Date.now() - start) * 1_000_000n;
  return {
    traceId, spanId, ...(parent === undefined ? {} : { parentSpanId: parent }), name, kind: 3,
    startTimeUnixNano: String(begun), endTimeUnixNano: String(begun + BigInt(length) * 1_000_000n),
    attributes: Object.entries(attributes).map(([key, value]) => attribute(key, value)), status: error ? { code: 2, message: 'it failed' } : {},
  };
}

async function send(spans) {
  const response = await fetch(`${otlp}/v1/traces`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ resourceSpans: [{ resource: { attributes: [attribute('service.name', service)] }, scopeSpans: [{ scope: { name: 'ui-test' }, spans }] }] }),
  });
  assert.equal(response.status, 200, await response.text());
}

const model = `model-${mark}`;
const chat = { 'gen_ai.operation.name': 'chat', 'gen_ai.provider.name': 'openai', 'gen_ai.request.model': model, 'gen_ai.response.model': model, 'gen_ai.usage.input_tokens': 100, 'gen_ai.usage.output_tokens': 7 };

describe('against a PyFlare server', { skip: server === undefined ? 'PYFLARE_URL is not set' : false }, () => {
  let browser;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());

  const on = async (path, run) => {
    const opened = await openPage(browser, `${server}/${path}`);
    await run(opened.page);
    await opened.close();
  };

  test('the overview shows spans within seconds of their export, without a reload', () =>
    on('#/', async (page) => {
      await page.getByText('Live', { exact: true }).waitFor();
      await send([1, 2, 3].map(() => span(hex(16), hex(8), undefined, `chat ${model}`, chat)));
      const row = page.getByRole('row', { name: new RegExp(service) }).first();
      await row.waitFor({ timeout: 10_000 });
      const shown = (await row.getByRole('cell').allInnerTexts()).map((text) => text.trim());
      assert.equal(shown[2], '3', `requests in ${shown.join(' | ')}`);
      await send([span(hex(16), hex(8), undefined, `chat ${model}`, chat, { error: true })]);
      await page.waitForFunction(([name, count]) => [...document.querySelectorAll('tbody tr')].some((line) => line.textContent.includes(name) && line.children[3].textContent === count), [service, '4'], { timeout: 10_000 });
    }));

  test('a monitor is explained, created, watched, and dropped', () =>
    on('#/new', async (page) => {
      const name = `ui_${mark}`;
      const editor = page.getByRole('textbox', { name: 'Statement of the monitor' });
      await editor.fill(`CREATE MONITOR ${name} AS\nSELECT service_name, count(*) AS calls, sum(input_tokens) AS tokens\nFROM spans\nWHERE model = '${model}'\nGROUP BY service_name`);
      await page.getByRole('button', { name: 'Explain' }).click();
      await page.getByRole('heading', { name: 'How it will be kept' }).waitFor();
      await page.getByRole('button', { name: new RegExp(`Create ${name}`) }).click();
      await page.getByRole('link', { name, exact: true }).waitFor();
      await page.locator('.watched .grid').waitFor();
      const before = await page.locator('.watched .grid-row:not(.grid-head) .grid-cell').nth(1).innerText({ timeout: 1500 }).catch(() => '0');
      await send([1, 2].map(() => span(hex(16), hex(8), undefined, `chat ${model}`, chat)));
      await page.waitForFunction((wanted) => document.querySelectorAll('.watched .grid-row:not(.grid-head) .grid-cell')[1]?.textContent === wanted, String(Number(before) + 2), { timeout: 10_000 });
      await page.getByRole('link', { name, exact: true }).click();
      await page.getByRole('button', { name: `Drop ${name}` }).click();
      await page.getByRole('button', { name: 'Drop the monitor' }).click();
      await page.getByRole('heading', { name: 'Monitors', exact: true }).waitFor();
      await page.getByRole('link', { name: 'requests' }).waitFor();
      assert.equal(await page.getByRole('link', { name, exact: true }).count(), 0);
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
});
