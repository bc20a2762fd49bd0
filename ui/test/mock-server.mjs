// A server that speaks PyFlare's REST and WebSocket contract over generated data, for developing and testing the UI.
//
//   node test/mock-server.mjs [--port 4319] [--scenario demo|empty|slow] [--rows 100000] [--many 0]
//
// With a built `dist` it serves the UI as well. Tests import `startMock` and reach into `mock.live` and `mock.control`.
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { agentTrace, groups, hostile, hostileTrace, hugeTrace, iso, minute, seeded, Traffic, traceItem } from './mock-data.mjs';
import { analysis, fields, internal, joinPlan, largePlan, nodesOf } from './mock-engine.mjs';
import { MockLive, MockView } from './mock-live.mjs';

const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const contentTypes = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2', '.md': 'text/markdown', '.txt': 'text/plain' };
// The policy that the real server sends.
const policy = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'";

const text = 'Utf8';
const time = 'Timestamp(µs, UTC)';
const columns = (...list) => list.map(([name, type, key = false]) => ({ name, type, key }));
const windowed = [['project', text, true], ['service_name', text, true], ['model', text, true], ['window_start', time, true], ['window_end', time, true]];
const builtin = {
  requests: columns(...windowed, ['requests', 'Int64']),
  errors: columns(...windowed, ['errors', 'Int64'], ['requests', 'Int64'], ['error_rate', 'Float64']),
  latency: columns(...windowed, ['p50_ms', 'Float64'], ['p90_ms', 'Float64'], ['p95_ms', 'Float64'], ['p99_ms', 'Float64'], ['avg_ms', 'Float64']),
  tokens: columns(...windowed, ['input_tokens', 'Int64'], ['output_tokens', 'Int64'], ['cache_read_tokens', 'Int64'], ['cache_write_tokens', 'Int64'], ['reasoning_tokens', 'Int64']),
};

class Refusal extends Error {
  constructor(status, code, detail, more = {}) {
    super(detail);
    this.status = status;
    this.body = { type: `https://pyflare.dev/errors/${code}`, title: 'Refused', status, detail, code, ...more };
  }
}

function positionOf(sql, index) {
  const before = sql.slice(0, index).split('\n');
  return { line: before.length, column: before.at(-1).length + 1 };
}

export async function startMock(options = {}) {
  const { port = 0, scenario = 'demo', rows = 100_000, tickMillis = 250, spans = 50_000, many = 0, minutes = 6 * 60, recent = 300 } = options;
  const empty = scenario === 'empty';
  const started = Date.now();
  const live = new MockLive();
  const control = { ready: scenario !== 'slow', delay: 0, failTraces: false, withoutInternals: false, requests: [], sockets: [], keys: new Map(Object.entries(options.keys ?? {})) };
  const monitors = new Map();
  const random = seeded(99);
  const traffic = new Traffic(42, started);
  const traces = [];
  let addedTraces = 0;

  const addMonitor = (name, sql, viewColumns, more = {}) => {
    const view = new MockView(name, viewColumns);
    live.views.set(name, view);
    monitors.set(name, { name, sql, description: null, builtin: false, state: 'live', start: new Date().toISOString(), retention: '24 hours', lateness: '10 seconds', late_rows: 0, errors: 0, project: more.builtin ? null : 'default', ...more, view, columns: viewColumns });
    return view;
  };
  for (const [name, viewColumns] of Object.entries(builtin)) {
    addMonitor(name, `CREATE MONITOR ${name} AS\nSELECT project, service_name, model, window_start, window_end, …\nFROM TUMBLE(spans, event_time, INTERVAL '1 minute')\nGROUP BY project, service_name, model, window_start, window_end`, viewColumns, { builtin: true, description: `${name} by project, service, model and minute`, start: iso(0) });
  }

  const shown = new Map();
  const refresh = (start, index) => {
    const now = traffic.rows(start, index, 'default');
    const key = `${start}/${index}`;
    const before = shown.get(key);
    for (const name of Object.keys(builtin)) {
      if (before?.[name]) monitors.get(name).view.change(before[name], -1);
      if (now?.[name]) monitors.get(name).view.change(now[name], 1);
    }
    shown.set(key, now);
  };

  let users;
  if (!empty) {
    for (let start = Math.floor(started / minute) * minute - minutes * minute; start < started - minute; start += minute) {
      for (const index of groups.keys()) if (traffic.add(start, index, 1)) refresh(start, index);
    }
    const opened = Math.floor(started / minute) * minute;
    for (const index of groups.keys()) if (traffic.add(started, index, (started - opened) / minute)) refresh(opened, index);

    const userView = addMonitor('tokens_by_user', "CREATE MONITOR tokens_by_user WITH (retention = '24 hours') AS\nSELECT user_id, count(*) AS requests, sum(input_tokens) AS input_tokens,\n       sum(output_tokens) AS output_tokens, avg(duration_ns / 1e6) AS mean_ms, max(event_time) AS last_seen\nFROM spans\nWHERE span_class = 'llm'\nGROUP BY user_id", columns(['user_id', text, true], ['requests', 'Int64'], ['input_tokens', 'Int64'], ['output_tokens', 'Int64'], ['mean_ms', 'Float64'], ['last_seen', time]), { description: 'Who uses how many tokens' });
    users = Array.from({ length: rows }, (_, index) => {
      const requests = 1 + Math.floor(random() ** 6 * 900);
      return [`user-${String(index).padStart(6, '0')}`, String(requests), String(requests * (400 + Math.floor(random() * 900))), String(requests * Math.floor(60 + random() * 300)), Math.round((300 + random() * 2400) * 1000) / 1000, iso(started - Math.floor(random() * 86_400_000))];
    });
    for (const row of users) userView.change(row, 1);

    const minutesView = addMonitor('tool_failures', "CREATE MONITOR tool_failures AS\nSELECT window_start, window_end, tool_name, count(*) AS calls,\n       count(*) FILTER (WHERE status = 'error') AS failures\nFROM TUMBLE(spans, event_time, INTERVAL '1 minute')\nWHERE span_class = 'tool'\nGROUP BY window_start, window_end, tool_name", columns(['window_start', time, true], ['window_end', time, true], ['tool_name', text, true], ['calls', 'Int64'], ['failures', 'Int64']), { description: 'Calls and failures of every tool' });
    for (let start = Math.floor(started / minute) * minute - 180 * minute; start < started; start += minute) {
      for (const [index, tool] of ['order_lookup', 'web_search', 'calculator'].entries()) {
        minutesView.change([iso(start), iso(start + minute), tool, String(20 + Math.floor(random() * 30 * (index + 1))), String(Math.floor(random() * 4))], 1);
      }
    }
    const hostileView = addMonitor('hostile', `CREATE MONITOR hostile AS SELECT name AS "${hostile[0]}", count(*) AS n FROM spans GROUP BY name`, columns([hostile[0], text, true], ['n', 'Int64'], ['ratio', 'Float64'], ['big', 'Int64']), { description: hostile[1] });
    for (const [index, value] of hostile.entries()) hostileView.change([value, String(index), index === 3 ? 'NaN' : index === 4 ? '∞' : index / 7, '9223372036854775807'], index === 2 ? 3 : 1);
    addMonitor('many_rows', "CREATE MONITOR many_rows AS SELECT a.user_id, b.name FROM spans AS a JOIN live.tokens_by_user AS t ON a.user_id = t.user_id JOIN spans AS b ON a.kind = b.kind", columns(['user_id', text], ['name', text]), { state: 'stopped', reason: 'PF-3013: the view has more than 5000000 rows; raise max_rows, or join on columns with more values' });
    addMonitor('guardrail_hits', "CREATE MONITOR guardrail_hits AS SELECT name, count(*) AS hits FROM spans WHERE span_class = 'guardrail' GROUP BY name", columns(['name', text, true], ['hits', 'Int64']));

    for (let index = 0; index < recent; index++) traces.push(agentTrace(index + 1, started - index * 11_000 - Math.floor(random() * 4000)));
    traces.splice(3, 0, hostileTrace(started - 30_000));
    if (spans > 0) traces.splice(5, 0, hugeTrace(spans, started - 61_000));
  }

  let idle = false;
  const tick = () => {
    const now = Date.now();
    if (!empty && !idle) {
      const opened = Math.floor(now / minute) * minute;
      for (const index of groups.keys()) if (traffic.add(now, index, tickMillis / minute)) refresh(opened, index);
      const userView = live.views.get('tokens_by_user');
      for (let step = 0; userView && users.length > 0 && step < 12; step++) {
        const at = Math.floor(random() ** 3 * users.length);
        const old = users[at];
        const next = [old[0], String(Number(old[1]) + 1), String(Number(old[2]) + 700), String(Number(old[3]) + 120), old[4], iso(now)];
        userView.change(old, -1);
        userView.change(next, 1);
        users[at] = next;
      }
      for (const { grow } of monitors.values()) grow?.(now);
      if (random() < 0.2) {
        traces.unshift(agentTrace(1000 + addedTraces++, now - 3000));
        if (traces.length > 600) traces.pop();
      }
    }
    for (const { view } of monitors.values()) live.publish(view, now);
  };
  tick();
  let timer = setInterval(tick, tickMillis);

  const describe = (monitor) => Object.fromEntries(Object.entries({ ...monitor, companions: [`${monitor.name}$late`, `${monitor.name}$errors`], rows: monitor.view.rows.size }).filter(([field]) => field !== 'view' && field !== 'grow'));

  const createMonitor = (sql) => {
    const found = /^\s*CREATE\s+(?:OR\s+REPLACE\s+)?MONITOR\s+(?:IF\s+NOT\s+EXISTS\s+)?"?([\w.-]+)"?/i.exec(sql);
    if (!found) throw new Refusal(400, 'PF-4001', 'Expected CREATE MONITOR.', { hint: 'A monitor is written CREATE MONITOR name AS SELECT …', position: positionOf(sql, sql.search(/\S|$/)) });
    const order = /\bORDER\s+BY\b/i.exec(sql);
    if (order) throw new Refusal(400, 'PF-4012', 'ORDER BY cannot be maintained in a monitor.', { hint: 'Leave it out: whoever reads the view sorts it.', position: positionOf(sql, order.index) });
    if (monitors.has(found[1])) throw new Refusal(409, 'PF-4031', `There is a monitor ${found[1]} already.`, { hint: 'Choose another name, or write CREATE OR REPLACE MONITOR.' });
    const view = addMonitor(found[1], sql, columns(['window_start', time, true], ['window_end', time, true], ['model', text, true], ['requests', 'Int64'], ['mean_ms', 'Float64']));
    const cells = new Map();
    monitors.get(found[1]).grow = (now) => {
      const start = Math.floor(now / 10_000) * 10_000;
      const group = groups[Math.floor(random() * 6)];
      const key = `${start}/${group.model}`;
      const old = cells.get(key);
      const next = [iso(start), iso(start + 10_000), group.model, String(Number(old?.[3] ?? 0) + 1 + Math.floor(random() * 9)), Math.round(group.latency * (0.9 + random() * 0.2) * 100) / 100];
      if (old) view.change(old, -1);
      view.change(next, 1);
      cells.set(key, next);
    };
    return describe(monitors.get(found[1]));
  };

  const explain = (sql) => {
    const order = /\bORDER\s+BY\b/i.exec(sql);
    if (order) throw new Refusal(400, 'PF-4012', 'ORDER BY without LIMIT is not maintained.', { hint: 'Leave it out: whoever reads the view sorts it.', position: positionOf(sql, order.index) });
    const wrong = /\busr_id\b/.exec(sql);
    if (wrong) throw new Refusal(400, 'PF-4005', `No field named usr_id. Did you mean 'spans.user_id'?\nValid fields are ${fields.map(({ name }) => `spans.${name}`).join(', ')}`, { position: positionOf(sql, wrong.index) });
    const unknown = /\bFROM\s+(spns)\b/.exec(sql);
    if (unknown) throw new Refusal(400, 'PF-4005', 'there is no stream or view spns', { hint: 'there are the streams spans, logs, metrics' });
    const size = /-- plan of (\d+)/.exec(sql);
    const plan = size ? largePlan(Number(size[1])) : /\bJOIN\b/i.test(sql) ? joinPlan : 'Aggregate: by window_start, model; count(*) AS requests\n  Filter: (span_class = \'llm\')\n    Tumble: event_time every 1 minute\n      Source: spans\n';
    return {
      columns: columns(['window_start', time, true], ['model', text, true], ['requests', 'Int64']),
      plan,
      nodes: nodesOf(plan, { Aggregate: ['tokens_by_user', 'tool_failures'] }),
      logical: 'Aggregate: groupBy=[[window_start, model]], aggr=[[count(*)]]\n  TableScan: spans',
      operators: ['read spans', 'keep rows where span_class = llm', 'one accumulator per model and minute', 'the view'],
      state: 'at most one row per model and minute, for 24 hours', fingerprint: '5f3a',
    };
  };
  /** A plan with figures, as of monitors that run. */
  const analyze = (monitor) => {
    const plan = explain(monitor.sql.replace(/ORDER BY/g, ''));
    return { ...plan, analyze: analysis(plan.nodes, (Date.now() - started) / 1000 + 30) };
  };

  const runSql = ({ query, limit = 1000 }) => {
    const began = performance.now();
    const answer = (names, all) => ({ columns: names.map(([name, type]) => ({ name, type })), rows: all.slice(0, limit), row_count: Math.min(all.length, limit), truncated: all.length > limit, as_of: Date.now(), elapsed_ms: Math.round((performance.now() - began) * 1000) / 1000 });
    if (/DISTINCT project FROM/.test(query)) return answer([['project', text]], empty ? [] : [['default'], ['blue']]);
    if (!/^\s*(SELECT|SHOW|WITH)\b/i.test(query)) throw new Refusal(400, 'PF-4002', 'Expected a statement, such as SELECT.', { position: positionOf(query, query.search(/\S|$/)) });
    const told = /\bFROM\s+pyflare_internal\.(\w+)/.exec(query);
    const relation = told && !control.withoutInternals ? internal(told[1], { monitors: empty ? [] : [...monitors.values()].map(describe), many, began: started }) : null;
    if (relation) return answer(...relation);
    if (told) throw new Refusal(400, 'PF-4061', `table 'pyflare.pyflare_internal.${told[1]}' not found`);
    const missing = /\bFROM\s+(?:live\.|history\.)?(\w+)/i.exec(query);
    const view = live.views.get(missing?.[1] ?? '');
    if (missing?.[1] === 'spans') return answer([['span_id', text], ['name', text], ['duration_ns', 'Int64'], ['event_time', time], ['attributes', 'Map(Utf8, Utf8)']], traces.flatMap(({ spans: all }) => all).slice(0, limit + 1).map((one) => [one.span_id, one.name, one.duration_ns, one.event_time, one.attributes]));
    if (missing && !view) throw new Refusal(400, 'PF-4010', `There is no relation ${missing[1]}.`, { hint: `There are: spans, ${[...live.views.keys()].join(', ')}`, position: positionOf(query, missing.index + missing[0].length - missing[1].length) });
    if (!view) return answer([['one', 'Int64']], [['1']]);
    return answer(view.columns.map(({ name, type }) => [name, type]), [...view.rows.keys()].map((key) => JSON.parse(key)));
  };

  const listTraces = (query) => {
    if (control.failTraces) throw new Refusal(503, 'PF-5040', 'The store does not answer.', { hint: 'Look at /readyz.' });
    const limit = Number(query.get('limit') ?? 50);
    const skip = Number(query.get('cursor') ?? 0);
    const cut = { min: Number(query.get('min_duration_ms') ?? -Infinity), max: Number(query.get('max_duration_ms') ?? Infinity), from: Date.parse(query.get('from') ?? '') || -Infinity, to: Date.parse(query.get('to') ?? '') || Infinity };
    const found = traces.map(traceItem).filter((item) => {
      const begun = Date.parse(item.start_time);
      return ['service_name/service', 'user_id/user', 'session_id/session', 'status/status'].every((pair) => {
        const [field, name] = pair.split('/');
        return !query.get(name) || item[field] === query.get(name);
      }) && (!query.get('model') || item.models.includes(query.get('model'))) && (!query.get('q') || item.root_name.toLowerCase().includes(query.get('q').toLowerCase()))
        && item.duration_ms >= cut.min && item.duration_ms <= cut.max && begun >= cut.from && begun < cut.to;
    });
    return { items: found.slice(skip, skip + limit), next_cursor: skip + limit < found.length ? String(skip + limit) : null };
  };

  /** The project of a request: its key's, or the one it names. */
  const projectOf = (key, named) => {
    if (control.keys.size === 0) return named ?? 'default';
    if (key === undefined) throw new Refusal(401, 'PF-1001', 'an ingest key is needed; send it as x-pyflare-key');
    const project = control.keys.get(key);
    if (project === undefined) throw new Refusal(401, 'PF-1002', "this ingest key is not known; check it against the server's configuration");
    if (named !== undefined && named !== project) throw new Refusal(401, 'PF-1003', `this ingest key belongs to another project than "${named}"`);
    return project;
  };

  const api = (method, path, query, body, headers) => {
    const [, resource, name] = /^\/api\/v1\/([^/]+)(?:\/(.+))?$/.exec(path) ?? [];
    const project = projectOf(headers['x-pyflare-key'], headers['x-pyflare-project']);
    if (resource === 'caller') return { project, keys: control.keys.size > 0, otlp_http: '127.0.0.1:4318', otlp_grpc: '127.0.0.1:4317' };
    if (!control.ready) throw new Refusal(503, 'PF-5041', 'PyFlare is recovering its log: 41 % read.', { hint: 'It answers as soon as it has caught up.' });
    if (resource === 'monitors' && name === undefined && method === 'GET') return { items: [...monitors.values()].map(describe), next_cursor: null };
    if (resource === 'monitors' && name === 'explain' && method === 'POST') return explain(String(body.sql ?? ''));
    if (resource === 'monitors' && name === undefined && method === 'POST') return createMonitor(String(body.sql ?? ''));
    const monitor = monitors.get(decodeURIComponent(name ?? ''));
    if (resource === 'fields') return { items: fields, next_cursor: null };
    if (resource === 'views' && name === undefined) return { items: [...monitors.values()].map(describe), next_cursor: null };
    if (resource === 'status') return { version: '0.1.0', tick: Date.now(), complete_tick: Date.now() - 12, workers: 2, replaying: false, lag_ms: 12, rows_admitted: { spans: Math.floor((Date.now() - started) * (empty ? 0 : 1.9)), logs: 0, metrics: 0 }, duplicates: empty ? 0 : 3, late_rows: 0, decode_errors: 0, rejected_rows: 0, log_backlog_bytes: 0, flushed_cut: null };
    const planned = resource === 'monitors' && method === 'GET' && !control.withoutInternals ? monitors.get(decodeURIComponent(/^(.+)\/explain$/.exec(name ?? '')?.[1] ?? '')) : undefined;
    if (planned) return analyze(planned);
    if (resource === 'monitors' && monitor && method === 'GET') return describe(monitor);
    if (resource === 'monitors' && monitor && method === 'DELETE') {
      if (monitor.builtin) throw new Refusal(409, 'PF-4032', 'A built-in view cannot be dropped.');
      monitors.delete(monitor.name);
      live.drop(monitor.name);
      return null;
    }
    if (resource === 'sql' && method === 'POST') return runSql(body);
    if (resource === 'traces' && name === undefined) return listTraces(query);
    const trace = resource === 'traces' ? traces.find(({ trace_id }) => trace_id === name) : undefined;
    if (trace) return { ...trace, truncated: false };
    throw new Refusal(404, 'PF-5004', `There is no ${resource === 'traces' ? 'trace' : 'resource'} ${name ?? path}.`, { hint: resource === 'traces' ? 'It may be older than the retention, or not have arrived yet.' : undefined });
  };

  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (!url.pathname.startsWith('/api/')) {
      const path = normalize(url.pathname).replace(/^(\.\.[/\\])+/, '');
      const file = join(dist, path);
      const found = existsSync(file) && statSync(file).isFile() ? file : join(dist, 'index.html');
      response.writeHead(200, { 'content-type': contentTypes[extname(found)] ?? 'application/octet-stream', 'content-security-policy': policy });
      createReadStream(found).pipe(response);
      return;
    }
    let received = '';
    request.on('data', (chunk) => (received += chunk));
    request.on('end', () => {
      control.requests.push({ method: request.method, url: request.url, headers: request.headers, body: received });
      setTimeout(() => {
        try {
          const answer = api(request.method, url.pathname, url.searchParams, received === '' ? {} : JSON.parse(received), request.headers);
          response.writeHead(answer === null ? 204 : request.method === 'POST' && url.pathname.endsWith('/monitors') ? 201 : 200, { 'content-type': 'application/json' });
          response.end(answer === null ? undefined : JSON.stringify(answer));
        } catch (cause) {
          const status = cause.status ?? 500;
          response.writeHead(status, { 'content-type': 'application/problem+json' });
          response.end(JSON.stringify(cause.body ?? { status, title: 'Fault of the mock', detail: String(cause.stack), code: 'PF-5000' }));
        }
      }, control.delay);
    });
  });
  live.attach(server, (request) => {
    const offered = String(request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    const key = offered.find((name) => name.startsWith('pyflare.key.'))?.slice('pyflare.key.'.length);
    try {
      const project = projectOf(key === undefined ? undefined : Buffer.from(key, 'base64url').toString(), new URL(request.url, 'http://x').searchParams.get('project') ?? undefined);
      control.sockets.push({ project, protocols: offered });
      return control.ready;
    } catch {
      return false;
    }
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));

  return {
    url: `http://127.0.0.1:${server.address().port}`,
    live,
    control,
    /** A first trace and a first minute in an empty server. */
    addFirstData() {
      traces.unshift(agentTrace(1, Date.now() - 3000));
      const opened = Math.floor(Date.now() / minute) * minute;
      if (traffic.add(Date.now(), 0, 0.1)) refresh(opened, 0);
    },
    /** Ticks stop. */
    pause() {
      clearInterval(timer);
    },
    /** Ticks go on; `idle` ones bring no rows. */
    resume(mode) {
      idle = mode === 'idle';
      clearInterval(timer);
      timer = setInterval(tick, tickMillis);
    },
    async close() {
      clearInterval(timer);
      live.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const argument = (name, otherwise) => {
    const at = process.argv.indexOf(`--${name}`);
    return at === -1 ? otherwise : process.argv[at + 1];
  };
  const mock = await startMock({ port: Number(argument('port', '4319')), scenario: argument('scenario', 'demo'), rows: Number(argument('rows', '100000')), many: Number(argument('many', '0')) });
  console.log(`mock of PyFlare at ${mock.url}`);
}
