import { describe, expect, test } from 'vitest';
import { parseProblem } from '../api/problem.ts';
import { stopReason } from '../monitors/stopped.tsx';
import { condition } from './health.tsx';
import { amount, entries, isMissing, names, perSecond, sorted } from './records.ts';

describe('records', () => {
  test('rows by the names of their columns, numbers from strings', () => {
    const [first] = entries({ columns: [{ name: 'name', type: 'Utf8' }, { name: 'rows', type: 'Int64' }], rows: [['a', '12'], ['b', null]], row_count: 2, truncated: false });
    expect(first).toEqual({ name: 'a', rows: '12' });
    expect(amount(first ?? {}, 'rows')).toBe(12);
    expect(amount({ rows: null }, 'rows')).toBe(0);
    expect(amount({}, 'rows')).toBe(0);
    expect(names(' a, b,,c ')).toEqual(['a', 'b', 'c']);
  });
  test('rates between two readings; not across a restart', () => {
    const before = { at: 1000, counts: new Map([['a', 10], ['b', 10]]) };
    const now = { at: 3000, counts: new Map([['a', 30], ['b', 5], ['c', 1]]) };
    expect([...perSecond(now, before)]).toEqual([['a', 10]]);
    expect(perSecond(now, null).size).toBe(0);
    expect(perSecond({ ...now, at: 1000 }, before).size).toBe(0);
  });
  test('sorted by numbers and words; what is not known is least; equal ones stay', () => {
    const rows = [{ n: 2, w: 'm10' }, { n: NaN, w: 'm9' }, { n: 2, w: 'a' }, { n: 7, w: 'm9' }];
    expect(sorted(rows, (row) => row.n, true)).toEqual([rows[3], rows[0], rows[2], rows[1]]);
    expect(sorted(rows, (row) => row.n, false)).toEqual([rows[1], rows[0], rows[2], rows[3]]);
    expect(sorted(rows, (row) => row.w, false).map((row) => row.w)).toEqual(['a', 'm9', 'm9', 'm10']);
  });
  test('a relation that a server does not have is told from a failure', () => {
    const body = (detail: string): string => JSON.stringify({ detail, code: 'PF-4061' });
    expect(isMissing(parseProblem(400, body("table 'pyflare.pyflare_internal.monitors' not found")))).toBe(true);
    expect(isMissing(parseProblem(400, body('out of memory')))).toBe(false);
    expect(isMissing(parseProblem(503, body('not found')))).toBe(false);
  });
  test('health in a word', () => {
    expect(condition({ lag_ms: 40 }).well).toBe(true);
    expect(condition({ lag_ms: '60000' }).word).toBe('Behind');
    expect(condition({ replaying: true }).word).toBe('Recovering');
  });
  test('the code of a reason apart from its words', () => {
    expect(stopReason('PF-3013: too many rows')).toEqual({ code: 'PF-3013', text: 'too many rows' });
    expect(stopReason('too many rows (PF-3013)')).toEqual({ code: 'PF-3013', text: 'too many rows' });
    expect(stopReason(null)).toEqual({ code: '', text: '' });
  });
});
