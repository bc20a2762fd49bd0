// Chromium for the end-to-end tests: the machine's own, headless, with an empty profile.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const executablePath = process.env.PYFLARE_CHROMIUM ?? '/usr/bin/chromium';
const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export function launch() {
  return chromium.launch({ executablePath, args: quiet });
}

/**
 * A page whose own faults fail the test: exceptions, and messages of the console that no answer of the server
 * explains (a refused request is logged by the browser, as it should be).
 */
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(`exception: ${error.message}`));
  page.on('console', (message) => {
    if ((message.type() === 'error' || message.type() === 'warning') && !/Failed to load resource|WebSocket connection/.test(message.text())) faults.push(`console: ${message.text()}`);
  });
  await page.goto(url);
  return {
    page,
    async close() {
      assert.equal(await page.evaluate(() => window.__broken), undefined, 'text from outside was run as a script');
      await context.close();
      assert.deepEqual(faults, []);
    },
  };
}
