import { defineConfig } from 'vitest/config';

const server = process.env['PYFLARE_URL'] ?? 'http://127.0.0.1:4319';

export default defineConfig({
  base: './',
  server: {
    host: '127.0.0.1',
    port: 5173,
    proxy: { '/api': { target: server, ws: true } },
  },
  build: {
    target: 'es2022',
    outDir: 'dist',
    // The binary sends a strict content policy, which refuses data: fonts.
    assetsInlineLimit: 0,
    license: { fileName: 'licenses.md' },
  },
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
