// What the tests against the mock have in common.
import assert from 'node:assert/strict';
import { startMock } from '../mock-server.mjs';
import { openPage } from './browser.mjs';

/** Runs a test on a page of a mock of its own. */
export async function onMock(browser, path, run, { mock: options = {}, before, ...context } = {}) {
  const mock = await startMock({ spans: 0, rows: 1000, ...options });
  try {
    before?.(mock);
    const opened = await openPage(browser, `${mock.url}/${path}`, context);
    await run(opened.page, mock);
    await opened.close();
  } finally {
    await mock.close();
  }
}

export async function eventually(read, holds, within = 5000) {
  const end = Date.now() + within;
  for (;;) {
    const value = await read();
    if (holds(value)) return value;
    assert.ok(Date.now() < end, `still ${JSON.stringify(value)} after ${within} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
