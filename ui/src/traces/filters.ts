/** The filters of the trace list, as they stand in the address and as the API takes them. */

/** Without a range the server looks an hour back. */
export const ranges = { '15m': 15, '6h': 360, '24h': 1440, '7d': 10_080, '31d': 44_640 } as const;
export type RangeName = keyof typeof ranges;

const passed = ['service', 'model', 'user', 'session', 'status', 'min_duration_ms', 'max_duration_ms', 'q'] as const;

/** `2026-11-24T07:30` in local time as RFC 3339; nothing where it is no time. */
export function toInstant(local: string | null): string | undefined {
  if (local === null || local === '') return undefined;
  const parsed = new Date(local);
  return Number.isNaN(parsed.getTime()) ? undefined : parsed.toISOString();
}

export function apiQuery(query: URLSearchParams, now: number): Record<string, string | undefined> {
  const asked: Record<string, string | undefined> = {};
  for (const name of passed) asked[name] = query.get(name) ?? undefined;
  const range = query.get('range');
  asked['from'] = toInstant(query.get('from')) ?? (range !== null && Object.hasOwn(ranges, range) ? new Date(now - ranges[range as RangeName] * 60_000).toISOString() : undefined);
  asked['to'] = toInstant(query.get('to'));
  return asked;
}

export function isFiltered(query: URLSearchParams): boolean {
  return [...query.keys()].some((name) => name !== 'range');
}
