/** What the page has to know of a statement before the server has read it. */
/** The name that a statement gives its monitor; `null` where it gives none. */
export function monitorName(sql: string): string | null {
  const bare = sql.replace(/^(?:\s|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*/, '');
  const found = /^CREATE\s+(?:OR\s+REPLACE\s+)?MONITOR\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"((?:[^"]|"")+)"|([\p{L}_][\p{L}\p{N}_$]*))/iu.exec(bare);
  if (!found) return null;
  return found[1] === undefined ? (found[2] ?? '').toLowerCase() : found[1].replaceAll('""', '"');
}

/** A name as SQL writes it: quoted unless it is a plain lower-case word. */
export function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
