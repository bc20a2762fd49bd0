// Makes the pictures of the README: a real server with demo traffic, light and dark.
//
//   PYFLARE_BINARY=…/pyflare npm run pictures -- --minutes 16     starts a server and sends traffic that long
//   PYFLARE_URL=http://127.0.0.1:4319 npm run pictures            takes one that has traffic already
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { launch } from './e2e/browser.mjs';
import { Pyflare } from './e2e/pyflare.mjs';

const target = new URL('../../docs/src/images/', import.meta.url);
const largest = 300_000;
const at = process.argv.indexOf('--minutes');
const minutes = at === -1 ? 16 : Number(process.argv[at + 1]);
const binary = process.env.PYFLARE_BINARY;
const given = process.env.PYFLARE_URL?.replace(/\/$/, '');
if (given === undefined && binary === undefined) {
  console.error('Set PYFLARE_BINARY to the server to start, or PYFLARE_URL to one that runs with traffic.');
  process.exit(2);
}

const own = given === undefined ? await Pyflare.start(binary) : null;
const url = given ?? own.url;
/** Goes on while the pictures are taken, so that they show a page that is alive. */
const traffic = own?.demo(minutes * 60 + 40, ['--rate', '60']);
const browser = await launch();

async function get(path) {
  const response = await fetch(`${url}/api/v1/${path}`);
  if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
  return response.json();
}

/** A trace worth looking at: many spans, one failure, and a span with a conversation in it. */
async function goodTrace() {
  const { items } = await get('traces?status=error&min_duration_ms=2000&limit=100');
  const failed = items.length > 0 ? items : (await get('traces?limit=100')).items;
  const most = failed.toSorted((left, right) => right.span_count - left.span_count)[0];
  if (most === undefined) throw new Error('the server has no traces of the last hour');
  const { spans } = await get(`traces/${most.trace_id}`);
  const spoken = spans.find((span) => span.span_class === 'llm' && span.output) ?? spans[0];
  return `#/traces/${most.trace_id}?span=${spoken.span_id}`;
}

try {
  if (own !== null) await new Promise((resolve) => setTimeout(resolve, minutes * 60_000));
  await mkdir(target, { recursive: true });
  const pages = { overview: ['#/', 850], trace: [await goodTrace(), 640], monitor: ['#/monitors/requests', 560] };
  // In the middle of a minute, when its bar is neither missing nor whole.
  await new Promise((resolve) => setTimeout(resolve, (90_000 - (Date.now() % 60_000)) % 60_000));
  for (const colorScheme of ['light', 'dark']) {
    const context = await browser.newContext({ colorScheme, viewport: { width: 1360, height: 850 }, deviceScaleFactor: 1.5 });
    for (const [name, [path, height]] of Object.entries(pages)) {
      const page = await context.newPage();
      await page.goto(`${url}/${path}`);
      await page.locator('tbody tr, [role=treegrid] [role=row], .grid-row').nth(4).waitFor();
      await page.waitForTimeout(2500);
      const file = fileURLToPath(new URL(`${name}-${colorScheme}.png`, target));
      await writeFile(file, await page.screenshot({ type: 'png', clip: { x: 0, y: 0, width: 1360, height } }));
      await page.close();
      const { size } = await stat(file);
      console.log(`${file}: ${Math.round(size / 1000)} kB`);
      if (size > largest) throw new Error(`${name}-${colorScheme}.png has ${size} bytes, more than ${largest}`);
    }
    await context.close();
  }
} finally {
  await browser.close();
  await own?.remove();
  await traffic?.catch(() => undefined);
}
