import { describe, expect, it } from 'vitest';
import type { Span } from '../api/types.ts';
import { ancestors, buildTree, visibleRows, type TraceTree } from './tree.ts';

function span(id: string, parent: string | null, start: number, length = 10, more: Record<string, unknown> = {}): Span {
  return { span_id: id, parent_span_id: parent, name: id, start_unix_nano: String(1_764_000_000_000_000_000n + BigInt(start) * 1_000_000n), duration_ns: String(length * 1_000_000), ...more };
}

const ids = (tree: TraceTree, rows: readonly number[]): string[] => rows.map((index) => tree.nodes[index]?.id ?? '');

describe('buildTree', () => {
  it('nests by parent and orders by start, whatever the order of arrival', () => {
    const tree = buildTree([span('c', 'a', 30), span('b', 'a', 5), span('d', 'b', 6), span('a', null, 0, 100)]);
    expect(ids(tree, visibleRows(tree, new Set()))).toEqual(['a', 'b', 'd', 'c']);
    expect(tree.nodes.map((node) => [node.id, node.depth, node.descendants])).toEqual([['c', 1, 0], ['b', 1, 1], ['d', 2, 0], ['a', 0, 3]]);
    expect([tree.total, tree.start]).toEqual([100, 1_764_000_000_000]);
  });

  it('keeps nanoseconds that a double cannot hold', () => {
    const tree = buildTree([{ span_id: 'a', start_unix_nano: '1764000000000000001', duration_ns: '1' }, { span_id: 'b', start_unix_nano: '1764000000000000003', duration_ns: '1' }]);
    expect(tree.nodes.map((node) => node.offset)).toEqual([0, 2e-6]);
  });

  it('shows spans with a missing parent as roots, marked', () => {
    const tree = buildTree([span('a', null, 0), span('x', 'gone', 4), span('y', 'x', 5)]);
    expect(ids(tree, tree.roots)).toEqual(['a', 'x']);
    expect(tree.nodes.map((node) => node.loose)).toEqual([null, 'missing parent', null]);
  });

  it('cuts circles loose and keeps every span exactly once', () => {
    const tree = buildTree([span('a', null, 0), span('p', 'r', 7), span('q', 'p', 5), span('r', 'q', 6), span('self', 'self', 1)]);
    const rows = visibleRows(tree, new Set());
    expect([...rows].sort((left, right) => left - right)).toEqual([0, 1, 2, 3, 4]);
    expect(tree.nodes.filter((node) => node.loose === 'own ancestor').map((node) => node.id)).toEqual(['q', 'self']);
    expect(ids(tree, rows)).toEqual(['a', 'self', 'q', 'r', 'p']);
  });

  it('keeps twins with one id', () => {
    const tree = buildTree([span('a', null, 0), span('t', 'a', 1), span('t', 'a', 2), span('child', 't', 3)]);
    expect(visibleRows(tree, new Set())).toHaveLength(4);
    expect(tree.nodes[1]?.children).toEqual([3]);
  });

  it('counts errors below', () => {
    const tree = buildTree([span('a', null, 0), span('b', 'a', 1, 1, { status: 'error' }), span('c', 'b', 2, 1, { status: 'error' })]);
    expect([tree.errors, tree.nodes[0]?.failedBelow, tree.nodes[1]?.failedBelow]).toEqual([2, 2, 1]);
  });

  it('takes spans without times, with negative durations and with nothing at all', () => {
    const tree = buildTree([{}, { span_id: 'a', start_time: '2026-11-24T05:00:00Z', end_time: '2026-11-24T05:00:01Z' }, span('b', null, 0, -5), { span_id: 7, name: null, status: 3 }]);
    expect(visibleRows(tree, new Set())).toHaveLength(4);
    expect(tree.nodes[2]?.duration).toBe(-5);
    expect(tree.nodes.every((node) => Number.isFinite(node.offset) && Number.isFinite(node.duration))).toBe(true);
    expect(buildTree([])).toMatchObject({ nodes: [], roots: [], total: 0 });
  });

  it('hides what lies below a collapsed span and knows what is above one', () => {
    const tree = buildTree([span('a', null, 0), span('b', 'a', 1), span('c', 'b', 2), span('d', 'a', 3)]);
    expect(ids(tree, visibleRows(tree, new Set([1])))).toEqual(['a', 'b', 'd']);
    expect(ids(tree, ancestors(tree, 2))).toEqual(['b', 'a']);
  });

  it('takes 50,000 nested spans without running out of stack, in less than a second', () => {
    const count = 50_000;
    const spans = Array.from({ length: count }, (_, index) => span(`s${index}`, index === 0 ? null : `s${index - 1}`, 0));
    const begun = performance.now();
    const tree = buildTree(spans);
    const rows = visibleRows(tree, new Set());
    expect(performance.now() - begun).toBeLessThan(1000);
    expect([rows.length, tree.nodes[count - 1]?.depth, tree.nodes[0]?.descendants]).toEqual([count, count - 1, count - 1]);
  });
});
