/** The words of a statement that mean something: no blanks, no comments, each with its place. */
import { tokens, type TokenKind } from './tokens.ts';

export interface Word {
  readonly kind: TokenKind;
  /** As written. */
  readonly text: string;
  /** As a keyword is compared: upper case, empty for texts and quoted names. */
  readonly upper: string;
  readonly start: number;
  readonly end: number;
}

export function words(sql: string): Word[] {
  const all: Word[] = [];
  let start = 0;
  for (const { kind, text } of tokens(sql)) {
    const end = start + text.length;
    if (kind !== 'comment' && text.trim() !== '') all.push({ kind, text, upper: kind === 'string' || text.startsWith('"') ? '' : text.toUpperCase(), start, end });
    start = end;
  }
  return all;
}

export function isName(word: Word | undefined): word is Word & { readonly kind: 'name' | 'function' } {
  return word !== undefined && (word.kind === 'name' || word.kind === 'function');
}

/** The name a word stands for: unquoted, or in lower case as SQL reads bare words. */
export function nameOf(word: Word): string {
  return word.text.startsWith('"') ? word.text.replace(/^"|"$/g, '').replaceAll('""', '"') : word.text.toLowerCase();
}

/** For every `(` and `[` where its partner is; `count` where it has none yet. */
export function partners(list: readonly Word[]): readonly (number | undefined)[] {
  const found: (number | undefined)[] = new Array<number | undefined>(list.length).fill(undefined);
  const open: number[] = [];
  for (const [index, { text }] of list.entries()) {
    if (text === '(' || text === '[') open.push(index);
    else if (text === ')' || text === ']') {
      const start = open.pop();
      if (start !== undefined) found[start] = index;
    }
  }
  for (const start of open) found[start] = list.length;
  return found;
}
