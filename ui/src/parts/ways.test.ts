import { describe, expect, it } from 'vitest';
import { targetOf, ways } from './ways.ts';

const said = { otlpHttp: '127.0.0.1:4318', otlpGrpc: '127.0.0.1:4317', keyed: false, project: 'default' };

describe('how to send data', () => {
  it('names the addresses that the server says', () => {
    const { environment, curl, demo } = ways(targetOf({ ...said, otlpHttp: '127.0.0.1:9001', otlpGrpc: '127.0.0.1:9002' }, 'localhost'));
    expect(environment.text).toContain('OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9001\n');
    expect(environment.note).toMatch(/9001.*9002/);
    expect(curl.text).toContain('curl http://127.0.0.1:9001/v1/traces -H');
    expect(demo.text).toBe('pyflare demo --endpoint http://127.0.0.1:9001');
    expect(ways(targetOf(said, 'localhost')).demo.text).toBe('pyflare demo');
  });

  it('uses the page’s host where the server listens on every address', () => {
    expect(targetOf({ ...said, otlpHttp: '0.0.0.0:4318' }, 'box.lan').http).toBe('http://box.lan:4318');
    expect(targetOf({ ...said, otlpHttp: '[::]:4318' }, 'box.lan').http).toBe('http://box.lan:4318');
    expect(targetOf({ ...said, otlpHttp: null }, 'box.lan').http).toBe('http://127.0.0.1:4318');
  });

  it('says the project, by key or by name, and lets no name out of its quotes', () => {
    const keyed = ways(targetOf({ ...said, keyed: true, project: 'acme' }, 'localhost'));
    expect(keyed.environment.text).toContain("OTEL_EXPORTER_OTLP_HEADERS='x-pyflare-key=pf_…'");
    expect(keyed.demo.text).toContain('--key');
    const named = ways(targetOf({ ...said, project: "a'; rm -rf $HOME" }, 'localhost'));
    expect(named.demo.text).toBe("pyflare demo --project 'a'\\''; rm -rf $HOME'");
    expect(named.python.text).toContain('headers={"x-pyflare-project": "a\'; rm -rf $HOME"}');
  });
});
