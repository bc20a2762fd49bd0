/** The largest rows of a view without windows, for bars: one per key, by one of its numbers. */
import { columnKind, isNumeric, toNumber } from '../format.ts';
import type { Row } from '../live/multiset.ts';
import type { Column } from '../live/protocol.ts';
import { groupText } from './view-series.ts';

export interface RankColumns {
  readonly numbers: readonly number[];
  readonly groups: readonly number[];
}

/** `null` where there is nothing to compare, or nothing to call it by. */
export function rankColumns(columns: readonly Column[]): RankColumns | null {
  const kinds = columns.map((column) => columnKind(column.type));
  const anyKey = columns.some((column) => column.key);
  const numbers = kinds.flatMap((kind, index) => (isNumeric(kind) && columns[index]?.key !== true ? [index] : []));
  const groups = columns.flatMap((column, index) => ((anyKey ? column.key : kinds[index] === 'text') ? [index] : []));
  return numbers.length === 0 || groups.length === 0 ? null : { numbers, groups };
}

export interface Ranks {
  readonly bars: readonly { readonly sequence: number; readonly name: string; readonly value: number }[];
  /** Rows with a number beyond those drawn. */
  readonly left: number;
}

export function viewRanks(rows: Iterable<Row>, columns: readonly Column[], chart: RankColumns, number: number, most = 15): Ranks {
  let top: { row: Row; value: number }[] = [];
  let count = 0;
  let least = -Infinity;
  for (const row of rows) {
    const value = toNumber(row.values[number]);
    if (!Number.isFinite(value)) continue;
    count++;
    if (Math.abs(value) <= least) continue;
    top.push({ row, value });
    // Sorted now and then, not with every row.
    if (top.length >= most * 8) {
      top = largest(top, most);
      least = Math.abs(top.at(-1)?.value ?? -Infinity);
    }
  }
  top = largest(top, most);
  const bars = top.map(({ row, value }) => ({ sequence: row.sequence, value, name: chart.groups.map((index) => groupText(row.values[index], columnKind(columns[index]?.type ?? ''))).join(' · ') }));
  return { bars, left: count - bars.length };
}

function largest(list: readonly { row: Row; value: number }[], most: number): { row: Row; value: number }[] {
  return list.toSorted((left, right) => Math.abs(right.value) - Math.abs(left.value) || left.row.sequence - right.row.sequence).slice(0, most);
}
