/**
 * A trace's spans as a forest, whatever was sent: spans whose parent is missing are roots and marked, twins (equal
 * ids) are both kept, spans that are their own ancestors are cut loose at the earliest of them. Nothing here
 * recurses, so that a trace of 50,000 nested spans is as good as a flat one.
 */
import type { Span } from '../api/types.ts';

export interface SpanNode {
  readonly index: number;
  readonly id: string;
  readonly parentId: string | null;
  readonly name: string;
  readonly service: string;
  readonly spanClass: string;
  readonly failed: boolean;
  /** Milliseconds after the trace's start. */
  readonly offset: number;
  /** Milliseconds; as it was sent, so it may be below zero. */
  readonly duration: number;
  /** The span above it in the forest. */
  readonly parent: number | null;
  readonly children: readonly number[];
  readonly depth: number;
  /** Why a span that names a parent is a root. */
  readonly loose: 'missing parent' | 'own ancestor' | null;
  /** Spans below it, all levels. */
  readonly descendants: number;
  readonly failedBelow: number;
}

type Building = { -readonly [Name in keyof SpanNode]: SpanNode[Name] extends readonly number[] ? number[] : SpanNode[Name] };

export interface TraceTree {
  readonly nodes: readonly SpanNode[];
  readonly roots: readonly number[];
  /** Milliseconds since 1970. */
  readonly start: number;
  /** Milliseconds from the first start to the last end. */
  readonly total: number;
  readonly errors: number;
}

function text(span: Span, field: string): string {
  const value = span[field];
  return typeof value === 'string' ? value : '';
}

/** Int64 as digits or a number; `null` where it is neither. */
export function nanos(value: unknown): bigint | null {
  if (typeof value === 'number' && Number.isFinite(value)) return BigInt(Math.round(value));
  return typeof value === 'string' && /^-?\d+$/.test(value) ? BigInt(value) : null;
}

function startOf(span: Span): bigint | null {
  const exact = nanos(span['start_unix_nano']);
  if (exact !== null) return exact;
  const parsed = Date.parse(text(span, 'start_time'));
  return Number.isNaN(parsed) ? null : BigInt(parsed) * 1_000_000n;
}

function durationOf(span: Span): number {
  const exact = nanos(span['duration_ns']);
  if (exact !== null) return Number(exact) / 1e6;
  const length = Date.parse(text(span, 'end_time')) - Date.parse(text(span, 'start_time'));
  return Number.isNaN(length) ? 0 : length;
}

export function buildTree(spans: readonly Span[]): TraceTree {
  const starts = spans.map(startOf);
  let first: bigint | null = null;
  for (const start of starts) if (start !== null && (first === null || start < first)) first = start;
  const origin = first ?? 0n;

  const nodes: Building[] = spans.map((span, index) => {
    const parent = text(span, 'parent_span_id');
    const start = starts[index] ?? origin;
    return {
      index, id: text(span, 'span_id'), parentId: parent === '' ? null : parent, name: text(span, 'name'), service: text(span, 'service_name'),
      spanClass: text(span, 'span_class') || 'other', failed: text(span, 'status').toLowerCase() === 'error',
      offset: Number(start - origin) / 1e6, duration: durationOf(span), parent: null, children: [], depth: 0, loose: null, descendants: 0, failedBelow: 0,
    };
  });

  const byId = new Map<string, number>();
  for (const node of nodes) if (node.id !== '' && !byId.has(node.id)) byId.set(node.id, node.index);
  const roots: number[] = [];
  const earlier = (left: number, right: number): number => (nodes[left]?.offset ?? 0) - (nodes[right]?.offset ?? 0) || left - right;
  for (const node of nodes) {
    const parent = node.parentId === null ? undefined : byId.get(node.parentId);
    if (parent === undefined) {
      if (node.parentId !== null) node.loose = 'missing parent';
      roots.push(node.index);
    } else if (parent === node.index) {
      node.loose = 'own ancestor';
      roots.push(node.index);
    } else {
      nodes[parent]?.children.push(node.index);
    }
  }
  for (const node of nodes) node.children.sort(earlier);

  // Preorder with an explicit stack; what no root reaches lies on a circle.
  const order: number[] = [];
  const seen = new Uint8Array(nodes.length);
  const walk = (root: number): void => {
    const stack = [root];
    seen[root] = 1;
    while (stack.length > 0) {
      const at = stack.pop() as number;
      order.push(at);
      const node = nodes[at];
      if (!node) continue;
      node.children = node.children.filter((child) => seen[child] === 0);
      for (let index = node.children.length - 1; index >= 0; index--) {
        const child = node.children[index] as number;
        seen[child] = 1;
        const below = nodes[child];
        if (below) Object.assign(below, { depth: node.depth + 1, parent: at });
        stack.push(child);
      }
    }
  };
  for (const root of roots) walk(root);
  if (order.length < nodes.length) {
    const stranded = nodes.filter((node) => seen[node.index] === 0).map((node) => node.index).sort(earlier);
    for (const index of stranded) {
      if (seen[index] === 1) continue;
      const node = nodes[index];
      if (node) node.loose = 'own ancestor';
      roots.push(index);
      walk(index);
    }
  }
  roots.sort(earlier);

  let total = 0;
  let errors = 0;
  for (let at = order.length - 1; at >= 0; at--) {
    const node = nodes[order[at] as number];
    if (!node) continue;
    total = Math.max(total, node.offset + Math.max(0, node.duration));
    if (node.failed) errors++;
    for (const child of node.children) {
      const below = nodes[child];
      if (!below) continue;
      node.descendants += below.descendants + 1;
      node.failedBelow += below.failedBelow + (below.failed ? 1 : 0);
    }
  }
  return { nodes, roots, start: Number(origin / 1_000_000n), total, errors };
}

/** The rows of the waterfall from top to bottom, without what lies below a collapsed span. */
export function visibleRows(tree: TraceTree, collapsed: ReadonlySet<number>): number[] {
  const rows: number[] = [];
  const stack = [...tree.roots].reverse();
  while (stack.length > 0) {
    const at = stack.pop() as number;
    rows.push(at);
    if (collapsed.has(at)) continue;
    const children = tree.nodes[at]?.children ?? [];
    for (let index = children.length - 1; index >= 0; index--) stack.push(children[index] as number);
  }
  return rows;
}

/** The spans above one, nearest first. */
export function ancestors(tree: TraceTree, index: number): number[] {
  const above: number[] = [];
  for (let at = tree.nodes[index]?.parent ?? null; at !== null; at = tree.nodes[at]?.parent ?? null) above.push(at);
  return above;
}
