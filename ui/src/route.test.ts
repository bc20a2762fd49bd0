import { describe, expect, it } from 'vitest';
import { href, parseRoute } from './route.ts';
import { apiQuery, isFiltered } from './traces/filters.ts';
import { parsePosition, parseProblem } from './api/problem.ts';

describe('routes', () => {
  it('survive any name', () => {
    for (const name of ['plain', 'a/b', 'a?b#c', '100 %', '中 🔥', '..', '<script>']) {
      const { path, query } = parseRoute(href(['monitors', name], { q: name, empty: '' }));
      expect([path, query.get('q'), query.has('empty')]).toEqual([['monitors', name], name, false]);
    }
    expect(parseRoute('#/monitors/%E0%A4%A').path).toEqual(['monitors', '%E0%A4%A']);
  });
});

describe('trace filters', () => {
  it('become the query of the API', () => {
    const query = new URLSearchParams('service=a&q=x&range=6h&user=');
    expect(apiQuery(query, Date.UTC(2026, 0, 1, 12))).toMatchObject({ service: 'a', q: 'x', from: '2026-01-01T06:00:00.000Z', to: undefined });
    expect([isFiltered(query), isFiltered(new URLSearchParams('range=6h'))]).toEqual([true, false]);
    expect(apiQuery(new URLSearchParams('from=nonsense&range=toString'), 0)['from']).toBeUndefined();
  });
});

describe('problems', () => {
  it('are read from problem+json', () => {
    const problem = parseProblem(400, '{"title":"t","detail":"d","code":"PF-4012","hint":"h","position":{"line":2,"column":5}}');
    expect([problem.message, problem.code, problem.hint, problem.position]).toEqual(['d', 'PF-4012', 'h', { line: 2, column: 5 }]);
  });

  it('are made up for a proxy page', () => {
    expect(parseProblem(503, '<html>').message).toBe('PyFlare is not ready to answer.');
    expect([parsePosition({ line: 0 }), parsePosition('x'), parsePosition({ line: 3 })]).toEqual([null, null, { line: 3, column: 1 }]);
  });
});
