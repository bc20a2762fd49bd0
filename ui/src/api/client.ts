/** Requests to `/api/v1`. Every failure is a `Problem`; int64 values arrive as strings. */
import { currentKey, namedProject, refused } from '../access/access.ts';
import { parseProblem, unreachable } from './problem.ts';
import type { Caller, Explanation, Field, Monitor, SqlAnswer, Status, Trace, TraceItem } from './types.ts';

export interface Page<Item> {
  readonly items: readonly Item[];
  readonly next_cursor: string | null;
}

type Query = Readonly<Record<string, string | number | undefined>>;

function address(path: string, query: Query = {}): string {
  const url = new URL(`api/v1/${path}`, document.baseURI);
  url.hash = '';
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== '') url.searchParams.set(name, String(value));
  return url.href;
}

interface RequestOptions {
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
  /** A key to try, in place of the one in use. */
  readonly key?: string;
  /** A project to name, in place of the chosen one. */
  readonly project?: string;
}

async function request(method: string, url: string, options: RequestOptions = {}): Promise<unknown> {
  const headers: Record<string, string> = { accept: 'application/json' };
  const key = options.key ?? currentKey();
  const project = options.key === undefined ? (options.project ?? namedProject()) : null;
  if (key !== null) headers['x-pyflare-key'] = key;
  if (project !== null) headers['x-pyflare-project'] = project;
  const init: RequestInit = { method, headers };
  if (options.signal) init.signal = options.signal;
  if (options.body !== undefined) {
    headers['content-type'] = 'application/json';
    init.body = JSON.stringify(options.body);
  }
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, init);
    text = await response.text();
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === 'AbortError') throw cause;
    throw unreachable(cause);
  }
  if (!response.ok) {
    const problem = parseProblem(response.status, text);
    if (response.status === 401 && options.key === undefined) refused(problem, key);
    throw problem;
  }
  if (text === '') return null;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw parseProblem(response.status, text);
  }
}

/** Who the caller is to the server: with the key in use, or with one to try. */
export function readCaller(key?: string): Promise<Caller> {
  return request('GET', address('caller'), key === undefined ? {} : { key }) as Promise<Caller>;
}

async function listAll<Item>(path: string, signal: AbortSignal | undefined): Promise<Item[]> {
  const all: Item[] = [];
  let cursor: string | undefined;
  do {
    const page = (await request('GET', address(path, { limit: 500, cursor }), { signal })) as Page<Item>;
    all.push(...page.items);
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined && all.length < 10_000);
  return all;
}

export function listMonitors(signal?: AbortSignal): Promise<Monitor[]> {
  return listAll<Monitor>('monitors', signal);
}

/** All views: the built-in ones and those of monitors. */
export function listViews(signal?: AbortSignal): Promise<Monitor[]> {
  return listAll<Monitor>('views', signal);
}

/** The declared columns of the streams. */
export function listFields(signal?: AbortSignal): Promise<Field[]> {
  return listAll<Field>('fields', signal);
}

export function readStatus(signal?: AbortSignal): Promise<Status> {
  return request('GET', address('status'), { signal }) as Promise<Status>;
}

export function createMonitor(sql: string): Promise<Partial<Monitor>> {
  return request('POST', address('monitors'), { body: { sql } }) as Promise<Partial<Monitor>>;
}

/** Plans a monitor without creating it. */
export function explainMonitor(sql: string, signal?: AbortSignal): Promise<Explanation> {
  return request('POST', address('monitors/explain'), { body: { sql }, signal }) as Promise<Explanation>;
}

/** The plan of a monitor that runs, with what its operators have done since it was installed. */
export function analyzeMonitor(name: string, signal?: AbortSignal): Promise<Explanation> {
  return request('GET', address(`monitors/${encodeURIComponent(name)}/explain`, { analyze: 'true' }), { signal }) as Promise<Explanation>;
}

export async function dropMonitor(name: string): Promise<void> {
  await request('DELETE', address(`monitors/${encodeURIComponent(name)}`));
}

export function runSql(query: string, limit: number, signal?: AbortSignal): Promise<SqlAnswer> {
  return request('POST', address('sql', { int64: 'string' }), { body: { query, limit }, signal }) as Promise<SqlAnswer>;
}

/** Over all projects of a server without keys. */
export function runSqlEverywhere(query: string, limit: number): Promise<SqlAnswer> {
  return request('POST', address('sql'), { body: { query, limit }, project: '*' }) as Promise<SqlAnswer>;
}

export function listTraces(query: Query, signal?: AbortSignal): Promise<Page<TraceItem>> {
  return request('GET', address('traces', query), { signal }) as Promise<Page<TraceItem>>;
}

export function readTrace(traceId: string, signal?: AbortSignal): Promise<Trace> {
  return request('GET', address(`traces/${encodeURIComponent(traceId)}`, { int64: 'string' }), { signal }) as Promise<Trace>;
}
