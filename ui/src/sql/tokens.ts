/** Splits SQL for colouring. It never fails: what is not known is plain text, and the pieces always add up to the input. */

export type TokenKind = 'keyword' | 'function' | 'string' | 'number' | 'comment' | 'name' | 'plain';

export interface Token {
  readonly kind: TokenKind;
  readonly text: string;
}

const keywords = new Set(
  `all analyze and as asc backfill between by case cast changes correct create cross cube current desc describe distinct drop else emit end erase escape
  except exists explain extract false filter final first following from full group grouping having hop if ilike in inner insert intersect interval into is
  join last lateral left like limit materialized monitor monitors natural not null nulls offset on or order outer over partition preceding range replace right
  rollup row rows select session sets show similar stream streams table then to true tumble unbounded union unnest using values view when where window with within`.split(/\s+/),
);

const pattern = /(--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|('(?:[^']|'')*(?:'|$))|("(?:[^"]|"")*(?:"|$))|(\d+(?:\.\d+)?(?:e[+-]?\d+)?)|([\p{L}_][\p{L}\p{N}_$]*)|(\s+|[^\s])/giu;

export function tokens(sql: string): Token[] {
  const all: Token[] = [];
  for (const match of sql.matchAll(pattern)) {
    const text = match[0];
    const kind: TokenKind =
      match[1] !== undefined ? 'comment'
      : match[2] !== undefined ? 'string'
      : match[3] !== undefined ? 'name'
      : match[4] !== undefined ? 'number'
      : match[5] !== undefined
        ? keywords.has(text.toLowerCase()) ? 'keyword'
        : /^\s*\(/.test(sql.slice(match.index + text.length, match.index + text.length + 8)) ? 'function'
        : 'name'
      : 'plain';
    all.push({ kind, text });
  }
  return all;
}
