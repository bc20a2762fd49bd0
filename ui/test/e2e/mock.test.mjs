// The UI in a real browser against the mock server: every page, at its edges.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { launch } from './browser.mjs';
import { ensureBuilt } from './built.mjs';
import { eventually, onMock } from './on-mock.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const huge = 'f'.repeat(32);
const hostile = 'a'.repeat(32);

let browser;
before(async () => {
  ensureBuilt();
  browser = await launch();
});
after(() => browser.close());

const on = (...rest) => onMock(browser, ...rest);
const digits = (text) => Number(text.replace(/[^\d.]/g, ''));

/** The sum of a column over the mock's own view: what the page must show. */
function sumOf(mock, name, column, minutes = Infinity) {
  const view = mock.live.views.get(name);
  const at = view.columns.findIndex((one) => one.name === column);
  const start = view.columns.findIndex((one) => one.name === 'window_start');
  const oldest = (Math.floor(view.upper / 60_000) + 1 - minutes) * 60_000;
  let sum = 0;
  for (const [key, count] of view.rows) {
    const values = JSON.parse(key);
    if (Date.parse(values[start]) >= oldest) sum += count * Number(values[at]);
  }
  return sum;
}

describe('overview', () => {
  test('shows what the views hold and follows them', () =>
    on('#/?range=6h', async (page, mock) => {
      const read = () => page.locator('tbody tr td:nth-child(4)').allInnerTexts();
      await page.locator('tbody tr').first().waitFor();
      const total = (texts) => texts.map(digits).reduce((sum, value) => sum + value, 0);
      const first = total(await read());
      assert.ok(first > 100_000);
      await eventually(read, (texts) => total(texts) > first);
      // What stands in the view once it stands still is on the page a moment later, to the last request.
      mock.pause();
      const expected = sumOf(mock, 'requests', 'requests', 6 * 60);
      await eventually(read, (texts) => total(texts) === expected);
      assert.match(await page.locator('.as-of').innerText(), /as of tick \d\d:\d\d:\d\d\.\d{3}/);
    }));

  test('a row narrows the charts to its group, and the address says so', () =>
    on('#/', async (page) => {
      await page.getByRole('button', { name: 'checkout' }).click();
      assert.match(page.url(), /group=%5B%22checkout%22%2Cnull%5D/);
      assert.match(await page.getByLabel('Latency p95').innerText(), /this group/);
      await page.reload();
      await page.getByRole('button', { name: /checkout · no model/ }).click();
      assert.ok(!page.url().includes('group'));
    }));

  test('teaches how to send data while there is none, and fills by itself', () =>
    on('#/', async (page, mock) => {
      await page.getByText('No requests yet').waitFor();
      assert.match(await page.locator('pre').innerText(), /OTEL_EXPORTER_OTLP_ENDPOINT=http:\/\/127\.0\.0\.1:4318/);
      await page.getByRole('button', { name: 'Python' }).click();
      await page.getByRole('button', { name: 'Copy' }).click();
      await page.getByRole('button', { name: 'Copied' }).waitFor();
      assert.match(await page.evaluate(() => navigator.clipboard.readText()), /OTLPSpanExporter/);
      mock.addFirstData();
      await page.getByRole('button', { name: 'support-agent' }).waitFor();
      const shown = digits(await page.locator('tbody tr td:nth-child(4)').first().innerText());
      assert.equal(shown, sumOf(mock, 'requests', 'requests'));
    }, { mock: { scenario: 'empty' }, permissions: ['clipboard-read', 'clipboard-write'] }));

  test('waits for a server that is slow to start, without a reload', () =>
    on('#/', async (page, mock) => {
      await page.getByText('Waiting for the first tick').waitFor();
      await page.getByText('The page connects by itself').waitFor();
      await page.getByRole('alert').getByText('recovering its log: 41 %').waitFor();
      await page.getByText('Disconnected').or(page.getByText('Reconnecting…')).first().waitFor();
      mock.control.ready = true;
      await page.locator('tbody tr').first().waitFor({ timeout: 15_000 });
      await page.getByText('Live', { exact: true }).waitFor();
    }, { mock: { scenario: 'slow' } }));

  test('says which built-in view is missing and comes back when it is there', () =>
    on('#/', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      const tokens = mock.live.views.get('tokens');
      mock.live.drop('tokens');
      await page.getByRole('alert').getByText('the monitor was dropped').waitFor();
      await page.getByRole('alert').getByText('PF-5013').waitFor();
      mock.live.views.set('tokens', tokens);
      await eventually(() => page.getByRole('alert').count(), (count) => count === 0, 8000);
    }));
});

describe('connection', () => {
  test('resumes after a lost connection and ends with exactly the view’s content', () =>
    on('#/monitors/tokens_by_user', async (page, mock) => {
      await page.getByText(/1.000 rows/).waitFor();
      const resets = mock.live.stats.resets;
      mock.live.dropConnections();
      await eventually(async () => mock.live.stats.resumed, (resumed) => resumed === 1);
      assert.equal(mock.live.stats.resets, resets);
      await page.getByText('Live', { exact: true }).waitFor();
      await agree(page, mock, 'tokens_by_user');
    }));

  test('takes a snapshot when its token is forgotten', () =>
    on('#/monitors/tokens_by_user', async (page, mock) => {
      await page.getByText(/1.000 rows/).waitFor();
      mock.live.forgetful = true;
      const resets = mock.live.stats.resets;
      mock.live.dropConnections();
      await eventually(async () => mock.live.stats.resets, (count) => count === resets + 1);
      await agree(page, mock, 'tokens_by_user');
    }));

  test('notices a frame that never came and asks for everything again', () =>
    on('#/monitors/tokens_by_user', async (page, mock) => {
      await page.getByText(/1.000 rows/).waitFor();
      const before = mock.live.stats.resets;
      mock.live.skipFrame = true;
      await new Promise((resolve) => setTimeout(resolve, 600));
      mock.live.skipFrame = false;
      await eventually(async () => mock.live.stats.resets, (count) => count === before + 1);
      await agree(page, mock, 'tokens_by_user');
    }));

  test('leaves no subscription behind', () =>
    on('#/', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      await page.getByRole('link', { name: 'SQL' }).click();
      await page.getByRole('heading', { name: 'SQL' }).waitFor();
      await page.getByRole('link', { name: 'Overview', exact: true }).click();
      await page.locator('tbody tr').first().waitFor();
      assert.equal(mock.live.stats.subscribes, 8);
    }));
});

/** The newest rows of the page are those of the mock's view, once both stand still. */
async function agree(page, mock, name) {
  const view = mock.live.views.get(name);
  mock.pause();
  const expected = [...view.rows.keys()].map((key) => JSON.parse(key)).sort((left, right) => (left[0] < right[0] ? -1 : 1)).slice(0, 12).map((row) => `${row[0]} ${row[1]} ${row[2]}`);
  const head = page.getByRole('columnheader', { name: 'user_id' });
  while ((await head.getAttribute('aria-sort')) !== 'ascending') await head.getByRole('button').click();
  const read = async () => (await page.locator('.grid-row:not(.grid-head)').evaluateAll((rows) => rows.map((row) => [...row.children].slice(0, 3).map((cell) => cell.textContent.replaceAll('\u202f', '')).join(' ')))).slice(0, 12);
  await eventually(read, (rows) => JSON.stringify(rows) === JSON.stringify(expected));
}

describe('monitors', () => {
  test('lists them, drops one after asking, and tells when a view ends', () =>
    on('#/monitors', async (page, mock) => {
      await page.getByRole('link', { name: 'tool_failures' }).waitFor();
      await page.getByRole('button', { name: 'Drop guardrail_hits' }).click();
      await page.getByRole('dialog').getByRole('button', { name: 'Keep it' }).click();
      assert.ok(mock.live.views.has('guardrail_hits'));
      await page.getByRole('button', { name: 'Drop guardrail_hits' }).click();
      await page.getByRole('dialog').getByRole('button', { name: 'Drop the monitor' }).click();
      await page.getByRole('link', { name: 'guardrail_hits' }).waitFor({ state: 'detached' });
      await page.getByRole('link', { name: 'tool_failures' }).click();
      await page.getByText(/54\d rows/).waitFor();
      mock.live.drop('tool_failures');
      await page.getByText('the monitor was dropped').waitFor();
    }));

  test('100,000 rows: few elements, sorted and filtered in a moment, and it scrolls to the last', () =>
    on('#/monitors/tokens_by_user', async (page, mock) => {
      await page.getByText(/100.000 rows/).waitFor({ timeout: 15_000 });
      const rows = page.locator('.grid-row');
      assert.ok((await rows.count()) < 70, 'only what is seen is in the page');
      const begun = Date.now();
      await page.getByRole('button', { name: 'user_id' }).click();
      await page.getByRole('cell', { name: 'user-000000' }).waitFor();
      assert.ok(Date.now() - begun < 3000, `sorting took ${Date.now() - begun} ms`);
      await page.locator('.grid').evaluate((grid) => grid.scrollTo({ top: grid.scrollHeight }));
      await page.getByRole('cell', { name: 'user-099999' }).waitFor();
      await page.getByRole('searchbox', { name: 'Filter rows' }).fill('user-0421');
      await page.getByText(/100 of 100.000 rows/).waitFor();
      // While it changes four times a second, frames are drawn on time.
      const slowest = await page.evaluate(() => new Promise((resolve) => {
        const gaps = [];
        let last = performance.now();
        const end = last + 2500;
        const step = (now) => {
          gaps.push(now - last);
          last = now;
          if (now < end) requestAnimationFrame(step);
          else resolve(gaps.sort((left, right) => left - right)[Math.floor(gaps.length * 0.95)]);
        };
        requestAnimationFrame(step);
      }));
      assert.ok(slowest < 120, `95 % of the frames within ${slowest} ms`);
      await page.getByRole('searchbox', { name: 'Filter rows' }).fill('');
      await page.locator('.grid').evaluate((grid) => grid.scrollTo({ top: 0 }));
      await agree(page, mock, 'tokens_by_user');
    }, { mock: { rows: 100_000 } }));

  test('a changed cell glows and cools', () =>
    on('#/monitors/tokens_by_user', async (page, mock) => {
      await page.locator('.flare').first().waitFor();
      mock.pause();
      mock.resume('idle');
      await eventually(() => page.locator('.flare').count(), (count) => count === 0, 8000);
    }));

  test('a view without rows says so', () =>
    on('#/monitors/guardrail_hits', async (page) => {
      await page.getByText('No rows yet').waitFor();
    }));

  test('an unknown view is an error with its code and hint', () =>
    on('#/monitors/nope', async (page) => {
      const alert = page.getByRole('alert');
      await alert.getByText('there is no view "nope"').waitFor();
      await alert.getByText('PF-5013').waitFor();
      await alert.getByText(/there are: requests/i).waitFor();
    }));

  test('hostile text is text, int64 keeps its digits, and NaN and ∞ are shown', () =>
    on('#/monitors/hostile', async (page) => {
      await page.getByText('13 rows').waitFor();
      await page.getByRole('cell', { name: '<img src=x onerror=' }).waitFor();
      assert.equal(await page.locator('.grid img, .grid svg, .grid script').count(), 0);
      assert.equal(await page.getByText('9\u202f223\u202f372\u202f036\u202f854\u202f775\u202f807').count(), 13);
      await page.getByText('×3').waitFor();
      await page.getByText('NaN').waitFor();
    }));
});

describe('new monitor', () => {
  test('shows where a statement is wrong, explains it, creates it and watches it', () =>
    on('#/new', async (page) => {
      const editor = page.getByRole('textbox', { name: 'Statement of the monitor' });
      await editor.fill('CREATE MONITOR by_model\nAS SELECT model, count(*) AS requests\nFROM spans\nGROUP BY model ORDER BY model');
      await page.getByRole('button', { name: 'Explain' }).click();
      await page.getByRole('alert').getByText('Line 4, column 16:').waitFor();
      await page.getByText('PF-4012').waitFor();
      assert.equal(await page.locator('.editor-numbers .wrong').innerText(), '4');
      assert.equal(await editor.evaluate((area) => area.value.slice(area.selectionStart, area.selectionStart + 8)), 'ORDER BY');
      await page.keyboard.press('Shift+End');
      await page.keyboard.press('Delete');
      await page.getByRole('button', { name: 'Explain' }).click();
      await page.getByText('at most one row per model and minute').waitFor();
      await page.getByText('What runs').click();
      await page.getByText('one accumulator per model and minute').waitFor();
      await editor.focus();
      await page.keyboard.press('Control+Enter');
      await page.getByRole('link', { name: 'by_model' }).waitFor();
      await page.locator('.watched .grid-row:not(.grid-head)').first().waitFor();
      await page.getByRole('button', { name: /Create by_model/ }).click();
      await page.getByText('There is a monitor by_model already.').waitFor();
    }));

  test('keeps the draft over a reload, and takes an example', () =>
    on('#/new', async (page) => {
      const editor = page.getByRole('textbox', { name: 'Statement of the monitor' });
      await page.getByRole('button', { name: /Errors by kind/ }).click();
      assert.match(await editor.inputValue(), /errors_by_kind/);
      await page.reload();
      assert.match(await editor.inputValue(), /errors_by_kind/);
    }));
});

describe('traces', () => {
  test('filters live in the address and go to the server', () =>
    on('#/traces?service=support-agent', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      await page.getByLabel('Status').selectOption('error');
      await page.getByLabel('Name contains').fill('invoke');
      assert.match(page.url(), /status=error/);
      await eventually(async () => mock.control.requests.at(-1).url, (url) => /service=support-agent/.test(url) && /status=error/.test(url) && /q=invoke/.test(url));
      await page.getByLabel('Name contains').fill('nothing like it');
      await page.getByText('No trace fits these filters').waitFor();
      await page.getByRole('button', { name: 'Clear the filters' }).click();
      await page.locator('tbody tr').first().waitFor();
    }));

  test('older traces come on demand, each once', () =>
    on('#/traces', async (page, mock) => {
      await page.locator('tbody tr').nth(40).waitFor();
      mock.pause();
      await page.getByRole('button', { name: 'Older traces' }).click();
      await page.locator('tbody tr').nth(90).waitFor();
      const links = await page.locator('tbody th a').evaluateAll((all) => all.map((link) => link.href));
      assert.equal(new Set(links).size, links.length);
    }));

  test('new traces appear by themselves, first of all the first', () =>
    on('#/traces', async (page, mock) => {
      await page.getByText('No traces in the last hour').waitFor();
      mock.addFirstData();
      await page.getByRole('link', { name: 'invoke_agent support' }).waitFor({ timeout: 8000 });
    }, { mock: { scenario: 'empty' } }));

  test('an error of the store is shown with code and hint and goes away', () =>
    on('#/traces', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      mock.control.failTraces = true;
      await page.getByText('PF-5040').waitFor({ timeout: 8000 });
      mock.control.failTraces = false;
      await page.getByRole('button', { name: 'Try again' }).click();
      await page.getByText('PF-5040').waitFor({ state: 'detached' });
    }));

  test('a trace opens, is walked by keyboard, and its span is in the address', () =>
    on('#/traces?status=error', async (page) => {
      await page.getByRole('link', { name: 'invoke_agent support' }).first().click();
      await page.getByRole('treegrid').waitFor();
      assert.equal(await page.getByRole('treegrid').getByRole('row').count(), 13);
      await page.getByRole('button', { name: /errors: next/ }).click();
      await page.getByRole('complementary', { name: 'Selected span' }).waitFor();
      await page.getByRole('treegrid').focus();
      await page.keyboard.press('End');
      await page.getByRole('heading', { name: 'evaluate groundedness' }).waitFor();
      await page.keyboard.press('Home');
      await page.getByRole('heading', { name: 'invoke_agent support' }).nth(1).waitFor();
      await page.keyboard.press('ArrowLeft');
      assert.equal(await page.getByRole('treegrid').getByRole('row').count(), 2);
      await page.keyboard.press('ArrowRight');
      await page.keyboard.press('ArrowRight');
      await page.getByRole('heading', { name: 'guardrail prompt_injection' }).waitFor();
      await page.reload();
      await page.getByRole('heading', { name: 'guardrail prompt_injection' }).waitFor();
      await page.getByRole('row', { name: /execute_tool order_lookup/ }).click();
      await page.getByText('deadline exceeded after 600 ms').first().waitFor();
      await page.getByText('exception.type').waitFor();
      await page.getByRole('row', { name: /chat gpt-4o/ }).first().click();
      await page.getByText('You answer questions about orders.').waitFor();
    }));

  test('50,000 spans open within seconds with few elements, and are searched and zoomed', () =>
    on(`#/traces/${huge}`, async (page) => {
      const begun = Date.now();
      await page.getByRole('treegrid').waitFor();
      const took = Date.now() - begun;
      assert.ok(took < 6000, `opened in ${took} ms`);
      await page.getByText('50\u202f000').waitFor();
      assert.ok((await page.getByRole('row').count()) < 60);
      await page.getByRole('treegrid').focus();
      await page.keyboard.press('End');
      await eventually(() => page.getByRole('treegrid').evaluate((grid) => grid.scrollTop + grid.clientHeight - grid.scrollHeight), (left) => left > -2);
      await page.getByLabel('Find spans by name, service or class').fill('step 49999');
      await page.getByText('1 match').waitFor();
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: 'db step 49999' }).or(page.getByRole('heading', { name: /step 49999/ })).first().waitFor();
      await page.getByRole('button', { name: 'Zoom' }).click();
      await page.getByRole('button', { name: 'Whole trace' }).click();
      await page.getByRole('treegrid').focus();
      await page.keyboard.press('Home');
      await page.getByRole('treegrid').getByText('missing parent').first().waitFor();
    }, { mock: { spans: 50_000 } }));

  test('a hostile trace is shown whole and runs nothing', () =>
    on(`#/traces/${hostile}`, async (page) => {
      await page.getByRole('treegrid').waitFor();
      assert.equal(await page.getByRole('treegrid').getByRole('row').count(), 15);
      for (let row = 1; row < 15; row++) {
        await page.getByRole('treegrid').getByRole('row').nth(row).click();
        await page.getByRole('complementary', { name: 'Selected span' }).waitFor();
      }
      assert.equal(await page.locator('.detail img, .detail script, main iframe').count(), 0);
    }));

  test('an unknown trace is an error that says what may be the matter', () =>
    on('#/traces/0123', async (page) => {
      await page.getByText('There is no trace 0123.').waitFor();
      await page.getByText('PF-5004').waitFor();
    }));
});

describe('SQL', () => {
  test('runs, shows types and limits, remembers, and shows errors at their place', () =>
    on('#/sql', async (page, mock) => {
      const editor = page.getByRole('textbox', { name: 'Query' });
      await editor.fill('SELECT * FROM live.tokens_by_user');
      await page.getByLabel('At most').selectOption('100');
      await page.keyboard.press('Control+Enter');
      await page.getByRole('button', { name: 'Run' }).click();
      await page.getByText('cut at the limit').waitFor();
      assert.equal(await page.locator('.grid .grid-head [role=columnheader]').nth(1).getAttribute('title'), 'Int64');
      assert.equal(JSON.parse(mock.control.requests.findLast(({ url }) => url.startsWith('/api/v1/sql')).body).limit, 100);
      await editor.fill('SELECT *\nFROM live.nowhere');
      await page.getByRole('button', { name: 'Run' }).click();
      await page.getByText('Line 2, column 11:').waitFor();
      await page.getByLabel('Earlier queries').selectOption({ index: 2 });
      assert.equal(await editor.inputValue(), 'SELECT * FROM live.tokens_by_user');
      await page.getByRole('button', { name: 'Run' }).click();
      const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save as CSV' }).click()]);
      const lines = readFileSync(await download.path(), 'utf8').trim().split('\r\n');
      assert.equal(lines.length, 101);
      assert.equal(lines[0], 'user_id,requests,input_tokens,output_tokens,mean_ms,last_seen');
    }));

  test('a link fills the editor but runs nothing', () =>
    on('#/sql?query=DROP%20MONITOR%20tool_failures', async (page, mock) => {
      assert.equal(await page.getByRole('textbox', { name: 'Query' }).inputValue(), 'DROP MONITOR tool_failures');
      await new Promise((resolve) => setTimeout(resolve, 500));
      assert.ok(!mock.control.requests.some(({ body }) => body.includes('DROP')));
    }));
});

describe('everywhere', () => {
  const places = ['#/', '#/monitors', '#/monitors/tool_failures', '#/new', '#/traces', `#/traces/${hostile}?span=`, '#/sql', '#/system', '#/monitors/tool_failures?show=plan', '#/nowhere'];

  /** One page after the other, in one browser page: only the address changes. */
  const visit = async (page, path) => {
    await page.evaluate((hash) => { window.location.hash = hash; }, path);
    await page.getByRole('heading').first().waitFor();
  };

  test('no page has a serious accessibility fault, in light and in dark', () =>
    on('#/', async (page) => {
      await page.evaluate(axe);
      for (const path of places) {
        await page.emulateMedia({ colorScheme: 'light' });
        await visit(page, path);
        await new Promise((resolve) => setTimeout(resolve, 900));
        if (path.includes('span=')) await page.getByRole('treegrid').getByRole('row').nth(2).click();
        if (path === '#/new') {
          await page.getByRole('textbox', { name: 'Statement of the monitor' }).fill('SELECT ');
          await page.keyboard.press('Control+Space');
          await page.getByRole('option').nth(3).waitFor();
        }
        // What colours cannot change is looked at once.
        for (const [colorScheme, rules] of [['light', undefined], ['dark', ['color-contrast']]]) {
          await page.emulateMedia({ colorScheme });
          const found = await page.evaluate((runOnly) => window.axe.run({ resultTypes: ['violations'], ...(runOnly && { runOnly }) }), rules);
          const serious = found.violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
          assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(' | ')}`), [], `${path} ${colorScheme}`);
        }
      }
    }, { bypassCSP: true, mock: { minutes: 30 } }));

  test('the theme follows the system, can be chosen, and stays chosen', () =>
    on('#/', async (page) => {
      const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const dark = await ground();
      await page.getByRole('button', { name: 'Switch to light' }).click();
      assert.notEqual(await ground(), dark);
      await page.reload();
      await page.getByRole('button', { name: 'Switch to dark' }).waitFor();
      assert.notEqual(await ground(), dark);
    }, { colorScheme: 'dark' }));

  test('on a narrow screen nothing is wider than the screen', () =>
    on('#/', async (page) => {
      for (const path of places) {
        await visit(page, path);
        await new Promise((resolve) => setTimeout(resolve, 600));
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth && document.querySelector('main').scrollWidth <= window.innerWidth), path);
      }
    }, { viewport: { width: 380, height: 740 }, mock: { minutes: 30 } }));

  test('the project is sent with every request', () =>
    on('#/traces', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      assert.ok(mock.control.requests.length > 0);
      // Save the one that asks which projects there are.
      const others = mock.control.requests.filter(({ body }) => !body.includes('DISTINCT project'));
      assert.ok(others.every(({ headers }) => headers['x-pyflare-project'] === 'default'));
    }));

  test('another project is another page: requests and the socket name it, and it stays chosen', () =>
    on('#/', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      await page.getByLabel('Project').selectOption('blue');
      await eventually(async () => mock.control.sockets.at(-1).project, (project) => project === 'blue');
      await page.getByRole('link', { name: 'Traces' }).first().click();
      await eventually(async () => mock.control.requests.at(-1).headers['x-pyflare-project'], (project) => project === 'blue');
      await page.reload();
      assert.equal(await page.getByLabel('Project').inputValue(), 'blue');
    }));

  test('a server that is gone is said, not hidden', () =>
    on('#/traces', async (page, mock) => {
      await page.locator('tbody tr').first().waitFor();
      await page.route('**/api/**', (route) => route.abort());
      await page.getByRole('alert').getByText(/pyflare serve/).waitFor({ timeout: 8000 });
      assert.ok(mock.url);
    }));
});

describe('a server with keys', () => {
  const keys = { 'pf_key-of-project-acme': 'acme', 'pf_key-of-project-blue': 'blue' };

  test('asks for a key, says what is wrong with one, and opens with the right one', () =>
    on('#/', async (page, mock) => {
      await page.getByRole('heading', { name: 'This server asks for a key' }).waitFor();
      assert.equal(await page.getByRole('alert').count(), 0);
      await page.getByRole('textbox', { name: 'Key' }).fill('with spaces in it');
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByRole('alert').getByText('This is not a key').waitFor();
      await page.getByRole('textbox', { name: 'Key' }).fill('pf_somebody-else-s-key');
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByRole('alert').getByText('PF-1002').waitFor();
      await page.getByRole('textbox', { name: 'Key' }).fill('pf_key-of-project-acme');
      await page.keyboard.press('Enter');
      await page.getByText('Live', { exact: true }).waitFor();
      assert.equal(await page.getByLabel('Project').inputValue(), 'acme');
      // The key is in a header and among the subprotocols, never in an address.
      await page.reload();
      await page.getByText('Live', { exact: true }).waitFor();
      assert.equal(mock.control.sockets.at(-1).project, 'acme');
      assert.ok(mock.control.requests.every(({ url }) => !url.includes('pf_')));
      assert.equal(await page.evaluate(() => localStorage.length === 0 || !JSON.stringify(localStorage).includes('pf_')), true);
    }, { mock: { keys } }));

  test('a second key adds a project, a remembered one outlives the tab, a forgotten one is gone', () =>
    on('#/monitors', async (page, mock) => {
      const enter = async (key, remember) => {
        await page.getByRole('textbox', { name: 'Key' }).fill(key);
        if (remember) await page.getByRole('checkbox').check();
        await page.getByRole('button', { name: 'Open' }).click();
      };
      await enter('pf_key-of-project-acme', true);
      await page.getByRole('link', { name: 'requests' }).waitFor();
      await page.getByLabel('Project').selectOption({ label: 'Add a project…' });
      await enter('pf_key-of-project-blue', false);
      await page.getByRole('link', { name: 'requests' }).waitFor();
      assert.equal(await page.getByLabel('Project').inputValue(), 'blue');
      await page.getByLabel('Project').selectOption('acme');
      await eventually(async () => mock.control.requests.at(-1).headers['x-pyflare-key'], (key) => key === 'pf_key-of-project-acme');
      const other = await page.context().newPage();
      await other.goto(page.url());
      await other.getByRole('link', { name: 'requests' }).waitFor();
      assert.deepEqual(await other.getByLabel('Project').locator('> option').allInnerTexts(), ['acme']);
      await other.getByLabel('Project').selectOption({ label: 'Forget the key of acme' });
      await other.getByRole('heading', { name: 'This server asks for a key' }).waitFor();
      assert.ok(!(await other.evaluate(() => JSON.stringify(localStorage))).includes('pf_'));
    }, { mock: { keys } }));

  test('a key that is taken back makes the page ask again, and go on', () =>
    on('#/monitors/tokens_by_user', async (page, mock) => {
      await page.getByRole('textbox', { name: 'Key' }).fill('pf_key-of-project-acme');
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByText('Live', { exact: true }).waitFor();
      mock.control.keys.delete('pf_key-of-project-acme');
      mock.live.dropConnections();
      await page.getByRole('alert').getByText('PF-1002').waitFor({ timeout: 10_000 });
      await page.getByRole('textbox', { name: 'Key' }).fill('pf_key-of-project-blue');
      await page.getByRole('button', { name: 'Open' }).click();
      await page.getByText(/1.000 rows/).waitFor();
    }, { mock: { keys } }));
});
