/**
 * The messages of `/api/v1/live`, and the one place where bytes from the socket become typed values.
 * What does not have the shape of a message is answered with `null`, never with an exception.
 */

/** A value as JSON carries it. Int64 arrive as strings, since `Number` holds 53 bits only. */
export type Cell = string | number | boolean | null | readonly Cell[] | { readonly [name: string]: Cell };

export interface Column {
  readonly name: string;
  readonly type: string;
  /** Whether the column is part of the view's key: two rows with equal keys are two versions of one row. */
  readonly key: boolean;
}

export type Target = { readonly view: string } | { readonly sql: string };

/** The net change of the ticks `lower ≤ t < upper`. */
export interface Frame {
  readonly lower: number;
  readonly upper: number;
  readonly reset: boolean;
  readonly rows: readonly (readonly Cell[])[];
  readonly resume: string | null;
}

export type ServerMessage =
  | { readonly type: 'schema'; readonly id: string; readonly columns: readonly Column[] }
  | ({ readonly type: 'frame'; readonly id: string } & Frame)
  | { readonly type: 'error'; readonly id: string | null; readonly code: string; readonly message: string; readonly hint: string | null }
  | { readonly type: 'end'; readonly id: string; readonly reason: string };

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | null {
  if (typeof value === 'string') return value;
  return typeof value === 'number' ? String(value) : null;
}

function tick(value: unknown): number | null {
  const number = typeof value === 'string' ? Number(value) : value;
  return typeof number === 'number' && Number.isSafeInteger(number) && number >= 0 ? number : null;
}

export function parseColumns(value: unknown): Column[] | null {
  if (!Array.isArray(value)) return null;
  const columns: Column[] = [];
  for (const entry of value as unknown[]) {
    if (!isObject(entry) || typeof entry['name'] !== 'string') return null;
    columns.push({ name: entry['name'], type: text(entry['type']) ?? '', key: entry['key'] === true });
  }
  return columns;
}

export function parseServerMessage(data: string): ServerMessage | null {
  let message: unknown;
  try {
    message = JSON.parse(data);
  } catch {
    return null;
  }
  if (!isObject(message)) return null;
  const id = text(message['id']);
  if (message['type'] === 'error') {
    return {
      type: 'error',
      id,
      code: text(message['code']) ?? '',
      message: text(message['message']) ?? text(message['detail']) ?? 'The server gave no reason.',
      hint: text(message['hint']),
    };
  }
  if (id === null) return null;
  switch (message['type']) {
    case 'schema': {
      const columns = parseColumns(message['columns']);
      return columns === null ? null : { type: 'schema', id, columns };
    }
    case 'frame': {
      const lower = tick(message['lower']);
      const upper = tick(message['upper']);
      const rows = message['rows'];
      if (lower === null || upper === null || upper < lower || !Array.isArray(rows) || !rows.every(Array.isArray)) return null;
      return { type: 'frame', id, lower, upper, reset: message['reset'] === true, rows: rows as Cell[][], resume: text(message['resume']) };
    }
    case 'end':
      return { type: 'end', id, reason: text(message['reason']) ?? '' };
    default:
      return null;
  }
}

export function subscribeMessage(id: string, target: Target, resume: string | null): string {
  return JSON.stringify({
    type: 'subscribe',
    id,
    ...target,
    snapshot: true,
    progress: true,
    int64: 'string',
    ...(resume === null ? {} : { resume }),
  });
}

export function unsubscribeMessage(id: string): string {
  return JSON.stringify({ type: 'unsubscribe', id });
}
