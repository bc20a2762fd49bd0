// Writing monitors with suggestions, their plans and figures, and the system page, in a real browser against the mock.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch } from './browser.mjs';
import { ensureBuilt } from './built.mjs';
import { eventually, onMock } from './on-mock.mjs';

let browser;
before(async () => {
  ensureBuilt();
  browser = await launch();
});
after(() => browser.close());

/** Little traffic is enough here. */
const on = (path, run, options = {}) => onMock(browser, path, run, { ...options, mock: { minutes: 10, recent: 3, ...options.mock } });
/** Once the page lists columns or relations, it knows what the server has. */
const catalogue = (page) => page.locator('.column-list code, .relations li').first().waitFor();

describe('suggestions', () => {
  test('by keyboard: what fits the place, chosen with arrows, taken with Enter and Tab, undone as one step', () =>
    on('#/new', async (page) => {
      await catalogue(page);
      const editor = page.getByRole('textbox', { name: 'Statement of the monitor' });
      const list = page.getByRole('listbox', { name: 'Suggestions' });
      const chosen = list.getByRole('option', { selected: true });
      await editor.fill('');
      await editor.focus();
      // After FROM they are shown and none is chosen: Enter is still a new line.
      await page.keyboard.type('SELECT user_id FROM ');
      await list.waitFor();
      assert.equal(await chosen.count(), 0);
      await page.keyboard.type('TU');
      assert.match(await chosen.innerText(), /TUMBLE/);
      await page.keyboard.press('Tab');
      assert.equal(await editor.inputValue(), "SELECT user_id FROM TUMBLE(spans, event_time, INTERVAL '1 minute')");
      await eventually(() => editor.evaluate((area) => area.value.slice(area.selectionStart, area.selectionEnd)), (text) => text === 'spans');
      await page.keyboard.press('Control+z');
      assert.equal(await editor.inputValue(), 'SELECT user_id FROM TU');
      await editor.fill('SELECT a. FROM spans AS a');
      await editor.evaluate((area) => area.setSelectionRange(9, 9));
      await page.keyboard.press('Control+Space');
      assert.match(await chosen.innerText(), /project/);
      assert.equal(await editor.getAttribute('aria-activedescendant'), await chosen.getAttribute('id'));
      await page.keyboard.press('ArrowDown');
      await page.keyboard.press('ArrowUp');
      await page.keyboard.press('ArrowUp');
      assert.match(await chosen.innerText(), /_mark/);
      await page.keyboard.press('Escape');
      assert.equal(await list.count(), 0);
      await page.keyboard.type('dur');
      await page.keyboard.press('Enter');
      assert.equal(await editor.inputValue(), 'SELECT a.duration_ns FROM spans AS a');
      // With nothing offered the keys are the text area's own.
      await page.keyboard.press('End');
      await page.keyboard.press('Enter');
      assert.match(await editor.inputValue(), /\n$/);
      await page.keyboard.press('Tab');
      assert.equal(await editor.evaluate((area) => document.activeElement === area), false);
    }));

  test('on the SQL page: schemas, views that are quoted, a click', () =>
    on('#/sql', async (page) => {
      await catalogue(page);
      const editor = page.getByRole('textbox', { name: 'Query' });
      await editor.fill('');
      await editor.focus();
      await page.keyboard.type('SELECT * FROM live.tool_failures$');
      await page.getByRole('option', { name: /tool_failures\$late/ }).click();
      assert.equal(await editor.inputValue(), 'SELECT * FROM live."tool_failures$late"');
      await page.keyboard.type(' WHERE la');
      await page.getByRole('option', { name: /late_rows/ }).waitFor();
      await page.keyboard.press('Control+Enter');
      assert.equal(await page.getByRole('listbox').count(), 0);
    }));
});

describe('a wrong statement', () => {
  test('is marked at its place, says what was meant, and one press changes it', () =>
    on('#/new', async (page) => {
      await catalogue(page);
      const editor = page.getByRole('textbox', { name: 'Statement of the monitor' });
      await editor.fill('CREATE MONITOR m AS\nSELECT usr_id FROM spns');
      const explain = page.getByRole('button', { name: 'Explain' });
      await explain.click();
      await page.getByRole('alert').getByText('Line 2, column 8:').waitFor();
      const [mark, text] = [await page.locator('.editor-mark').boundingBox(), await page.locator('.editor-text').boundingBox()];
      assert.ok(Math.abs(mark.width / 6 - 7.8) < 0.3, `the mark is ${mark.width} wide`);
      assert.ok(mark.x - text.x > 40 && mark.y > text.y + 15);
      assert.equal(await editor.getAttribute('aria-describedby'), 'monitor-problem');
      // The list of all fields is there, but not in the way.
      assert.equal(await page.getByText('Valid fields are').isVisible(), false);
      await page.getByRole('button', { name: 'Use user_id' }).click();
      assert.match(await editor.inputValue(), /SELECT user_id FROM spns/);
      await explain.click();
      await page.getByRole('alert').getByText('Line 2, column 21:').waitFor();
      await page.getByRole('button', { name: 'Use spans' }).click();
      await explain.click();
      await page.getByRole('heading', { name: 'How it is kept' }).waitFor();
    }));
});

describe('plans', () => {
  const explain = async (page, sql) => {
    await page.getByRole('textbox', { name: 'Statement of the monitor' }).fill(sql);
    await page.getByRole('button', { name: 'Explain' }).click();
    await page.getByRole('region', { name: 'Graph of the plan' }).waitFor();
  };

  test('are graphs of 1 to 60 nodes in the order of the text, with lines between them, details by keyboard, the text to copy', () =>
    on('#/new', async (page) => {
      await explain(page, 'CREATE MONITOR m AS SELECT 1 FROM a JOIN b ON true');
      const nodes = page.locator('.plan-nodes li');
      assert.equal(await nodes.count(), 14);
      assert.equal(await page.locator('.plan-edge').count(), 13);
      assert.match(await nodes.nth(1).innerText(), /Top\s*by aggregate_1_2; 10 rows/);
      assert.match(await nodes.nth(2).textContent(), /reads Join and Project/);
      // What is read stands above what reads it.
      const tops = await nodes.evaluateAll((all) => all.map((one) => one.offsetTop));
      assert.ok(tops[0] > tops[1] && tops[1] > tops[2] && tops[2] > tops[3]);
      await nodes.nth(5).getByRole('button').focus();
      await page.keyboard.press('Enter');
      const details = page.getByRole('region', { name: 'Chosen operator' });
      await details.getByText('by user_id; count(*) AS aggregate_1').waitFor();
      await details.getByRole('link', { name: 'tool_failures' }).waitFor();
      await page.getByText('Plan as text').click();
      assert.match(await page.locator('.plan details pre').first().innerText(), /^Project: user_id[^]*View: tool_failures/);
      // 60 nodes do not cover one another, and scroll within their box.
      await explain(page, 'CREATE MONITOR m AS SELECT 1 FROM spans -- plan of 60');
      const boxes = await page.locator('.plan-node').evaluateAll((all) => all.map((one) => one.getBoundingClientRect()).map(({ left, top, right, bottom }) => ({ left, top, right, bottom })));
      assert.equal(boxes.length, 60);
      for (const [at, one] of boxes.entries()) for (const other of boxes.slice(at + 1)) assert.ok(one.right <= other.left + 1 || other.right <= one.left + 1 || one.bottom <= other.top + 1 || other.bottom <= one.top + 1);
      const region = page.getByRole('region', { name: 'Graph of the plan' });
      await region.focus();
      await page.keyboard.press('End');
      await eventually(() => region.evaluate((box) => box.scrollTop + box.scrollLeft), (at) => at > 0);
      assert.ok(await page.evaluate(() => document.querySelector('main').scrollWidth <= window.innerWidth));
    }));

  test('of a monitor that runs show what its operators do, again and again', () =>
    on('#/monitors/many_rows', async (page, mock) => {
      await page.getByRole('button', { name: 'Plan' }).click();
      assert.match(page.url(), /show=plan/);
      const out = async () => (await page.locator('.plan-node').nth(3).textContent()).replaceAll('\u202f', ' ');
      const first = await eventually(out, (text) => /busy 32 %; [\d.]+k out · keeps 3.6k kept/.test(text));
      await eventually(out, (text) => text !== first, 6000);
      // The more time, the warmer.
      const heat = (at) => page.locator('.plan-node').nth(at).evaluate((one) => getComputedStyle(one).backgroundColor);
      assert.notEqual(await heat(3), await heat(0));
      assert.ok(mock.control.requests.some(({ url }) => url === '/api/v1/monitors/many_rows/explain?analyze=true'));
    }));
});

describe('one monitor', () => {
  test('says why it stopped and what to do, who reads it, and shows its result as chart or table', () =>
    on('#/monitors', async (page) => {
      await page.getByText(/PF-3013: the view has more than 5000000 rows/).waitFor();
      await page.getByRole('link', { name: 'many_rows' }).click();
      const alert = page.getByRole('alert');
      await alert.getByText('This monitor has stopped.').waitFor();
      await alert.getByText('PF-3013').waitFor();
      assert.equal(await page.locator('.grid').count(), 0);
      await page.getByText('Reads').waitFor();
      await page.getByRole('button', { name: 'Change it and create it again' }).click();
      await page.getByRole('heading', { name: 'New monitor' }).waitFor();
      assert.match(await page.getByRole('textbox', { name: 'Statement of the monitor' }).inputValue(), /^CREATE OR REPLACE MONITOR many_rows AS/);
      // Another one shows who reads it, and its result as chart, table or both.
      await page.getByRole('link', { name: 'Monitors', exact: true }).click();
      await page.getByRole('link', { name: 'tokens_by_user' }).click();
      await page.getByRole('link', { name: 'many_rows' }).waitFor();
      await page.locator('.grid').waitFor();
      assert.equal(await page.getByRole('region', { name: 'Chart' }).count(), 0);
      await page.getByRole('button', { name: 'Chart', exact: true }).click();
      const bars = page.locator('.rank-bars li');
      assert.equal(await bars.count(), 15);
      assert.equal(await page.locator('.grid').count(), 0);
      const first = await bars.first().innerText();
      await page.getByLabel('Column drawn').selectOption('mean_ms');
      await eventually(() => bars.first().innerText(), (text) => text !== first && / s|ms/.test(text));
      await page.getByRole('link', { name: 'Monitors', exact: true }).first().click();
      await page.getByRole('link', { name: 'tool_failures' }).click();
      await page.getByRole('region', { name: 'Chart' }).waitFor();
      await page.getByRole('button', { name: 'Table', exact: true }).click();
      assert.equal(await page.getByRole('region', { name: 'Chart' }).count(), 0);
    }));
});

describe('system', () => {
  test('1,000 monitors: health, few elements, sorted by any column, narrowed by a text', () =>
    on('#/system', async (page) => {
      await page.getByText(/1.009 monitors/).waitFor();
      const health = page.getByRole('region', { name: 'Health' });
      assert.match(await health.innerText(), /Healthy[^]*997[^]*12 stopped/);
      await eventually(() => health.innerText(), (text) => /Rows a second\s+[\d.]+k?/.test(text));
      const rows = page.getByRole('table', { name: 'Monitors by cost' }).locator('.grid-row:not(.grid-head)');
      assert.ok((await rows.count()) < 60);
      const share = async () => parseFloat((await rows.first().locator('.share-cell').innerText()).replace('<', ''));
      const most = await share();
      await page.getByRole('button', { name: /Busy share/ }).click();
      await eventually(share, (value) => value < most);
      await page.getByRole('button', { name: 'Monitor', exact: true }).click();
      await eventually(() => rows.first().innerText(), (text) => text.startsWith('errors'));
      await page.getByRole('searchbox', { name: /Filter/ }).fill('monitor_0999');
      await page.getByText(/1 of 1.009 monitors/).waitFor();
      await page.getByRole('link', { name: 'monitor_0999' }).waitFor();
    }, { mock: { many: 1000 } }));

  test('arrangements with who shares them, operators, streams, and what was left out', () =>
    on('#/system?show=arrangements', async (page, mock) => {
      await page.getByText('4 views').waitFor();
      await page.getByText(/2 are shared: [\d.]+ MB less/).waitFor();
      await page.getByRole('button', { name: 'Streams' }).click();
      await page.getByRole('cell', { name: 'metrics' }).waitFor();
      await eventually(() => page.getByRole('row', { name: /spans/ }).innerText(), (text) => /\n(89\d|90\d|91\d)\n/.test(text), 8000);
      await page.getByRole('button', { name: 'Operators' }).click();
      await page.getByText('27 operators').waitFor();
      await page.getByRole('button', { name: 'Left out' }).click();
      await page.getByText('No row came too late.').waitFor();
      assert.match(page.url(), /show=left-out/);
      // Only what is shown is asked for.
      const asked = (name) => mock.control.requests.filter(({ body }) => body.includes(`pyflare_internal.${name}`)).length;
      const before = asked('arrangements');
      await eventually(async () => asked('errors'), (count) => count > 1);
      assert.equal(asked('arrangements'), before);
    }));

  test('nothing yet, and a server that tells neither figures nor relations', async () => {
    await on('#/system', async (page) => {
      await page.getByText('No monitor is installed.').waitFor();
    }, { mock: { scenario: 'empty' } });
    await on('#/system', async (page) => {
      await page.getByRole('heading', { name: 'Not available on this server' }).waitFor();
      await page.getByText('Healthy').waitFor();
      await page.evaluate(() => { window.location.hash = '#/monitors/tool_failures?show=plan'; });
      await page.getByText('the figures of its operators are not available').waitFor();
      assert.equal(await page.locator('.plan-node').count(), 4);
      assert.equal(await page.getByRole('alert').count(), 0);
    }, { before: (mock) => { mock.control.withoutInternals = true; } });
  });
});
