import { expect, test } from 'vitest';
import type { Row } from '../live/multiset.ts';
import { rankColumns, viewRanks } from './view-ranks.ts';

const columns = [{ name: 'user', type: 'Utf8', key: true }, { name: 'n', type: 'Int64', key: false }];
const row = (sequence: number, user: string | null, n: string | null): Row => ({ values: [user, n], count: 1, sequence, changedAt: 0, changedCells: null });

test('the largest rows by one of their numbers, named by their key', () => {
  const chart = rankColumns(columns);
  expect(chart).toEqual({ numbers: [1], groups: [0] });
  if (chart === null) return;
  const rows = Array.from({ length: 500 }, (_, index) => row(index, `u${index}`, String((index * 7919) % 500)));
  const ranks = viewRanks([...rows, row(900, null, '-1000'), row(901, '', 'NaN'), row(902, 'x', null)], columns, chart, 1, 3);
  expect(ranks.bars.map(({ name, value }) => [name, value])).toEqual([['(none)', -1000], [expect.any(String), 499], [expect.any(String), 498]]);
  expect(ranks.left).toBe(498);
});

test('nothing to compare, or nothing to call it by', () => {
  expect(rankColumns([{ name: 'n', type: 'Int64', key: false }])).toBeNull();
  expect(rankColumns([{ name: 'user', type: 'Utf8', key: true }])).toBeNull();
});
