/** The operators of a plan, from the server's list of them or from its text. */
import type { ExplainedNode, Explanation, NodeFigures } from '../api/types.ts';
import { toNumber } from '../format.ts';
import type { Cell } from '../live/protocol.ts';

export interface PlanNode {
  readonly node: number;
  readonly inputs: readonly number[];
  readonly title: string;
  readonly detail: string;
  readonly sharedWith: readonly string[];
}

/** `Title: detail`, two blanks deeper for what it reads. The first line is the result. */
export function parsePlan(text: string): PlanNode[] {
  const nodes: { node: number; inputs: number[]; title: string; detail: string; sharedWith: string[] }[] = [];
  const open: { depth: number; node: number }[] = [];
  for (const line of text.split('\n')) {
    const body = line.trim();
    if (body === '') continue;
    const depth = line.length - line.trimStart().length;
    const colon = /^([^:]+):\s*(.*)$/s.exec(body);
    const node = nodes.length;
    nodes.push({ node, inputs: [], title: colon?.[1] ?? body, detail: colon?.[2] ?? '', sharedWith: [] });
    while ((open.at(-1)?.depth ?? -1) >= depth) open.pop();
    const reader = open.at(-1);
    if (reader !== undefined) nodes[reader.node]?.inputs.push(node);
    open.push({ depth, node });
  }
  return nodes;
}

export function planNodes(explanation: Explanation): PlanNode[] {
  if (explanation.nodes !== undefined && explanation.nodes.length > 0) return explanation.nodes.map(told);
  return parsePlan(explanation.plan ?? '');
}

function told(one: ExplainedNode): PlanNode {
  return { node: one.node, inputs: one.inputs, title: one.title, detail: one.detail ?? '', sharedWith: one.shared_with ?? [] };
}

/** What of the plan is read: streams and views, each once. */
export function readsOf(nodes: readonly PlanNode[]): { readonly kind: 'stream' | 'view'; readonly name: string }[] {
  const names = new Map<string, 'stream' | 'view'>();
  for (const { title, detail } of nodes) {
    if (title === 'Source') names.set(detail, 'stream');
    else if (title === 'View') names.set(detail, 'view');
  }
  return [...names].map(([name, kind]) => ({ name, kind }));
}

export interface Figures {
  readonly rowsOut: number;
  readonly stateRows: number;
  readonly stateBytes: number;
  readonly busyMicros: number;
  /** Its part of the time of all; 0 to 1. */
  readonly busyShare: number;
  /** Rows a second since the figures before; NaN where there are none. */
  readonly rowsPerSecond: number;
}

export interface Sample {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly analyze: readonly NodeFigures[];
}

function count(cell: Cell | undefined): number {
  const number = toNumber(cell ?? 0);
  return Number.isFinite(number) ? number : 0;
}

/** Figures by node, from two looks at the counters. */
export function figures(now: Sample, before: Sample | null): Map<number, Figures> {
  const all = now.analyze.reduce((sum, one) => sum + count(one.busy_us), 0);
  const old = new Map(before?.analyze.map((one) => [one.node, count(one.rows_out)]));
  const seconds = before === null ? 0 : (now.at - before.at) / 1000;
  return new Map(now.analyze.map((one): [number, Figures] => {
    const rowsOut = count(one.rows_out);
    const earlier = old.get(one.node);
    return [one.node, {
      rowsOut,
      stateRows: count(one.state_rows),
      stateBytes: count(one.state_bytes),
      busyMicros: count(one.busy_us),
      busyShare: all > 0 ? count(one.busy_us) / all : 0,
      rowsPerSecond: earlier === undefined || seconds <= 0 || rowsOut < earlier ? NaN : (rowsOut - earlier) / seconds,
    }];
  }));
}
