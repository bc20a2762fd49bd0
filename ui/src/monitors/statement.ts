/** What the page has to know of a statement before the server has read it. */
import type { Position } from '../api/problem.ts';

/** The name that a statement gives its monitor; `null` where it gives none. */
export function monitorName(sql: string): string | null {
  const bare = sql.replace(/^(?:\s|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*/, '');
  const found = /^CREATE\s+(?:OR\s+REPLACE\s+)?MONITOR\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"((?:[^"]|"")+)"|([\p{L}_][\p{L}\p{N}_$]*))/iu.exec(bare);
  if (!found) return null;
  return found[1] === undefined ? (found[2] ?? '').toLowerCase() : found[1].replaceAll('""', '"');
}

const prefix = 'EXPLAIN ';

export function explained(sql: string): string {
  return prefix + sql;
}

/** A place in the explained statement as a place in the statement itself. */
export function withoutPrefix(position: Position | null): Position | null {
  if (position?.line !== 1) return position;
  return { line: 1, column: Math.max(1, position.column - prefix.length) };
}

/** A name as SQL writes it: quoted unless it is a plain lower-case word. */
export function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
