// A PyFlare server for tests: on free loopback ports over a folder of its own, started, killed, started again there.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const startSeconds = 60;

export class Pyflare {
  #binary;
  #directory;
  #arguments;
  #environment;
  #process = null;
  #log = '';
  /** Where it listens, kept from start to start. */
  endpoints = null;

  static async start(binary, { args = [], environment = {} } = {}) {
    const server = new Pyflare(binary, await mkdtemp(join(tmpdir(), 'pyflare-ui-')), args, environment);
    await server.start();
    return server;
  }

  constructor(binary, directory, args, environment) {
    this.#binary = binary;
    this.#directory = directory;
    this.#arguments = args;
    this.#environment = environment;
  }

  get url() {
    return `http://${this.endpoints.api}`;
  }

  get otlp() {
    return `http://${this.endpoints.otlp_http}`;
  }

  async start() {
    const data = join(this.#directory, 'data');
    const listen = ['otlp_grpc', 'otlp_http', 'api'].flatMap((name) => [`--listen-${name.replace('_', '-')}`, this.endpoints?.[name] ?? '127.0.0.1:0']);
    const child = spawn(this.#binary, ['serve', '--data-dir', data, ...listen, ...this.#arguments], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...this.#environment } });
    this.#process = child;
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (this.#log = (this.#log + chunk).slice(-20_000)));
    for (const end = Date.now() + startSeconds * 1000; ; ) {
      if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}:\n${this.#log}`);
      if (Date.now() > end) throw new Error(`the server is not ready after ${startSeconds} s:\n${this.#log}`);
      // A file of an earlier process is known by its pid.
      const said = await readFile(join(data, 'endpoints.json'), 'utf8').then(JSON.parse).catch(() => null);
      if (said?.pid === child.pid) {
        this.endpoints = said;
        if (await fetch(`${this.url}/readyz`).then(({ ok }) => ok, () => false)) return;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Traffic of `pyflare demo` for some seconds; answers when all of it is sent. */
  demo(seconds, args = []) {
    return new Promise((resolve, reject) => {
      const child = spawn(this.#binary, ['demo', '--endpoint', this.otlp, '--seconds', String(seconds), '--seed', '7', ...args], { stdio: 'ignore' });
      child.on('error', reject);
      child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`pyflare demo ended with ${code}`))));
    });
  }

  /** `SIGKILL` gives it no time for anything. */
  async stop(signal = 'SIGTERM') {
    const child = this.#process;
    this.#process = null;
    if (child === null || child.exitCode !== null) return;
    const gone = new Promise((resolve) => child.on('exit', resolve));
    child.kill(signal);
    await gone;
  }

  /** Ends it and removes what it kept. */
  async remove() {
    await this.stop('SIGKILL');
    await rm(this.#directory, { recursive: true, force: true });
  }
}
