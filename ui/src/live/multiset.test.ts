import { describe, expect, it } from 'vitest';
import { RowMultiset } from './multiset.ts';
import type { Cell } from './protocol.ts';

const columns = [
  { name: 'user', type: 'Utf8', key: true },
  { name: 'n', type: 'Int64', key: false },
];

function content(multiset: RowMultiset): Record<string, number> {
  return Object.fromEntries([...multiset.rows()].map((row) => [JSON.stringify(row.values), row.count]));
}

function make(): RowMultiset {
  const multiset = new RowMultiset();
  multiset.setColumns(columns);
  return multiset;
}

describe('RowMultiset', () => {
  it('adds up diffs of any size and forgets rows that come to nothing', () => {
    const multiset = make();
    multiset.apply({ reset: true, rows: [[2, 'a', '1'], [1, 'b', '5']] }, 0);
    multiset.apply({ reset: false, rows: [[-1, 'a', '1'], [3, 'b', '5'], [1, 'c', '9']] }, 0);
    expect(content(multiset)).toEqual({ '["a","1"]': 1, '["b","5"]': 4, '["c","9"]': 1 });
    const change = multiset.apply({ reset: false, rows: [[-1, 'a', '1']] }, 0);
    expect(change.removed.map((row) => row.values)).toEqual([['a', '1']]);
    expect(multiset.size).toBe(2);
  });

  it('reports the difference before and after a frame, not its steps', () => {
    const multiset = make();
    multiset.apply({ reset: true, rows: [[1, 'a', '1']] }, 0);
    const change = multiset.apply({ reset: false, rows: [[-1, 'a', '1'], [1, 'a', '1'], [1, 'b', '2'], [-1, 'b', '2']] }, 7);
    expect(change).toEqual({ reset: false, added: [], removed: [], recounted: [] });
  });

  it('forgets everything on reset and reports what left', () => {
    const multiset = make();
    multiset.apply({ reset: true, rows: [[1, 'a', '1'], [1, 'b', '2']] }, 0);
    const change = multiset.apply({ reset: true, rows: [[1, 'b', '3']] }, 0);
    expect(change.removed).toHaveLength(2);
    expect(content(multiset)).toEqual({ '["b","3"]': 1 });
  });

  it('marks the cells that changed under the same key, and no snapshot', () => {
    const multiset = make();
    const first = multiset.apply({ reset: true, rows: [[1, 'a', '1']] }, 5);
    expect(first.added[0]?.changedAt).toBe(0);
    const change = multiset.apply({ reset: false, rows: [[1, 'a', '2'], [-1, 'a', '1'], [1, 'z', '1']] }, 9);
    expect(change.added.map((row) => [row.values[0], row.changedAt, row.changedCells])).toEqual([['a', 9, [false, true]], ['z', 9, null]]);
  });

  it('tells rows apart whose text looks alike', () => {
    const multiset = make();
    multiset.apply({ reset: true, rows: [[1, '1', null], [1, 1, null], [1, null, '1'], [1, 'null', '1'], [1, 'a,b', ''], [1, 'a', 'b']] }, 0);
    expect(multiset.size).toBe(6);
  });

  it('keeps counts below zero so that later frames add up, and tells of them', () => {
    const multiset = make();
    multiset.apply({ reset: true, rows: [[-1, 'a', '1']] }, 0);
    expect(multiset.negative).toBe(1);
    multiset.apply({ reset: false, rows: [[1, 'a', '1']] }, 0);
    expect([multiset.negative, multiset.size]).toEqual([0, 0]);
  });

  it('equals a plain sum over any sequence of frames', () => {
    let seed = 17;
    const next = (below: number): number => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    for (let run = 0; run < 50; run++) {
      const multiset = make();
      const oracle = new Map<string, number>();
      const replica = new Map<string, number>();
      for (let frame = 0; frame < 20; frame++) {
        const reset = frame === 0 || next(10) === 0;
        const rows: Cell[][] = Array.from({ length: next(12) }, () => [next(7) - 3, `u${next(4)}`, String(next(3))]);
        if (reset) oracle.clear();
        for (const [diff, ...values] of rows) {
          const key = JSON.stringify(values);
          oracle.set(key, (oracle.get(key) ?? 0) + Number(diff));
        }
        const change = multiset.apply({ reset, rows }, 0);
        if (reset) replica.clear();
        for (const row of change.removed) replica.delete(JSON.stringify(row.values));
        for (const row of [...change.added, ...change.recounted]) replica.set(JSON.stringify(row.values), row.count);
        const expected = Object.fromEntries([...oracle].filter(([, count]) => count !== 0));
        expect(content(multiset)).toEqual(expected);
        expect(Object.fromEntries(replica)).toEqual(expected);
      }
    }
  });
});
