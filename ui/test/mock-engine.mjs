// What the mock's engine tells about itself: declared columns, plans with their figures, the internal relations.
import { iso, seeded } from './mock-data.mjs';

const text = 'Utf8';
const time = 'Timestamp(µs, UTC)';

const declared = {
  spans: `project:${text} trace_id:${text} span_id:${text} parent_span_id:${text} name:${text} kind:${text} status:${text} status_message:${text} service_name:${text} event_time:TIME start_time:TIME end_time:TIME duration_ns:Int64 span_class:${text} operation:${text} provider:${text} model_requested:${text} model:${text} input_tokens:Int64 output_tokens:Int64 reported_cost:Decimal128 user_id:${text} session_id:${text} tool_name:${text} error_type:${text} attributes:MAP _tick:Int64 _mark:TIME`,
  logs: `project:${text} event_time:TIME severity_number:Int32 severity_text:${text} body:${text} service_name:${text} trace_id:${text} attributes:MAP`,
  metrics: `project:${text} event_time:TIME name:${text} unit:${text} value:Float64 service_name:${text}`,
};

export const fields = Object.entries(declared).flatMap(([stream, list]) => list.split(' ').map((entry) => {
  const [name, type] = entry.split(':');
  return { stream, name, type: type.replace('TIME', time).replace('MAP', 'Map(Utf8, Utf8)'), nullable: true, hidden: name.startsWith('_'), label: name, description: name === 'duration_ns' ? 'How long the span took.' : `The column ${name} of ${stream}.`, unit: name === 'duration_ns' ? 'ns' : null, aliases: [] };
}));

/** The nodes that a plan's text stands for, as the server tells them. */
export function nodesOf(plan, shared = {}) {
  const nodes = [];
  const open = [];
  for (const line of plan.split('\n').filter((one) => one.trim() !== '')) {
    const depth = (line.length - line.trimStart().length) / 2;
    const [, title, detail = ''] = /^([^:]+)(?::\s*(.*))?$/.exec(line.trim());
    nodes.push({ node: nodes.length, inputs: [], title, detail, shared_with: shared[title] ?? [] });
    open.length = depth;
    if (depth > 0) nodes[open[depth - 1]].inputs.push(nodes.length - 1);
    open[depth] = nodes.length - 1;
  }
  return nodes;
}

export const joinPlan = `Project: user_id, aggregate_1 AS requests, aggregate_1_2 AS failures
  Top: by aggregate_1_2; 10 rows
    Join: aggregate_1_2 = calls
      Join: user_id = user_id_2
        Filter: (aggregate_1 > 3)
          Aggregate: by user_id; count(*) AS aggregate_1
            Filter: (project = 'default')
              Source: spans
        Project: user_id AS user_id_2, aggregate_1 AS aggregate_1_2
          Aggregate: by user_id; count(*) AS aggregate_1
            Filter: (status = 'error')
              Source: spans
      Project: calls
        View: tool_failures
`;

/** A plan of any size: unions of joins. */
export function largePlan(count) {
  const lines = ['Union'];
  for (let part = 0; lines.length + 5 <= count; part++) {
    lines.push(`  Join: user_id = user_id_${part}`, `    Aggregate: by user_id, model, service_name; count(*) AS requests, sum(input_tokens) AS input_tokens_of_part_${part}`, '      Source: spans', `    Filter: (requests > ${part})`, '      View: tokens_by_user');
  }
  while (lines.length < count) lines.push('  View: requests');
  return lines.join('\n');
}

/** Figures that grow with time; most of the time goes to the joins. */
export function analysis(nodes, seconds) {
  return nodes.map(({ node, title }) => {
    const weight = /Join/.test(title) ? 40 : /Aggregate|Top/.test(title) ? 12 : 1;
    return { node, rows_out: Math.round(seconds * (400 - node * 20 + weight)), state_rows: weight > 1 ? weight * 90 : 0, state_bytes: weight > 1 ? weight * 9000 : 0, busy_us: Math.round(seconds * weight * 900) };
  });
}

/** The internal relations over the mock's monitors, or over `many` made-up ones. */
export function internal(name, { monitors, many, began }) {
  const seconds = (Date.now() - began) / 1000 + 60;
  const random = seeded(5);
  const made = Array.from({ length: many }, (_, index) => ({ name: `monitor_${String(index).padStart(4, '0')}`, project: 'default', builtin: false, state: index % 97 === 5 ? 'stopped' : 'running', reason: index % 97 === 5 ? 'PF-3013: the view has more than 5000000 rows' : null, rows: Math.floor(random() ** 4 * 90_000), late_rows: index % 50 === 0 ? 7 : 0, errors: index % 70 === 0 ? 3 : 0 }));
  const all = [...monitors, ...made].map((one, index) => ({ ...one, weight: (1 + (index * 37) % 101) ** 2 }));
  const columns = (list) => list.split(' ').map((entry) => { const [column, type = text] = entry.split(':'); return [column, type.replace('TIME', time)]; });
  switch (name) {
    case 'monitors':
      return [columns('project name kind state reason start:TIME installed_at:TIME rows:Int64 changes:Int64 state_rows:Int64 state_bytes:Int64 busy_us:Int64 late_rows:Int64 errors:Int64'),
        all.map((one) => [one.project, one.name, one.builtin ? 'builtin' : 'monitor', one.state === 'live' ? 'running' : one.state, one.reason ?? null, iso(began), iso(began), String(one.rows), String(Math.floor(seconds * one.weight)), String(one.weight * 11), String(one.weight * 1300), String(Math.floor(seconds * one.weight * 3)), String(one.late_rows), String(one.errors)])];
    case 'operators':
      return [columns('worker:Int32 project monitor node:Int32 operator rows_out:Int64 state_rows:Int64 state_bytes:Int64 busy_us:Int64'),
        all.flatMap((one) => ['Aggregate', 'Filter', 'Source'].map((operator, node) => [0, one.project, one.name, node, operator, String(Math.floor(seconds * one.weight / (node + 1))), node === 0 ? String(one.weight * 11) : '0', node === 0 ? String(one.weight * 1300) : '0', String(Math.floor(seconds * one.weight * (3 - node)))]))];
    case 'arrangements':
      return [columns('worker:Int32 arrangement:Int64 kind views stream rows:Int64 bytes:Int64'),
        all.map((one, index) => [index % 2, String(index), index % 5 === 4 ? 'graph' : 'base', index % 3 === 0 ? all.slice(index, index + 1 + (index % 4)).map((other) => other.name).join(', ') : one.name, 'spans', String(one.weight * 11), String(one.weight * 1300)])];
    case 'streams':
      return [columns('stream partition:Int32 mark:TIME admitted_rows:Int64 backlog:Int64 lag_ms:Int64'),
        ['spans', 'logs', 'metrics'].map((stream, index) => [stream, 0, index === 2 ? null : iso(Date.now() - 400), String(Math.floor(seconds * (index === 2 ? 0 : 900 / (index + 1)))), '0', String(index * 140)])];
    case 'late_rows':
      return [columns('project monitor late_rows:Int64'), all.map((one) => [one.project, one.name, String(one.late_rows)])];
    case 'errors':
      return [columns('project monitor error errors:Int64'), all.filter((one) => one.errors > 0).map((one) => [one.project, one.name, 'division by …: <b>zero</b>', String(one.errors)])];
    default:
      return null;
  }
}
