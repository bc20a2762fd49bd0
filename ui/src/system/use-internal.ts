/** One internal relation, read again while its table is seen, with the rates of one of its counters. */
import { useRef } from 'react';
import { runSql } from '../api/client.ts';
import type { Problem } from '../api/problem.ts';
import { useRequest } from '../api/use-request.ts';
import { amount, entries, perSecond, type Entry, type Reading } from './records.ts';

export const everyMillis = 2000;
const mostRows = 20_000;

export interface Internal {
  readonly entries: readonly Entry[] | null;
  /** By `key`, how much a second its counter rose. */
  readonly rates: ReadonlyMap<string, number>;
  readonly truncated: boolean;
  readonly problem: Problem | null;
  readonly reload: () => void;
}

export function useInternal(relation: string, counter: string | null, key: (entry: Entry) => string): Internal {
  const last = useRef<Reading | null>(null);
  const { value, problem, reload } = useRequest(`internal ${relation}`, async (signal) => {
    const answer = await runSql(`SELECT * FROM pyflare_internal.${relation}`, mostRows, signal);
    const list = entries(answer);
    const reading: Reading = { at: performance.now(), counts: new Map(counter === null ? [] : list.map((entry) => [key(entry), amount(entry, counter)])) };
    const rates = perSecond(reading, last.current);
    last.current = reading;
    return { list, rates, truncated: answer.truncated };
  }, { every: everyMillis });
  return { entries: value?.list ?? null, rates: value?.rates ?? new Map<string, number>(), truncated: value?.truncated ?? false, problem, reload };
}
