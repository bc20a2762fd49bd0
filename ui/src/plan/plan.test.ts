import { describe, expect, test } from 'vitest';
import { extent, layout, type Size } from './layout.ts';
import { figures, parsePlan, planNodes, readsOf, type PlanNode } from './nodes.ts';

const text = `Project: user_id, n
  Join: user_id = user_id_2
    Aggregate: by user_id; count(*) AS n
      Source: spans
    View: tool_calls
  Union
`;
const size: Size = { across: 100, along: 40, gapAcross: 20, gapAlong: 30 };

function node(number: number, inputs: number[]): PlanNode {
  return { node: number, inputs, title: `n${number}`, detail: '', sharedWith: [] };
}

describe('nodes', () => {
  test('from the text: title, detail, inputs by depth', () => {
    const nodes = parsePlan(text);
    expect(nodes.map(({ title, detail, inputs }) => [title, detail, inputs])).toEqual([
      ['Project', 'user_id, n', [1, 5]],
      ['Join', 'user_id = user_id_2', [2, 4]],
      ['Aggregate', 'by user_id; count(*) AS n', [3]],
      ['Source', 'spans', []],
      ['View', 'tool_calls', []],
      ['Union', '', []],
    ]);
    expect(readsOf(nodes)).toEqual([{ kind: 'stream', name: 'spans' }, { kind: 'view', name: 'tool_calls' }]);
    expect(parsePlan('')).toEqual([]);
  });
  test('a colon in the detail stays there', () => {
    expect(parsePlan("Filter: (x = 'a: b')")[0]).toMatchObject({ title: 'Filter', detail: "(x = 'a: b')" });
  });
  test("the server's list goes before the text", () => {
    const told = planNodes({ plan: text, nodes: [{ node: 0, inputs: [], title: 'Source', detail: null, shared_with: ['other'] }] });
    expect(told).toEqual([{ node: 0, inputs: [], title: 'Source', detail: '', sharedWith: ['other'] }]);
    expect(planNodes({ plan: text })).toHaveLength(6);
  });
});

describe('layout', () => {
  /** No two nodes may touch; what is read stands before what reads it. */
  function sound(nodes: readonly PlanNode[], direction: 'down' | 'right'): void {
    const { places, edges, width, height } = layout(nodes, size, direction);
    expect(places.size).toBe(nodes.length);
    const box = direction === 'down' ? [size.across, size.along] as const : [size.along, size.across] as const;
    const all = [...places.values()];
    for (const [at, one] of all.entries()) {
      expect(one.x).toBeGreaterThanOrEqual(0);
      expect(one.y).toBeGreaterThanOrEqual(0);
      expect(one.x + box[0]).toBeLessThanOrEqual(width + 1e-6);
      expect(one.y + box[1]).toBeLessThanOrEqual(height + 1e-6);
      for (const other of all.slice(at + 1)) expect(Math.abs(one.x - other.x) >= box[0] || Math.abs(one.y - other.y) >= box[1]).toBe(true);
    }
    for (const { from, to } of edges) {
      const [source, target] = [places.get(from), places.get(to)];
      if (direction === 'down') expect(source?.y).toBeLessThan(target?.y ?? 0);
      else expect(source?.x).toBeLessThan(target?.x ?? 0);
    }
  }
  test.each(['down', 'right'] as const)('one node, a chain, a tree and a shared node, %s', (direction) => {
    sound([node(0, [])], direction);
    sound([node(0, [1]), node(1, [2]), node(2, [])], direction);
    sound(parsePlan(text), direction);
    sound([node(0, [1, 2]), node(1, [3]), node(2, [3]), node(3, [])], direction);
    expect(layout([node(0, [1, 2]), node(1, [3]), node(2, [3]), node(3, [])], size, direction).edges).toHaveLength(4);
  });
  test('trees of any form, to 60 nodes', () => {
    let state = 7;
    const random = (below: number): number => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return state % below;
    };
    for (let round = 0; round < 60; round++) {
      const count = 1 + random(60);
      const inputs: number[][] = Array.from({ length: count }, () => []);
      for (let at = 1; at < count; at++) inputs[round % 2 === 0 ? random(at) : Math.max(0, at - 1 - random(3))]?.push(at);
      sound(inputs.map((list, at) => node(at, list)), round % 3 === 0 ? 'right' : 'down');
    }
  });
  test('a parent stands over the middle of what it reads', () => {
    const { places } = layout([node(0, [1, 2]), node(1, []), node(2, [])], size, 'down');
    expect(places.get(0)?.x).toBe(((places.get(1)?.x ?? 0) + (places.get(2)?.x ?? 0)) / 2);
  });
  test('a loop, several results and inputs that are not there are survived', () => {
    for (const nodes of [[node(0, [1]), node(1, [0])], [node(0, []), node(1, [])], [node(0, [7])], [node(0, [0])], []]) {
      expect(layout(nodes, size, 'down').places.size).toBe(nodes.length);
    }
    expect(extent(parsePlan(text))).toEqual({ long: 4, wide: 2 });
  });
});

describe('figures', () => {
  test('shares of the time, and rates between two looks', () => {
    const before = { at: 1000, analyze: [{ node: 0, rows_out: '100', busy_us: 10 }] };
    const now = { at: 3000, analyze: [{ node: 0, rows_out: '300', busy_us: 30, state_rows: 5, state_bytes: '640' }, { node: 1, busy_us: 90 }] };
    const found = figures(now, before);
    expect(found.get(0)).toEqual({ rowsOut: 300, stateRows: 5, stateBytes: 640, busyMicros: 30, busyShare: 0.25, rowsPerSecond: 100 });
    expect(found.get(1)).toMatchObject({ rowsOut: 0, busyShare: 0.75, rowsPerSecond: NaN });
    expect(figures({ at: 1, analyze: [{ node: 0 }] }, null).get(0)?.busyShare).toBe(0);
    // Counters that begin anew say nothing about a rate.
    expect(figures({ at: 5000, analyze: [{ node: 0, rows_out: 1 }] }, before).get(0)?.rowsPerSecond).toBeNaN();
  });
});
