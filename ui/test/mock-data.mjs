// Generated telemetry for the mock server: the same every time, from a seed.

/** A small generator of numbers in [0, 1) (mulberry32). */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

export const minute = 60_000;

/** service, model, requests a minute, usual latency, share of errors, tokens in and out per request */
export const groups = [
  { service: 'support-agent', model: 'gpt-4o', rate: 148, latency: 1240, errors: 0.012, input: 1830, output: 310 },
  { service: 'support-agent', model: 'gpt-4o-mini', rate: 262, latency: 520, errors: 0.006, input: 940, output: 180 },
  { service: 'rag-search', model: 'claude-sonnet-4', rate: 96, latency: 1860, errors: 0.018, input: 4200, output: 420 },
  { service: 'rag-search', model: 'text-embedding-3-small', rate: 410, latency: 62, errors: 0.001, input: 220, output: 0 },
  { service: 'rag-search', model: 'rerank-v3', rate: 94, latency: 140, errors: 0.003, input: 2600, output: 0 },
  { service: 'code-review', model: 'claude-opus-4', rate: 18, latency: 6400, errors: 0.045, input: 11800, output: 1450 },
  { service: 'fraud-score', model: 'gbm-2026-10', rate: 720, latency: 8.4, errors: 0.0004, input: 0, output: 0 },
  { service: 'checkout', model: null, rate: 210, latency: 34, errors: 0.004, input: 0, output: 0 },
];

/** Text that tries to leave its place: markup, scripts, control and direction characters, great length, emptiness. */
export const hostile = [
  '<script>window.__broken = true</script>',
  '<img src=x onerror="window.__broken = true">',
  '"><svg onload=window.__broken=true>',
  'javascript:window.__broken=true',
  '{{constructor.constructor("window.__broken=true")()}}',
  '\u202eright to left\u202c',
  'line one\nline two\ttabbed\u0000null\u001b[31mred',
  `${'long '.repeat(400)}end`,
  "'; DROP TABLE spans; --",
  '   ',
  '\ud83d\udd25 e\u0301 中文 العربية',
  '__proto__',
  'constructor',
];

/** How busy a minute is: a slow wave with a burst of errors some time ago. */
function shape(time) {
  return 1 + 0.28 * Math.sin(time / (47 * minute)) + 0.12 * Math.sin(time / (7.3 * minute));
}

export class Traffic {
  #random;
  /** minute → group index → numbers */
  minutes = new Map();

  constructor(seed, start) {
    this.#random = seeded(seed);
    this.incident = Math.floor(start / minute) * minute - 6 * minute;
  }

  /** Adds what one group does in `share` of a minute; answers whether anything changed. */
  add(time, index, share) {
    const group = groups[index];
    const random = this.#random;
    const exact = group.rate * shape(time) * share * (0.85 + 0.3 * random());
    const requests = Math.floor(exact) + (random() < exact % 1 ? 1 : 0);
    if (requests === 0) return false;
    const start = Math.floor(time / minute) * minute;
    let row = this.minutes.get(start);
    if (!row) this.minutes.set(start, (row = new Map()));
    let cell = row.get(index);
    if (!cell) row.set(index, (cell = { requests: 0, errors: 0, input: 0, output: 0, slow: 0.9 + 0.2 * random() }));
    const troubled = index === 2 && start >= this.incident && start < this.incident + 3 * minute;
    const share_ = troubled ? 0.22 : group.errors;
    for (let at = 0; at < requests; at++) if (random() < share_) cell.errors++;
    if (troubled) cell.slow = 2.6;
    cell.requests += requests;
    cell.input += Math.round(requests * group.input * (0.8 + 0.4 * random()));
    cell.output += Math.round(requests * group.output * (0.8 + 0.4 * random()));
    return true;
  }

  /** The rows of the four built-in views for one minute and group. */
  rows(start, index, project) {
    const cell = this.minutes.get(start)?.get(index);
    if (!cell) return null;
    const group = groups[index];
    const head = [project, group.service, group.model, iso(start), iso(start + minute)];
    const middle = group.latency * cell.slow;
    return {
      requests: [...head, String(cell.requests)],
      errors: [...head, String(cell.errors), String(cell.requests), cell.errors / cell.requests],
      latency: [...head, round(middle * 0.92), round(middle * 1.7), round(middle * 2.2), round(middle * 3.6), round(middle)],
      tokens: group.input > 0 ? [...head, String(cell.input), String(cell.output), String(Math.round(cell.input * 0.3)), '0', '0'] : null,
    };
  }
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}

export function iso(millis) {
  return new Date(millis).toISOString().replace(/\.000Z$/, 'Z');
}

function hex(random, digits) {
  let text = '';
  while (text.length < digits) text += Math.floor(random() * 16).toString(16);
  return text;
}

const questions = [
  'Where is my order 4417? It was due on Tuesday.',
  'How do I rotate the API key without downtime?',
  'Summarise the incident review of last Friday.',
  'Which plan includes single sign-on?',
];

/** A span as the API gives it. */
function span(random, fields) {
  const start = BigInt(fields.start_ns);
  const length = BigInt(Math.round(fields.duration_ms * 1e6));
  const startMillis = Number(start / 1_000_000n);
  const endMillis = Number((start + length) / 1_000_000n);
  return {
    project: 'default', trace_id: fields.trace_id, span_id: fields.span_id ?? hex(random, 16), parent_span_id: fields.parent ?? null,
    name: fields.name, kind: fields.kind ?? 'internal', status: fields.status ?? 'unset', status_message: fields.status_message ?? null,
    service_name: fields.service, service_version: '2.14.0', environment: 'production', scope_name: 'opentelemetry.instrumentation.genai',
    event_time: iso(endMillis), start_time: iso(startMillis), end_time: iso(endMillis),
    start_unix_nano: String(start), duration_ns: String(length),
    span_class: fields.span_class ?? 'other', operation: fields.operation ?? null, provider: fields.provider ?? null,
    model_requested: fields.model ?? null, model: fields.model ?? null, model_version: null,
    input_tokens: fields.input_tokens === undefined ? null : String(fields.input_tokens),
    output_tokens: fields.output_tokens === undefined ? null : String(fields.output_tokens),
    cache_read_tokens: null, cache_write_tokens: null, reasoning_tokens: null, reported_cost: null,
    temperature: fields.model ? 0.2 : null, max_tokens: null, finish_reason: fields.model ? 'stop' : null,
    time_to_first_token_ns: fields.model ? String(BigInt(Math.round(fields.duration_ms * 2.2e5))) : null,
    user_id: fields.user_id ?? null, session_id: fields.session_id ?? null, agent_name: fields.agent_name ?? null, tool_name: fields.tool_name ?? null,
    prompt_name: null, prompt_version: null, input: fields.input ?? null, output: fields.output ?? null, error_type: fields.error_type ?? null,
    attributes: fields.attributes ?? { 'gen_ai.response.id': '"chatcmpl-9f31"', 'server.port': '443' },
    resource: { 'service.name': '"' + fields.service + '"', 'host.name': '"edge-3"', 'telemetry.sdk.language': '"python"' },
    events: fields.events ?? [], links: [], dropped_attributes: 0,
  };
}

/** An agent that searches, reranks, answers, calls a tool that fails once, and answers again. */
export function agentTrace(seed, startMillis) {
  const random = seeded(seed);
  const trace_id = hex(random, 32);
  const question = questions[seed % questions.length];
  const user_id = `user-${100 + (seed % 37)}`;
  const session_id = `session-${seed % 90}`;
  const failed = seed % 5 === 0;
  const base = BigInt(startMillis) * 1_000_000n + 371_042n;
  const at = (millis) => String(base + BigInt(Math.round(millis * 1e6)));
  const common = { trace_id, service: 'support-agent', user_id, session_id };
  const scale = 0.7 + random() * 0.8;
  const root = hex(random, 16);
  const plan = hex(random, 16);
  const retrieval = hex(random, 16);
  const spans = [];
  const put = (fields) => {
    const made = span(random, { ...common, ...fields, start_ns: at(fields.at * scale), duration_ms: fields.duration_ms * scale });
    spans.push(made);
    return made.span_id;
  };
  put({ at: 0, duration_ms: 3180, span_id: root, name: 'invoke_agent support', span_class: 'agent', kind: 'server', operation: 'invoke_agent', agent_name: 'support', input: question, output: 'Your order 4417 left the warehouse on Monday and arrives tomorrow before noon.', status: failed ? 'error' : 'ok', status_message: failed ? 'The tool order_lookup failed' : null });
  put({ at: 6, duration_ms: 3, parent: root, name: 'guardrail prompt_injection', span_class: 'guardrail', attributes: { score: '0.004', threshold: '0.5' } });
  const chain = put({ at: 14, duration_ms: 812, parent: root, name: 'retrieve context', span_class: 'chain', span_id: retrieval });
  put({ at: 18, duration_ms: 61, parent: chain, name: 'embeddings text-embedding-3-small', span_class: 'embedding', kind: 'client', model: 'text-embedding-3-small', provider: 'openai', input_tokens: 14, input: question });
  const search = put({ at: 84, duration_ms: 402, parent: chain, name: 'query knowledge-base', span_class: 'retriever', kind: 'client', service: 'rag-search', output: JSON.stringify([{ id: 'doc-18', score: 0.83, content: 'Orders leave the warehouse…' }, { id: 'doc-4', score: 0.79, content: 'Deliveries before noon…' }]) });
  put({ at: 92, duration_ms: 371, parent: search, name: 'SELECT passages', span_class: 'db', kind: 'client', service: 'rag-search', attributes: { 'db.system': '"qdrant"', 'db.collection.name': '"passages"' } });
  put({ at: 494, duration_ms: 318, parent: chain, name: 'rerank rerank-v3', span_class: 'reranker', kind: 'client', model: 'rerank-v3', service: 'rag-search' });
  put({ at: 834, duration_ms: 986, parent: root, span_id: plan, name: 'chat gpt-4o', span_class: 'llm', kind: 'client', operation: 'chat', provider: 'openai', model: 'gpt-4o', input_tokens: 1630, output_tokens: 84, input: JSON.stringify([{ role: 'system', content: 'You answer questions about orders. Use the tools.' }, { role: 'user', content: question }]), output: JSON.stringify([{ role: 'assistant', content: null, tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'order_lookup', arguments: '{"order": 4417}' } }] }]) });
  const tool = put({ at: 1832, duration_ms: failed ? 640 : 214, parent: root, name: 'execute_tool order_lookup', span_class: 'tool', tool_name: 'order_lookup', input: '{"order": 4417}', output: failed ? null : '{"state": "shipped", "eta": "2026-11-25T12:00:00Z"}', status: failed ? 'error' : 'ok', status_message: failed ? 'deadline exceeded after 600 ms' : null, error_type: failed ? 'TimeoutError' : null, events: failed ? [{ time: iso(startMillis + 2400), name: 'exception', attributes: { 'exception.type': 'TimeoutError', 'exception.message': 'deadline exceeded after 600 ms' } }] : [] });
  put({ at: 1840, duration_ms: failed ? 600 : 188, parent: tool, name: 'GET /orders/{id}', span_class: 'http', kind: 'client', service: 'orders', status: failed ? 'error' : 'ok', attributes: { 'http.request.method': '"GET"', 'http.response.status_code': failed ? '504' : '200' } });
  put({ at: failed ? 2500 : 2070, duration_ms: failed ? 610 : 1042, parent: root, name: 'chat gpt-4o', span_class: 'llm', kind: 'client', operation: 'chat', provider: 'openai', model: 'gpt-4o', input_tokens: 1846, output_tokens: 213, input: JSON.stringify([{ role: 'user', content: question }, { role: 'tool', tool_call_id: 'call_1', content: failed ? 'timeout' : '{"state": "shipped"}' }]), output: JSON.stringify([{ role: 'assistant', content: 'Your order 4417 left the warehouse on Monday and arrives tomorrow before noon.' }]) });
  put({ at: 3130, duration_ms: 38, parent: root, name: 'evaluate groundedness', span_class: 'evaluator', model: 'judge-small', attributes: { 'gen_ai.evaluation.score.value': '0.94' } });
  return { trace_id, spans };
}

/** A trace of any size: deep, wide, with orphans, twins and spans that are their own parents. */
export function hugeTrace(count, startMillis) {
  const random = seeded(7);
  const trace_id = 'f'.repeat(32);
  const classes = ['llm', 'tool', 'agent', 'chain', 'retriever', 'embedding', 'http', 'db', 'other'];
  const spans = [];
  const base = BigInt(startMillis) * 1_000_000n;
  const known = [];
  for (let index = 0; index < count; index++) {
    const span_id = index.toString(16).padStart(16, '0');
    const upper = index === 0 ? null : known[Math.floor(random() ** 0.35 * Math.min(known.length, 4000)) % known.length];
    let parent = upper?.id ?? null;
    if (index % 997 === 3) parent = 'dead'.repeat(4);
    if (index % 4999 === 5) parent = span_id;
    const begin = upper ? upper.begin + random() * upper.length * 0.5 : 0;
    const length = upper ? Math.max(0.02, upper.length * (0.2 + random() * 0.6)) : 60_000;
    known.push({ id: span_id, begin, length });
    const span_class = classes[index % classes.length];
    spans.push(span(random, {
      trace_id, span_id, parent, name: index % 50 === 0 ? hostile[(index / 50) % hostile.length] : `${span_class} step ${index}`,
      service: `service-${index % 7}`, span_class, start_ns: String(base + BigInt(Math.round(begin * 1e6))), duration_ms: length,
      status: index % 211 === 0 ? 'error' : 'ok', attributes: {},
    }));
  }
  return { trace_id, spans };
}

export function hostileTrace(startMillis) {
  const random = seeded(11);
  const trace_id = 'a'.repeat(32);
  const root = hex(random, 16);
  const base = BigInt(startMillis) * 1_000_000n;
  const spans = [span(random, { trace_id, span_id: root, name: hostile[0], service: hostile[1], start_ns: String(base), duration_ms: 900, span_class: 'agent', input: hostile[0], output: '{"broken json' })];
  for (const [index, text] of hostile.entries()) {
    spans.push(span(random, {
      trace_id, parent: root, name: text, service: text, model: text, user_id: text, session_id: text, span_class: index % 2 ? 'llm' : text, status: index % 3 ? 'ok' : 'error', status_message: text,
      start_ns: String(base + BigInt(index) * 40_000_000n), duration_ms: index === 4 ? -5 : 30 + index, input: JSON.stringify([{ role: text, content: text }]), output: text,
      attributes: Object.fromEntries([[text, JSON.stringify(text)], ['__proto__', '"x"'], ['deep', '['.repeat(2000) + ']'.repeat(2000)]]), events: [{ time: 'not a time', name: text, attributes: { [text]: text } }],
    }));
  }
  return { trace_id, spans };
}

/** What the list says of a trace. */
export function traceItem({ trace_id, spans }) {
  const root = spans.find((one) => one.parent_span_id === null) ?? spans[0];
  const sum = (field) => String(spans.reduce((total, one) => total + Number(one[field] ?? 0), 0));
  return {
    trace_id, root_name: root.name, service_name: root.service_name, start_time: root.start_time, duration_ms: Number(root.duration_ns) / 1e6,
    span_count: spans.length, error_count: spans.filter((one) => one.status === 'error').length,
    models: [...new Set(spans.map((one) => one.model).filter((model) => model !== null))].slice(0, 4),
    input_tokens: sum('input_tokens'), output_tokens: sum('output_tokens'), user_id: root.user_id, session_id: root.session_id, status: root.status,
  };
}
