/**
 * What can be written at a place of a statement: relations after FROM, columns of what is read, functions, the words
 * that may follow. Where nothing can be told (in a text, a comment, a name being given) there is nothing to offer.
 */
import type { Catalogue, Relation, RelationColumn } from './relations.ts';
import { Statement, type Scope } from './scope.ts';
import { tokens } from './tokens.ts';
import { after, aggregates, before, intervals, options, scalars, statements, streamOptions, streamTypes, types, windowFunctions, type SqlFunction } from './vocabulary.ts';
import { isName, nameOf, type Word } from './words.ts';

/** A monitor reads streams and views by their bare names; a query reads `live.*` and `history.*`. */
export type Purpose = 'monitor' | 'query';

export interface Offer {
  readonly kind: 'column' | 'relation' | 'function' | 'keyword' | 'template' | 'value';
  readonly label: string;
  /** Beside the label: a type, the arguments. */
  readonly detail: string;
  readonly about: string;
  readonly insert: string;
  /** What is selected once it is inserted, in characters of `insert`; its end otherwise. */
  readonly select: readonly [number, number] | null;
}

export interface Completion {
  /** Where the word being written begins. */
  readonly from: number;
  /** The place itself. */
  readonly to: number;
  readonly word: string;
  readonly offers: readonly Offer[];
}

const most = 80;
const windowNames = new Set(['TUMBLE', 'HOP', 'SESSION']);
const operandWords = new Set(['END', 'NULL', 'TRUE', 'FALSE']);

function keyword(text: string): Offer {
  const hole = text.search(/(?<=[( ])(?=[) ])|(?<=\()(?=\))/);
  const gap = text.includes('(') || text.startsWith('CASE') ? hole : -1;
  return { kind: 'keyword', label: text.replace(/ {2}/g, ' … ').replace('()', '(…)').replace(' )', ' …)').replace('( ', '(… '), detail: '', about: '', insert: text, select: gap < 0 ? null : [gap, gap] };
}

function type(name: string): Offer {
  return { kind: 'keyword', label: name, detail: '', about: '', insert: name, select: null };
}

function template(label: string, insert: string, select: readonly [number, number] | null, about: string): Offer {
  return { kind: 'template', label, detail: '', about, insert, select };
}

/** A name as SQL needs it: in quotes where it is not a plain word. */
function written(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

function column(one: RelationColumn, qualifier: string | null): Offer {
  const insert = qualifier === null ? written(one.name) : `${written(qualifier)}.${written(one.name)}`;
  return { kind: 'column', label: qualifier === null ? one.name : `${qualifier}.${one.name}`, detail: one.type, about: one.about ?? '', insert, select: null };
}

function call(one: SqlFunction, followed: boolean): Offer {
  const insert = followed ? one.name : `${one.name}(${one.takes === '*' ? '*' : ''})`;
  const inside = one.name.length + 1;
  return { kind: 'function', label: one.name, detail: `(${one.takes})`, about: one.about, insert, select: followed || one.takes === '' || one.takes === '*' ? null : [inside, inside] };
}

function relation(one: Relation, name: string): Offer {
  return { kind: 'relation', label: name, detail: one.kind, about: one.about, insert: name.split('.').map(written).join('.'), select: null };
}

function option({ name, value, about }: (typeof options)[number]): Offer {
  return { kind: 'template', label: name, detail: `= '${value}'`, about, insert: `${name} = '${value}'`, select: [name.length + 4, name.length + 4 + value.length] };
}

function interval(text: string): Offer {
  return { kind: 'value', label: `INTERVAL '${text}'`, detail: '', about: '', insert: `INTERVAL '${text}'`, select: null };
}

/** Columns of everything in reach; with their relation's name where the bare one would be unclear. */
function columns(scope: Scope, catalogue: Catalogue): Offer[] {
  const sources = scope.sources.length > 0 ? scope.sources : [{ alias: 'spans', columns: catalogue.find(['spans'])?.columns ?? [] }];
  const own = scope.sources.length > 0 ? scope.own : 1;
  const times = new Map<string, number>();
  for (const source of sources.slice(0, own)) for (const { name } of source.columns) times.set(name, (times.get(name) ?? 0) + 1);
  const offers = sources.flatMap((source, at) => source.columns.map((one) => column(one, at >= own || (times.get(one.name) ?? 0) > 1 ? source.alias : null)));
  // A row's origin is rarely meant.
  return [...offers.filter(({ label }) => !hidden(label)), ...sources.slice(0, own).filter(() => own > 1).map(({ alias }) => relationName(alias)), ...offers.filter(({ label }) => hidden(label))];
}

function hidden(label: string): boolean {
  return /(?:^|\.)_/.test(label);
}

function relationName(alias: string): Offer {
  return { kind: 'relation', label: alias, detail: 'columns…', about: '', insert: `${written(alias)}.`, select: null };
}

function relations(scope: Scope, catalogue: Catalogue, purpose: Purpose): Offer[] {
  const named = [...scope.named.keys()].map((name): Offer => ({ kind: 'relation', label: name, detail: 'WITH', about: 'A query named above.', insert: written(name), select: null }));
  const readable = catalogue.relations.filter((one) => (purpose === 'monitor' ? one.schema === '' || one.schema === 'live' : one.schema !== ''));
  const offers = readable.map((one) => relation(one, purpose === 'monitor' || one.schema === '' ? one.name : `${one.schema}.${one.name}`));
  const streams = readable.filter(({ schema }) => schema === '').length;
  return [...named, ...offers.slice(0, streams), ...windowTemplates, ...offers.slice(streams)];
}

const windowTemplates: readonly Offer[] = [
  template("TUMBLE(…)", "TUMBLE(spans, event_time, INTERVAL '1 minute')", [7, 12], 'Windows of one size, one after the other.'),
  template("HOP(…)", "HOP(spans, event_time, INTERVAL '1 minute', INTERVAL '5 minutes')", [4, 9], 'Windows that begin every slide and overlap.'),
  template("SESSION(…)", "SESSION(spans, event_time, INTERVAL '30 minutes')", [8, 13], 'Windows that last as long as rows follow closely; GROUP BY says whose.'),
];

/** The arguments of TUMBLE, HOP and SESSION, one after the other. */
function windowArguments(statement: Statement, open: number, at: number, scope: Scope, catalogue: Catalogue): Offer[] {
  const name = statement.words[open - 1]?.upper ?? '';
  let place = 0;
  let depth = 0;
  for (const { text } of statement.words.slice(open + 1, at)) {
    if (text === '(') depth++;
    else if (text === ')') depth--;
    else if (text === ',' && depth === 0) place++;
  }
  if (place === 0) {
    const hops = name === 'HOP';
    const rest = hops ? "event_time, INTERVAL '1 minute', INTERVAL '5 minutes'" : `event_time, INTERVAL '${name === 'SESSION' ? '30 minutes' : '1 minute'}'`;
    const about = hops ? 'relation, time, slide, size' : `relation, time, ${name === 'SESSION' ? 'gap' : 'size'}`;
    const streams = catalogue.relations.filter((one) => one.schema === '').map((one) => relation(one, one.name));
    const named = [...scope.named.keys()].map((one): Offer => ({ kind: 'relation', label: one, detail: 'WITH', about: 'A query named above.', insert: written(one), select: null }));
    return [template(`spans, ${rest}`, `spans, ${rest}`, [0, 5], about), ...named, ...streams];
  }
  if (place === 1) {
    const times = statement.windowed(open, scope.named).filter(({ type }) => /^(timestamp|$)/i.test(type));
    return (times.length > 0 ? times : [{ name: 'event_time', type: 'Timestamp(µs, UTC)' }]).map((one) => column(one, null));
  }
  return intervals.map(interval);
}

function follows(word: Word | undefined, earlier: Word | undefined): boolean {
  if (word === undefined) return false;
  if (word.text === '*') return earlier === undefined || ['(', ',', '.'].includes(earlier.text) || earlier.upper === 'SELECT' || earlier.upper === 'DISTINCT';
  return isName(word) || word.kind === 'string' || word.kind === 'number' || word.text === ')' || word.text === ']' || operandWords.has(word.upper);
}

function offersAt(statement: Statement, at: number, followed: boolean, catalogue: Catalogue, purpose: Purpose): Offer[] {
  const list = statement.words;
  const last = list[at - 1];
  const earlier = list[at - 2];
  const head = list[0]?.upper ?? '';
  const views = (): Offer[] => catalogue.relations.filter((one) => one.schema === 'live' && !one.name.includes('$')).map((one) => relation(one, one.name));

  if (last === undefined) return statements.filter((one) => purpose === 'query' || /^(CREATE MONITOR|SELECT|WITH)/.test(one.label)).map((one) => template(one.label, one.insert, one.select, one.about));
  if (last.text === '.') {
    const path: string[] = [];
    for (let index = at - 2; isName(list[index]); index -= 2) {
      path.unshift(nameOf(list[index] as Word));
      if (list[index - 1]?.text !== '.') break;
    }
    const qualifier = path.at(-1) ?? '';
    const scope = statement.scopeAt(at);
    const source = path.length === 1 ? scope.sources.find(({ alias }) => alias === qualifier) : undefined;
    if (source !== undefined && source.columns.length > 0) return source.columns.map((one) => column(one, null));
    if (path.length === 1 && catalogue.schemas.includes(qualifier)) return catalogue.relations.filter(({ schema }) => schema === qualifier).map((one) => relation(one, one.name));
    return (catalogue.find(path)?.columns ?? []).map((one) => column(one, null));
  }
  switch (last.upper) {
    case 'CREATE': return [keyword('MONITOR'), keyword('OR REPLACE MONITOR'), keyword('STREAM')];
    case 'REPLACE': if (head === 'CREATE' && at === 3) return [keyword('MONITOR')]; break;
    case 'SHOW': return [keyword('MONITORS'), keyword('STREAMS')];
    case 'ALTER': return [keyword('MONITOR'), keyword('MONITOR IF EXISTS')];
    case 'DROP': return [keyword('MONITOR'), keyword('MONITOR IF EXISTS'), keyword('STREAM'), keyword('STREAM IF EXISTS')];
    case 'DESCRIBE': return catalogue.relations.filter((one) => one.schema === '' || one.schema === 'live').map((one) => relation(one, one.name));
    case 'STREAM': return head === 'DROP' ? catalogue.relations.filter((one) => one.schema === '').map((one) => relation(one, one.name)) : [];
    case 'EXPLAIN': return [keyword('MONITOR'), keyword('ANALYZE MONITOR')];
    case 'MONITOR': return head === 'CREATE' ? [] : [...views(), ...(head === 'EXPLAIN' ? [keyword('SELECT')] : [])];
    case 'EMIT': return [keyword('CHANGES'), keyword('FINAL')];
    case 'GROUP': case 'ORDER': case 'PARTITION': return [keyword('BY')];
    case 'INTERVAL': return intervals.map((text) => ({ ...interval(text), label: `'${text}'`, insert: `'${text}'` }));
    case 'IS': return ['NULL', 'NOT NULL', 'TRUE', 'FALSE', 'DISTINCT FROM', 'NOT DISTINCT FROM'].map(keyword);
    case 'UNION': case 'INTERSECT': case 'EXCEPT': return [keyword('SELECT'), ...(last.upper === 'UNION' ? [keyword('ALL')] : [])];
  }

  const scope = statement.scopeAt(at);
  const open = statement.enclosing(at)[0];
  const opener = open === undefined ? undefined : list[open - 1];
  if (head === 'ALTER') {
    if (opener?.upper === 'RESET') return last.text === '(' || last.text === ',' ? options.map(({ name, about }) => ({ ...keyword(name), about })) : [];
    if (opener?.upper === 'SET') return last.text === '(' || last.text === ',' ? options.map(option) : [];
    const first = options[0] as (typeof options)[number];
    return isName(last) ? [template('SET (…)', `SET (${option(first).insert})`, [5, 5 + first.name.length], 'Other options.'), template('RESET (…)', `RESET (${first.name})`, [7, 7 + first.name.length], 'Back to the defaults.')] : [];
  }
  if (scope.clause === '' && head === 'CREATE') {
    const ofStream = list[1]?.upper === 'STREAM';
    if (opener?.upper === 'WITH') return last.text === '(' || last.text === ',' ? (ofStream ? streamOptions : options).map(option) : [];
    if (ofStream) {
      if (opener !== undefined) return earlier?.text === '(' || earlier?.text === ',' ? streamTypes.map(type) : isName(last) ? [keyword('NOT NULL')] : [];
      return last.text === ')' ? [template('WITH (…)', "WITH (event_time = 'event_time')", [19, 29], 'Options of the stream.')] : [];
    }
    if (last.upper === 'AS') return [keyword('SELECT'), template('WITH … AS', 'WITH name AS (\n  SELECT \n)\nSELECT * FROM name', [5, 9], 'Name a query and read it below.')];
    if (isName(last)) return [keyword('AS SELECT'), keyword('AS'), template('WITH (…)', "WITH (retention = '24 hours')", [6, 15], 'Options of the monitor.')];
    return last.text === ')' ? [keyword('AS SELECT'), keyword('AS')] : [];
  }
  if (opener !== undefined && windowNames.has(opener.upper) && open !== undefined && (last.text === '(' || last.text === ',')) return windowArguments(statement, open, at, scope, catalogue);
  if (opener !== undefined && windowNames.has(opener.upper) && isName(last)) return [];
  if (last.upper === 'AS') return opener !== undefined && /^(TRY_)?CAST$/.test(opener.upper) ? types.map(type) : [];
  if (opener?.upper === 'OVER' && last.text === '(') return [keyword('PARTITION BY'), keyword('ORDER BY')];
  if (opener?.upper === 'FILTER' && last.text === '(') return [keyword('WHERE')];
  const listed = open === undefined || statement.isQuery(open + 1);
  const expected = last.upper === 'FROM' || last.upper === 'JOIN' || (last.text === ',' && listed) || (last.text === '(' && (earlier?.upper === 'FROM' || earlier?.upper === 'JOIN'));
  if (scope.clause === 'FROM' && expected) {
    return [...relations(scope, catalogue, purpose), ...(last.text === '(' ? [keyword('SELECT')] : [template('(SELECT …)', '(SELECT  FROM spans) AS part', [8, 8], 'A query in place of a relation.')])];
  }
  if (follows(last, earlier)) {
    const clause = after[scope.clause] ?? [];
    const joins = scope.clause === 'FROM' ? clause : clause.filter((word) => !['ON', 'USING ()'].includes(word));
    const inner = opener?.upper === 'OVER' ? ['ORDER BY', 'ASC', 'DESC', 'ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW'] : [];
    return [...inner, ...joins].map(keyword);
  }
  const selected = ['GROUP', 'ORDER', 'HAVING', 'QUALIFY'].includes(scope.clause) ? scope.selected.filter(({ name }) => !/^column_\d+$/.test(name)).map((one) => column(one, null)) : [];
  const start = last.text === '(' ? [keyword('SELECT')] : [];
  const first = last.upper === 'SELECT' ? [keyword('DISTINCT')] : [];
  return unique([...selected, ...columns(scope, catalogue), ...[...aggregates, ...windowFunctions, ...scalars].map((one) => call(one, followed)), ...start, ...first, ...before.map(keyword)]);
}

function unique(offers: readonly Offer[]): Offer[] {
  const seen = new Set<string>();
  return offers.filter(({ kind, insert }) => {
    const name = `${kind} ${insert}`;
    const known = seen.has(name);
    seen.add(name);
    return !known;
  });
}

/** -1: is so; 0: begins so; 1: a part of the name begins so; 2: holds it; `null`: not meant. */
function match(label: string, word: string): number | null {
  const name = label.toLowerCase();
  if (word !== '' && name === word) return -1;
  if (word === '' || name.startsWith(word)) return 0;
  if (name.split(/[._\s(]/).some((part) => part.startsWith(word))) return 1;
  return word.length > 1 && name.includes(word) ? 2 : null;
}

/** Longer statements, which no monitor can be, are not looked into with every letter. */
const longest = 100_000;

export function complete(sql: string, caret: number, catalogue: Catalogue, purpose: Purpose): Completion | null {
  if (sql.length > longest) return null;
  let start = 0;
  let from = caret;
  for (const { kind, text } of tokens(sql)) {
    const end = start + text.length;
    const open = kind === 'comment' ? (text.startsWith('--') ? end >= caret : end > caret || !text.endsWith('*/')) : kind === 'string' && (end > caret || (end === caret && !/^'(?:[^']|'')*'$/.test(text)));
    if (start < caret && end >= caret) {
      if (open || kind === 'number') return null;
      if (kind !== 'plain' && kind !== 'string' && kind !== 'comment') from = start;
    }
    start = end;
    if (start >= caret) break;
  }
  const typed = sql.slice(from, caret);
  // A finished name in quotes is finished.
  if (/^".*"$/s.test(typed) && typed.length > 1) return null;
  const word = typed.replace(/^"/, '').toLowerCase();
  const statement = new Statement(sql, catalogue);
  const at = statement.words.filter((one) => one.end <= from).length;
  const followed = /^\s*\(/.test(sql.slice(caret, caret + 8));
  const found = offersAt(statement, at, followed, catalogue, purpose)
    .map((offer, order) => ({ offer, order, score: match(offer.label, word) }))
    .filter((one): one is { offer: Offer; order: number; score: number } => one.score !== null)
    .sort((left, right) => left.score - right.score || left.order - right.order);
  return found.length === 0 ? null : { from, to: caret, word: typed, offers: found.slice(0, most).map(({ offer }) => offer) };
}

/** The statement after an offer is taken, with what is selected then. */
export function accept(sql: string, completion: Pick<Completion, 'from' | 'to'>, offer: Offer): { readonly text: string; readonly selection: readonly [number, number] } {
  const text = sql.slice(0, completion.from) + offer.insert + sql.slice(completion.to);
  const [start, end] = offer.select ?? [offer.insert.length, offer.insert.length];
  return { text, selection: [completion.from + start, completion.from + end] };
}
