// The tests look at `dist`: it is built again when something it is made of is newer.
import { execFileSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const sources = ['src', 'public', 'index.html', 'package-lock.json', 'vite.config.ts'];

function newest(path) {
  const about = statSync(path);
  return about.isDirectory() ? Math.max(0, ...readdirSync(path).map((name) => newest(join(path, name)))) : about.mtimeMs;
}

export function ensureBuilt() {
  const made = statSync(join(root, 'dist/index.html'), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (sources.some((name) => newest(join(root, name)) > made)) execFileSync('npm', ['run', 'build'], { cwd: root, stdio: 'inherit' });
}
