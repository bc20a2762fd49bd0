/** Lines for a chart out of a view with windows: one per key (all key columns but the time), one point per row. */
import { cellText, columnKind, isNumeric, toMillis, toNumber, type ColumnKind } from '../format.ts';
import type { Row } from '../live/multiset.ts';
import type { Cell, Column } from '../live/protocol.ts';

export interface ChartColumns {
  readonly time: number;
  readonly end: number | null;
  /** Columns that can be drawn. */
  readonly numbers: readonly number[];
  readonly groups: readonly number[];
}

/** `null` where the view has no windows or nothing to draw. A time that is not part of the key is no axis. */
export function chartColumns(columns: readonly Column[]): ChartColumns | null {
  const kinds = columns.map((column) => columnKind(column.type));
  const times = kinds.flatMap((kind, index) => (kind === 'time' ? [index] : []));
  const time = times.find((index) => columns[index]?.name === 'window_start') ?? times.find((index) => columns[index]?.key === true);
  if (time === undefined) return null;
  const end = times.find((index) => columns[index]?.name === 'window_end') ?? null;
  const numbers = kinds.flatMap((kind, index) => (isNumeric(kind) && columns[index]?.key !== true ? [index] : []));
  const anyKey = columns.some((column) => column.key);
  const groups = columns.flatMap((column, index) => (index !== time && index !== end && (anyKey ? column.key : kinds[index] === 'text') ? [index] : []));
  return numbers.length === 0 ? null : { time, end, numbers, groups };
}

export interface ViewSeries {
  readonly times: readonly number[];
  readonly step: number;
  readonly lines: readonly { readonly name: string; readonly values: readonly number[] }[];
  /** Keys beyond those drawn. */
  readonly left: number;
}

export function viewSeries(rows: Iterable<Row>, columns: readonly Column[], chart: ChartColumns, number: number, mostLines = 5, mostTimes = 240): ViewSeries {
  const byName = new Map<string, Map<number, number>>();
  const sizes = new Map<string, number>();
  const times = new Set<number>();
  const seen = chart.groups.map(() => new Set<string>());
  let step = Infinity;
  for (const row of rows) {
    const time = toMillis(row.values[chart.time]);
    const value = toNumber(row.values[number]);
    if (!Number.isFinite(time) || !Number.isFinite(value)) continue;
    if (chart.end !== null) {
      const length = toMillis(row.values[chart.end]) - time;
      if (length > 0) step = Math.min(step, length);
    }
    const parts = chart.groups.map((index) => groupText(row.values[index], columnKind(columns[index]?.type ?? '')));
    const name = JSON.stringify(parts);
    for (const [at, part] of parts.entries()) seen[at]?.add(part);
    times.add(time);
    let line = byName.get(name);
    if (!line) byName.set(name, (line = new Map<number, number>()));
    line.set(time, value);
    sizes.set(name, (sizes.get(name) ?? 0) + Math.abs(value));
  }
  const ordered = [...times].sort((left, right) => left - right).slice(-mostTimes);
  if (!Number.isFinite(step)) step = smallestGap(ordered);
  const largest = [...byName.keys()].sort((left, right) => (sizes.get(right) ?? 0) - (sizes.get(left) ?? 0));
  // What is the same for all of them says nothing.
  const shown = (name: string): string => (JSON.parse(name) as string[]).filter((_, at) => (seen[at]?.size ?? 0) > 1).join(' · ');
  return {
    times: ordered,
    step,
    lines: largest.slice(0, mostLines).map((name) => ({ name: shown(name), values: ordered.map((time) => byName.get(name)?.get(time) ?? NaN) })),
    left: Math.max(0, largest.length - mostLines),
  };
}

/** A part of a line's name; what is absent is said, since a blank would look like a fault. */
export function groupText(cell: Cell | undefined, kind: ColumnKind): string {
  return cell === '' ? '(empty)' : cell === null || cell === undefined ? '(none)' : cellText(cell, kind);
}

function smallestGap(times: readonly number[]): number {
  let gap = Infinity;
  for (let index = 1; index < times.length; index++) gap = Math.min(gap, (times[index] ?? 0) - (times[index - 1] ?? 0));
  return Number.isFinite(gap) ? gap : 60_000;
}
