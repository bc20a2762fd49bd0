/** Answers of the internal relations as records, and what two looks at counters say about the time between them. */
import { Problem } from '../api/problem.ts';
import type { SqlAnswer } from '../api/types.ts';
import { toNumber } from '../format.ts';
import type { Cell } from '../live/protocol.ts';

/** A row by the names of its columns. */
export type Entry = Readonly<Record<string, Cell>>;

export function entries(answer: SqlAnswer): Entry[] {
  return answer.rows.map((row) => Object.fromEntries(answer.columns.map((column, index) => [column.name, row[index] ?? null])));
}

/** A number of a record; 0 where it is absent. */
export function amount(entry: Entry, name: string): number {
  const number = toNumber(entry[name] ?? 0);
  return Number.isFinite(number) ? number : 0;
}

export function textOf(entry: Entry, name: string): string {
  const cell = entry[name];
  return cell === null || cell === undefined ? '' : typeof cell === 'object' ? JSON.stringify(cell) : String(cell);
}

/** Names in a list with commas. */
export function names(text: string): string[] {
  return text.split(',').map((name) => name.trim()).filter((name) => name !== '');
}

/** Counters at one moment, by what they count for. */
export interface Reading {
  /** Milliseconds. */
  readonly at: number;
  readonly counts: ReadonlyMap<string, number>;
}

/** How much a second since the reading before; a counter that fell was begun anew, and nothing is known of it. */
export function perSecond(now: Reading, before: Reading | null): Map<string, number> {
  const rates = new Map<string, number>();
  const seconds = before === null ? 0 : (now.at - before.at) / 1000;
  if (before === null || seconds <= 0) return rates;
  for (const [name, count] of now.counts) {
    const old = before.counts.get(name);
    if (old !== undefined && count >= old) rates.set(name, (count - old) / seconds);
  }
  return rates;
}

/** Whether the server does not know a relation, as one without it does not. */
export function isMissing(problem: Problem): boolean {
  return (problem.status === 400 || problem.status === 404) && /not found|there is no|unknown/i.test(problem.message);
}

/** The rows in the order of one of their columns, the same rows always in the same order. */
export function sorted<Row>(rows: readonly Row[], by: (row: Row) => number | string, descending: boolean): Row[] {
  const keyed = rows.map((row, index) => ({ row, index, key: by(row) }));
  keyed.sort((left, right) => {
    const order = typeof left.key === 'number' && typeof right.key === 'number' ? compareNumbers(left.key, right.key) : String(left.key).localeCompare(String(right.key), 'en', { numeric: true });
    return (descending ? -order : order) || left.index - right.index;
  });
  return keyed.map(({ row }) => row);
}

/** What is not known comes below all that is. */
function compareNumbers(left: number, right: number): number {
  return (Number.isNaN(left) ? -Infinity : left) < (Number.isNaN(right) ? -Infinity : right) ? -1 : left === right || (Number.isNaN(left) && Number.isNaN(right)) ? 0 : 1;
}
