/** Where a statement is wrong, and what one press can do about it: only what the server's words leave no doubt of. */
import type { Position, Problem } from '../api/problem.ts';
import type { Catalogue } from './relations.ts';
import { options } from './vocabulary.ts';
import { words } from './words.ts';

export interface Fix {
  readonly label: string;
  /** The statement as it would be. */
  readonly sql: string;
}

/** The server's place; the end where it missed something there; where it names a relation only, the place of that name. */
export function placeOfProblem(problem: Problem, sql: string): Position | null {
  if (problem.position !== null) return problem.position;
  const at = /found:? EOF/.test(problem.message) ? sql.trimEnd().length : offsetOfRelation(problem, sql);
  if (at === null) return null;
  const before = sql.slice(0, at).split('\n');
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

export function fixes(problem: Problem, sql: string, catalogue: Catalogue): Fix[] {
  const found: Fix[] = [];
  const meant = /Did you mean '([^']+)'/.exec(problem.message)?.[1];
  if (meant !== undefined && problem.position !== null) {
    const at = offsetAt(sql, problem.position);
    const wrong = /^(?:[\w$]+|"[^"]*")(?:\.(?:[\w$]+|"[^"]*"))*/.exec(sql.slice(at))?.[0] ?? '';
    // The server qualifies names that were written without.
    const use = wrong.includes('.') ? meant : (meant.split('.').at(-1) ?? meant);
    if (wrong !== '' && use !== wrong) found.push({ label: `Use ${use}`, sql: sql.slice(0, at) + use + sql.slice(at + wrong.length) });
  }
  const relation = unknownRelation(problem);
  const at = offsetOfRelation(problem, sql);
  if (relation !== null && at !== null) {
    const near = nearest(relation, catalogue.relations.map(({ name }) => name));
    if (near !== null) found.push({ label: `Use ${near}`, sql: sql.slice(0, at) + near + sql.slice(at + relation.length) });
  }
  const expected = /expected:? ([A-Z]+), found:? (\w+)/i.exec(problem.message);
  const option = /there is no option "?(\w+)"?/i.exec(problem.message)?.[1];
  for (const [wrong, known] of [[expected?.[2], [expected?.[1] ?? '']], [option, options.map(({ name }) => name)]] as const) {
    const near = wrong === undefined ? null : nearest(wrong, known);
    const place = wrong === undefined || near === null ? undefined : wordAt(sql, wrong, problem.position);
    if (near !== null && wrong !== undefined && place !== undefined) found.push({ label: `Use ${near}`, sql: sql.slice(0, place) + near + sql.slice(place + wrong.length) });
  }
  if (problem.code === 'PF-3001' || /CREATE OR REPLACE/.test(problem.hint ?? '')) {
    const replaced = replacing(sql);
    if (replaced !== sql) found.push({ label: 'Replace the monitor', sql: replaced });
  }
  if (/ORDER BY without LIMIT/.test(`${problem.message} ${problem.hint ?? ''}`)) found.push({ label: 'Add LIMIT 100', sql: limited(sql) });
  return found;
}

/** The same statement as CREATE OR REPLACE. */
export function replacing(sql: string): string {
  const list = words(sql);
  const create = list.findIndex(({ upper }) => upper === 'CREATE');
  const first = list[create];
  if (first === undefined || list[create + 1]?.upper !== 'MONITOR') return sql;
  const exists = list[create + 2]?.upper === 'IF' ? list[create + 4] : undefined;
  return `${sql.slice(0, first.end)} OR REPLACE MONITOR${sql.slice((exists ?? list[create + 1] ?? first).end)}`;
}

function limited(sql: string): string {
  const list = words(sql);
  const emit = list.findLast(({ upper }) => upper === 'EMIT');
  const end = emit?.start ?? (list.at(-1)?.text === ';' ? list.at(-1)?.start : undefined) ?? sql.trimEnd().length;
  const head = sql.slice(0, end).trimEnd();
  const tail = sql.slice(end).trimStart();
  return `${head}\nLIMIT 100${tail === '' ? '' : tail === ';' ? ';' : `\n${tail}`}`;
}

function offsetAt(sql: string, position: Position): number {
  const before = sql.split('\n').slice(0, position.line - 1);
  return before.reduce((sum, line) => sum + line.length + 1, 0) + position.column - 1;
}

function unknownRelation(problem: Problem): string | null {
  return /there is no (?:stream or view|relation|view|stream) "?([\w$]+)"?/i.exec(problem.message)?.[1] ?? null;
}

function offsetOfRelation(problem: Problem, sql: string): number | null {
  const name = unknownRelation(problem);
  if (name === null) return null;
  return wordAt(sql, name, problem.position) ?? null;
}

/** Where a word stands: at the place told, or where it is first. */
function wordAt(sql: string, name: string, position: Position | null): number | undefined {
  const at = position === null ? -1 : offsetAt(sql, position);
  if (at >= 0 && sql.slice(at, at + name.length).toLowerCase() === name.toLowerCase()) return at;
  return words(sql).find((word) => word.upper === name.toUpperCase())?.start;
}

/** The name that few letters tell from `name`; `null` where none is near. */
export function nearest(name: string, names: readonly string[]): string | null {
  let best: string | null = null;
  let least = Math.max(1, Math.floor(name.length / 3)) + 1;
  for (const one of names) {
    if (Math.abs(one.length - name.length) >= least) continue;
    const far = distance(name.toLowerCase(), one.toLowerCase());
    if (far < least && far > 0) {
      least = far;
      best = one;
    }
  }
  return best;
}

/** Letters to put in, take out or change (Levenshtein). */
function distance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let at = 1; at <= left.length; at++) {
    const next = [at];
    for (let to = 1; to <= right.length; to++) next[to] = Math.min((row[to] ?? 0) + 1, (next[to - 1] ?? 0) + 1, (row[to - 1] ?? 0) + (left[at - 1] === right[to - 1] ? 0 : 1));
    row = next;
  }
  return row[right.length] ?? 0;
}
