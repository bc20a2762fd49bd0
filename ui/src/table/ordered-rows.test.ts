import { describe, expect, it } from 'vitest';
import { RowMultiset } from '../live/multiset.ts';
import type { Cell, Column } from '../live/protocol.ts';
import { compareCells, defaultOrder, OrderedRows } from './ordered-rows.ts';

const columns: Column[] = [
  { name: 'user', type: 'Utf8', key: true },
  { name: 'n', type: 'Int64', key: false },
];

describe('compareCells', () => {
  it('orders int64 beyond 2^53 exactly, and nothing before everything', () => {
    expect(compareCells('9007199254740993', '9007199254740992', 'integer')).toBeGreaterThan(0);
    expect(compareCells('9', '10', 'integer')).toBeLessThan(0);
    expect(compareCells(null, '-5', 'integer')).toBeLessThan(0);
    expect(compareCells('NaN', 1, 'number')).toBeGreaterThan(0);
    expect(compareCells('2026-01-01T00:00:00Z', '2026-01-01T00:00:00.5Z', 'time')).toBeLessThan(0);
  });
});

describe('OrderedRows', () => {
  it('begins with the newest window, else with the first column', () => {
    expect(defaultOrder(columns)).toEqual({ column: 0, descending: false });
    expect(defaultOrder([...columns, { name: 'window_end', type: 'Timestamp(µs, UTC)', key: true }, { name: 'window_start', type: 'Timestamp(µs, UTC)', key: true }])).toEqual({ column: 3, descending: true });
  });

  it('filters by all words, also in the shown form of numbers', () => {
    const multiset = new RowMultiset();
    multiset.apply({ reset: true, rows: [[1, 'Ada', '12000'], [1, 'Bob', '12'], [1, 'Adam', '7']] }, 0);
    const ordered = new OrderedRows();
    ordered.setColumns(columns);
    const shown = (filter: string): Cell[] => {
      ordered.arrange(multiset.rows(), { column: 0, descending: false }, filter);
      return ordered.rows.map((row) => row.values[0] ?? null);
    };
    expect(shown('ada')).toEqual(['Ada', 'Adam']);
    expect(shown('ada 7')).toEqual(['Adam']);
    expect(shown('12000')).toEqual(['Ada']);
    expect(shown('zzz')).toEqual([]);
  });

  it('equals a full sort after any sequence of frames', () => {
    let seed = 3;
    const next = (below: number): number => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    for (const descending of [false, true]) {
      const multiset = new RowMultiset();
      const ordered = new OrderedRows();
      ordered.setColumns(columns);
      ordered.arrange([], { column: 1, descending }, 'u');
      for (let frame = 0; frame < 60; frame++) {
        const rows = Array.from({ length: next(20) }, () => [next(5) - 2, `u${next(9)}`, next(8) === 0 ? null : String(next(12))]);
        const change = multiset.apply({ reset: frame % 25 === 0, rows }, frame);
        ordered.apply(change, multiset.rows());
        const oracle = new OrderedRows();
        oracle.setColumns(columns);
        oracle.arrange(multiset.rows(), { column: 1, descending }, 'u');
        expect(ordered.rows).toEqual(oracle.rows);
      }
    }
  });
});
