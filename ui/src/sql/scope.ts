/**
 * What the names at a place of a statement can mean: the relations of its FROM, what their columns are, which queries
 * WITH has named. It reads the words, not the grammar: a statement that is half written is the usual case.
 */
import type { Catalogue, RelationColumn } from './relations.ts';
import { isName, nameOf, partners, words, type Word } from './words.ts';

/** A relation of a FROM under the name by which its columns are called. */
export interface Source {
  readonly alias: string;
  /** The name of the relation, as written; empty for a subquery. */
  readonly relation: string;
  readonly columns: readonly RelationColumn[];
}

type Named = ReadonlyMap<string, readonly RelationColumn[]>;

export interface Scope {
  /** Those of the query at the place first, then those of the queries around it. */
  readonly sources: readonly Source[];
  /** How many of `sources` belong to the query at the place itself. */
  readonly own: number;
  /** The queries named by WITH. */
  readonly named: Named;
  /** The columns that the query at the place selects. */
  readonly selected: readonly RelationColumn[];
  /** The keyword whose clause the place is in, in upper case; empty before the query. */
  readonly clause: string;
}

const clauses = new Set(['SELECT', 'FROM', 'WHERE', 'GROUP', 'HAVING', 'QUALIFY', 'ORDER', 'LIMIT', 'OFFSET', 'EMIT', 'WINDOW']);
const sets = new Set(['UNION', 'INTERSECT', 'EXCEPT']);
const windows = new Set(['TUMBLE', 'HOP', 'SESSION']);
const joins = new Set(['JOIN', ',']);
const deepest = 40;
const time = 'Timestamp(µs, UTC)';
const windowColumns: readonly RelationColumn[] = [
  { name: 'window_start', type: time, about: 'Where the window begins.' },
  { name: 'window_end', type: time, about: 'Where the window ends.' },
];

interface Query {
  readonly sources: readonly Source[];
  readonly columns: readonly RelationColumn[];
  readonly named: Named;
}

export class Statement {
  readonly words: readonly Word[];
  readonly #close: readonly (number | undefined)[];
  readonly #catalogue: Catalogue;

  constructor(sql: string, catalogue: Catalogue) {
    this.words = words(sql);
    this.#close = partners(this.words);
    this.#catalogue = catalogue;
  }

  /** The index of the `(` that encloses word `at` most closely, from the innermost out. */
  enclosing(at: number): number[] {
    const open: number[] = [];
    for (let index = 0; index < at; index++) if (this.#opens(index) && (this.#close[index] ?? 0) >= at) open.unshift(index);
    return open;
  }

  /** What can be meant just before word `at` (or at the end, with the number of words). */
  scopeAt(at: number): Scope {
    let named: Named = new Map();
    let sources: readonly Source[] = [];
    let own = 0;
    let selected: readonly RelationColumn[] = [];
    let clause = '';
    const ranges = [[this.#bodyStart(), this.words.length] as const, ...this.enclosing(at).reverse().filter((open) => this.isQuery(open + 1)).map((open) => [open + 1, this.#closeOf(open)] as const)];
    for (const [start, end] of ranges.slice(-deepest)) {
      if (at < start) continue;
      const arm = this.#named(start, end, named, 0, at);
      named = arm.named;
      // A query in FROM or WITH does not see what stands beside it.
      const outside = this.words[start - 2];
      if (outside !== undefined && (outside.upper === 'AS' || (clause === 'FROM' && (joins.has(outside.upper) || outside.upper === 'FROM')))) sources = [];
      if (at < arm.start) continue;
      const [from, to] = this.#arms(arm.start, end).findLast(([first]) => first <= at) ?? [arm.start, end];
      const query = this.#readArm(from, to, named, 0);
      sources = [...query.sources, ...sources];
      own = query.sources.length;
      selected = query.columns;
      clause = '';
      for (const index of this.#level(from, Math.min(to, at))) if (this.#isClause(index)) clause = this.words[index]?.upper ?? '';
    }
    return { sources, own, named, selected, clause };
  }

  /** Every relation that the statement reads by name, without those that WITH defines. */
  reads(): string[] {
    const defined = new Set<string>();
    const read = new Set<string>();
    for (const [index, word] of this.words.entries()) {
      if (word.upper === 'AS' && this.words[index + 1]?.text === '(' && this.isQuery(index + 2)) {
        const before = this.words[index - 1];
        if (isName(before)) defined.add(nameOf(before));
      }
    }
    // Clause by clause in one pass, since statements may be long lists.
    const open = [{ query: true, clause: '' }];
    for (const [index, word] of this.words.entries()) {
      const level = open.at(-1) ?? { query: false, clause: '' };
      const before = this.words[index - 1]?.upper ?? '';
      if (level.query && this.#isClause(index)) level.clause = word.upper;
      const grouped = word.text === '(' && (before === 'FROM' || before === 'JOIN' || windows.has(before));
      if (word.text === '(') open.push({ query: this.isQuery(index + 1), clause: '' });
      else if (word.text === ')' && open.length > 1) open.pop();
      if (!grouped && word.upper !== 'JOIN' && !(level.query && level.clause === 'FROM' && (word.upper === 'FROM' || word.text === ','))) continue;
      const path = this.#path(index + 1);
      const name = path.names.at(-1);
      if (name === undefined || this.words[path.next]?.text === '(' || (path.names.length === 1 && defined.has(name))) continue;
      read.add(path.names[0] === 'live' || path.names.length === 1 ? name : path.names.join('.'));
    }
    return [...read];
  }

  /** The columns of a window function's first argument; `open` is its parenthesis. */
  windowed(open: number, named: Named): readonly RelationColumn[] {
    return this.#relationAt(open + 1, named, 0)?.columns ?? [];
  }

  #opens(index: number): boolean {
    return this.#close[index] !== undefined;
  }

  #closeOf(open: number): number {
    return this.#close[open] ?? this.words.length;
  }

  /** Whether a query begins at a word. */
  isQuery(start: number): boolean {
    const first = this.words[start]?.upper;
    return first === 'SELECT' || first === 'WITH';
  }

  #isClause(index: number): boolean {
    const word = this.words[index];
    if (word === undefined || !clauses.has(word.upper)) return false;
    // IS DISTINCT FROM is an operator; a name after a dot is a name.
    const before = this.words[index - 1];
    return !(before?.text === '.' && before.end === word.start) && !(word.upper === 'FROM' && before?.upper === 'DISTINCT' && this.words[index - 2]?.upper !== 'SELECT') && !(word.upper === 'ORDER' && before?.text === '(');
  }

  /** Where the query of a statement begins: after CREATE MONITOR … AS, EXPLAIN MONITOR and the like. */
  #bodyStart(): number {
    for (const index of this.#level(0, this.words.length)) {
      const { upper } = this.words[index] ?? { upper: '' };
      if (upper === 'SELECT' || (upper === 'WITH' && this.words[index + 1]?.text !== '(')) return index;
    }
    return this.words.length;
  }

  /** The words between two places that stand in no parentheses of their own. */
  *#level(start: number, end: number): Generator<number> {
    for (let index = start; index < end; index++) {
      yield index;
      if (this.#opens(index)) index = this.#closeOf(index) - 1;
    }
  }

  #arms(start: number, end: number): (readonly [number, number])[] {
    const cuts = [...this.#level(start, end)].filter((index) => sets.has(this.words[index]?.upper ?? ''));
    const starts = [start, ...cuts.map((cut) => cut + (/^(ALL|DISTINCT)$/.test(this.words[cut + 1]?.upper ?? '') ? 2 : 1))];
    return starts.map((from, index) => [from, cuts[index] ?? end] as const);
  }

  /** The queries that `WITH` names at `start`, as far as they are whole `before` a word, and where the query itself begins. */
  #named(start: number, end: number, outer: Named, depth: number, before = Infinity): { named: Named; start: number } {
    if (this.words[start]?.upper !== 'WITH') return { named: outer, start };
    const named = new Map(outer);
    let index = start + 1;
    for (;;) {
      const name = this.words[index];
      if (!isName(name)) break;
      index++;
      let renamed: string[] = [];
      if (this.words[index]?.text === '(') {
        renamed = this.#names(index);
        index = this.#closeOf(index) + 1;
      }
      if (this.words[index]?.upper !== 'AS' || this.words[index + 1]?.text !== '(') break;
      const close = this.#closeOf(index + 1);
      if (depth < deepest && close < before) named.set(nameOf(name), renames(this.#read(index + 2, Math.min(close, end), named, depth + 1).columns, renamed));
      index = close + 1;
      if (this.words[index]?.text !== ',') break;
      index++;
    }
    return { named, start: Math.min(index, end) };
  }

  #read(start: number, end: number, outer: Named, depth: number): Query {
    const { named, start: body } = this.#named(start, end, outer, depth);
    const [from, to] = this.#arms(body, end)[0] ?? [body, end];
    return this.#readArm(from, to, named, depth);
  }

  #readArm(start: number, end: number, named: Named, depth: number): Query {
    const marks = new Map<string, number>();
    const stops: number[] = [];
    for (const index of this.#level(start, end)) {
      if (!this.#isClause(index)) continue;
      stops.push(index);
      const { upper } = this.words[index] ?? { upper: '' };
      if (!marks.has(upper)) marks.set(upper, index);
    }
    const after = (mark: number): number => stops.find((stop) => stop > mark) ?? end;
    const from = marks.get('FROM');
    const sources = from === undefined ? [] : this.#sources(from + 1, after(from), named, depth);
    const select = marks.get('SELECT');
    const columns = select === undefined ? [] : this.#selected(select + 1, after(select), sources);
    return { sources, columns, named };
  }

  #sources(start: number, end: number, named: Named, depth: number): Source[] {
    const found: Source[] = [];
    let begins = true;
    for (const index of this.#level(start, end)) {
      const word = this.words[index];
      if (begins && word?.upper !== 'LATERAL') {
        begins = false;
        if (word?.text === '(' && !this.isQuery(index + 1) && depth < deepest) found.push(...this.#sources(index + 1, Math.min(this.#closeOf(index), end), named, depth + 1));
        const relation = this.#relationAt(index, named, depth);
        if (relation === null) continue;
        const { alias, renamed } = this.#alias(relation.next, end);
        const called = alias ?? relation.name;
        if (called !== '') found.push({ alias: called, relation: relation.path, columns: renames(relation.columns, renamed) });
      }
      if (joins.has(word?.upper ?? '')) begins = true;
    }
    return found;
  }

  /** A relation, a subquery or a window over one of them; `next` is the word after it. */
  #relationAt(index: number, named: Named, depth: number): { name: string; path: string; columns: readonly RelationColumn[]; next: number } | null {
    const word = this.words[index];
    if (word === undefined || depth > deepest) return null;
    if (word.text === '(') {
      const close = this.#closeOf(index);
      return this.isQuery(index + 1) ? { name: '', path: '', columns: this.#read(index + 1, close, named, depth + 1).columns, next: close + 1 } : null;
    }
    if (windows.has(word.upper) && this.words[index + 1]?.text === '(') {
      const inner = this.#relationAt(index + 2, named, depth + 1);
      return { name: inner?.name ?? '', path: inner?.path ?? '', columns: [...(inner?.columns ?? []), ...windowColumns], next: this.#closeOf(index + 1) + 1 };
    }
    const { names, next } = this.#path(index);
    const name = names.at(-1);
    if (name === undefined) return null;
    const columns = (names.length === 1 ? named.get(name) : undefined) ?? this.#catalogue.find(names)?.columns ?? [];
    return { name, path: names.join('.'), columns, next };
  }

  #path(index: number): { names: string[]; next: number } {
    const names: string[] = [];
    let next = index;
    for (;;) {
      const word = this.words[next];
      if (!isName(word)) break;
      names.push(nameOf(word));
      next++;
      if (this.words[next]?.text !== '.') break;
      next++;
    }
    return { names, next };
  }

  #alias(index: number, end: number): { alias: string | null; renamed: string[] } {
    const at = this.words[index]?.upper === 'AS' ? index + 1 : index;
    const word = this.words[at];
    if (at >= end || !isName(word)) return { alias: null, renamed: [] };
    return { alias: nameOf(word), renamed: this.words[at + 1]?.text === '(' ? this.#names(at + 1) : [] };
  }

  /** `(a, b, c)` */
  #names(open: number): string[] {
    return this.words.slice(open + 1, this.#closeOf(open)).filter(isName).map(nameOf);
  }

  #selected(start: number, end: number, sources: readonly Source[]): RelationColumn[] {
    const columns: RelationColumn[] = [];
    let first = this.words[start]?.upper === 'DISTINCT' ? start + 1 : start;
    const item = (to: number): void => {
      const list = this.words.slice(first, to);
      const last = list.at(-1);
      if (last === undefined) return;
      const name = isName(last) ? nameOf(last) : null;
      if (last.text === '*' && (list.length === 1 || list.at(-2)?.text === '.')) {
        const qualifier = list.length >= 3 ? list.at(-3) : undefined;
        for (const source of sources) if (qualifier === undefined || nameOf(qualifier) === source.alias) columns.push(...source.columns.filter((column) => !column.name.startsWith('_')));
        return;
      }
      const isPath = name !== null && list.every((word, at) => (at % 2 === 0 ? isName(word) : word.text === '.'));
      const known = isPath ? findColumn(sources, list.filter((_, at) => at % 2 === 0).map(nameOf)) : undefined;
      if (known !== undefined) columns.push(known);
      else if (name !== null) columns.push({ name, type: '' });
      else if (list[1]?.text === '(' && this.#closeOf(first + 1) === to - 1 && list[0] !== undefined) columns.push({ name: nameOf(list[0]), type: '' });
      else columns.push({ name: `column_${columns.length + 1}`, type: '' });
    };
    for (const index of this.#level(start, end)) {
      if (this.words[index]?.text !== ',') continue;
      item(index);
      first = index + 1;
    }
    item(end);
    return columns;
  }
}

/** The column that `alias.column`, or `column` alone, means. */
export function findColumn(sources: readonly Source[], path: readonly string[]): RelationColumn | undefined {
  const name = path.at(-1);
  const alias = path.at(-2);
  for (const source of sources) {
    if (alias !== undefined && source.alias !== alias) continue;
    const column = source.columns.find((one) => one.name === name);
    if (column !== undefined) return column;
  }
  return undefined;
}

function renames(columns: readonly RelationColumn[], names: readonly string[]): readonly RelationColumn[] {
  return names.length === 0 ? columns : columns.map((column, index) => ({ ...column, name: names[index] ?? column.name }));
}
