import { describe, expect, it } from 'vitest';
import { durationTicks, timeTicks, valueTicks } from '../charts/scale.ts';
import { RowMultiset } from '../live/multiset.ts';
import type { Column } from '../live/protocol.ts';
import { chartColumns, viewSeries } from './view-series.ts';

const time = 'Timestamp(µs, UTC)';
const columns: Column[] = [
  { name: 'window_start', type: time, key: true },
  { name: 'window_end', type: time, key: true },
  { name: 'model', type: 'Utf8', key: true },
  { name: 'n', type: 'Int64', key: false },
];

describe('chartColumns', () => {
  it('draws views with windows only', () => {
    expect(chartColumns(columns)).toEqual({ time: 0, end: 1, numbers: [3], groups: [2] });
    expect(chartColumns([{ name: 'user', type: 'Utf8', key: true }, { name: 'last_seen', type: time, key: false }, { name: 'n', type: 'Int64', key: false }])).toBeNull();
  });
});

describe('viewSeries', () => {
  it('makes one line per key, the largest first, with gaps where rows are missing', () => {
    const content = new RowMultiset();
    content.apply({ reset: true, rows: [[1, '2026-01-01T00:01:00Z', '2026-01-01T00:02:00Z', 'a', '5'], [1, '2026-01-01T00:00:00Z', '2026-01-01T00:01:00Z', 'b', '50'], [1, '2026-01-01T00:00:00Z', '2026-01-01T00:01:00Z', 'a', '1']] }, 0);
    const chart = chartColumns(columns);
    expect(chart && viewSeries(content.rows(), columns, chart, 3, 1)).toEqual({ times: [Date.UTC(2026, 0, 1), Date.UTC(2026, 0, 1, 0, 1)], step: 60_000, lines: [{ name: 'b', values: [50, NaN] }], left: 1 });
  });
});

describe('names of lines', () => {
  it('leave out what all have in common, and say what is absent', () => {
    const grouped: Column[] = [{ name: 'project', type: 'Utf8', key: true }, ...columns];
    const content = new RowMultiset();
    content.apply({ reset: true, rows: ['a', '', null].map((model, at) => [1, 'default', '2026-01-01T00:00:00Z', '2026-01-01T00:01:00Z', model, String(9 - at)]) }, 0);
    const chart = chartColumns(grouped);
    expect(chart && viewSeries(content.rows(), grouped, chart, 4).lines.map(({ name }) => name)).toEqual(['a', '(empty)', '(none)']);
  });
});

describe('axes', () => {
  it('are round and cover the values', () => {
    expect(valueTicks(2445)).toEqual([0, 1000, 2000, 3000]);
    for (const max of [1e-9, 0.017, 1, 7, 99, 12_345, 1e12]) expect(valueTicks(max).at(-1)).toBeGreaterThanOrEqual(max * 0.999);
    expect(valueTicks(0)).toEqual([0, 1]);
    expect(durationTicks(3110, 4)).toEqual([0, 1000, 2000, 3000]);
  });

  it('stay within their number', () => {
    for (const hours of [0.01, 0.25, 1, 6, 48, 5000]) expect(timeTicks(0, hours * 3_600_000, 7).length).toBeLessThanOrEqual(8);
    expect(timeTicks(5, 5, 7)).toEqual([]);
  });
});
