import { describe, expect, test } from 'vitest';
import { Problem } from '../api/problem.ts';
import { fixes, nearest, placeOfProblem, replacing } from './fixes.ts';
import { Catalogue } from './relations.ts';
import { Statement } from './scope.ts';

const catalogue = new Catalogue(['spans', 'logs', 'tool_calls'].map((name) => ({ schema: '', name, kind: 'stream', about: '', columns: [] })));
const problem = (detail: string, more: Partial<{ code: string; hint: string; position: { line: number; column: number } }> = {}): Problem => new Problem({ status: 400, code: 'PF-4005', title: '', detail, ...more });

describe('fixes', () => {
  test('the column that was meant, qualified only where it was', () => {
    const sql = 'SELECT\n  usr_id FROM spans a';
    const one = problem("No field named usr_id. Did you mean 'a.user_id'?\nValid fields are a.user_id", { position: { line: 2, column: 3 } });
    expect(fixes(one, sql, catalogue)).toEqual([{ label: 'Use user_id', sql: 'SELECT\n  user_id FROM spans a' }]);
    const two = problem("No field named a.usr_id. Did you mean 'a.user_id'?", { position: { line: 1, column: 8 } });
    expect(fixes(two, 'SELECT a.usr_id FROM spans a', catalogue)[0]?.sql).toBe('SELECT a.user_id FROM spans a');
  });
  test('the relation that is near, found by its name where no place is told', () => {
    const one = problem('there is no stream or view spns', { hint: 'there are the streams spans' });
    const sql = 'SELECT count(*)\nFROM spns';
    expect(placeOfProblem(one, sql)).toEqual({ line: 2, column: 6 });
    expect(fixes(one, sql, catalogue)).toEqual([{ label: 'Use spans', sql: 'SELECT count(*)\nFROM spans' }]);
    expect(fixes(problem('there is no stream or view nothing_like_it'), 'SELECT 1 FROM nothing_like_it', catalogue)).toEqual([]);
  });
  test('a name that is taken, an order without an end', () => {
    expect(fixes(problem('taken', { code: 'PF-3001' }), 'create monitor x AS SELECT 1', catalogue)[0]?.sql).toBe('create OR REPLACE MONITOR x AS SELECT 1');
    expect(fixes(problem('no', { hint: 'ORDER BY without LIMIT is not maintained' }), 'SELECT a FROM spans ORDER BY a EMIT CHANGES', catalogue)[0]?.sql).toBe('SELECT a FROM spans ORDER BY a\nLIMIT 100\nEMIT CHANGES');
  });
  test('a misspelt word or option; what is missing at the end', () => {
    expect(fixes(problem('Expected SELECT, found SELEC', { position: { line: 1, column: 21 } }), 'CREATE MONITOR f AS SELEC model FROM spans', catalogue)[0]?.sql).toBe('CREATE MONITOR f AS SELECT model FROM spans');
    expect(fixes(problem('there is no option retntion', { position: { line: 1, column: 24 } }), "CREATE MONITOR f WITH (retntion = '1 hour') AS SELECT 1", catalogue)[0]?.sql).toBe("CREATE MONITOR f WITH (retention = '1 hour') AS SELECT 1");
    expect(fixes(problem('Expected FROM, found model'), 'SELECT model', catalogue)).toEqual([]);
    expect(placeOfProblem(problem('Expected a data type name, found: EOF'), 'SELECT CAST(a AS\n')).toEqual({ line: 1, column: 17 });
  });
  test('nothing without a reason', () => {
    expect(fixes(problem('something else', { position: { line: 1, column: 1 } }), 'SELECT', catalogue)).toEqual([]);
  });
  test('replacing keeps the statement and drops IF NOT EXISTS', () => {
    expect(replacing('-- about\nCREATE MONITOR IF NOT EXISTS x AS SELECT 1')).toBe('-- about\nCREATE OR REPLACE MONITOR x AS SELECT 1');
    expect(replacing('CREATE OR REPLACE MONITOR x AS SELECT 1')).toBe('CREATE OR REPLACE MONITOR x AS SELECT 1');
    expect(replacing('SELECT 1')).toBe('SELECT 1');
  });
  test('near means few letters', () => {
    expect(nearest('tool_cals', ['spans', 'tool_calls'])).toBe('tool_calls');
    expect(nearest('abc', ['xyz'])).toBeNull();
  });
});

describe('what a statement reads', () => {
  const reads = (sql: string): string[] => new Statement(sql, catalogue).reads();
  test('streams and views, in windows, joins, subqueries and lists', () => {
    expect(reads("CREATE MONITOR m WITH (retention = '1 hour') AS SELECT 1 FROM TUMBLE(spans, event_time, INTERVAL '1 minute') JOIN live.tool_calls t ON t.x = 1, logs WHERE a IN (SELECT b FROM requests)")).toEqual(['spans', 'tool_calls', 'logs', 'requests']);
  });
  test('in a group of joins, and in time however long a list is', () => {
    expect(reads('SELECT 1 FROM (spans s JOIN logs l ON true) CROSS JOIN requests WHERE (a, b) IN (SELECT c, d FROM tool_calls, other)')).toEqual(['spans', 'logs', 'requests', 'tool_calls', 'other']);
    const begun = performance.now();
    expect(reads(`SELECT a FROM spans WHERE a IN (${Array.from({ length: 20_000 }, (_, at) => at).join(', ')})`)).toEqual(['spans']);
    expect(performance.now() - begun).toBeLessThan(2000);
  });
  test('not what WITH defines, nor words that only look so', () => {
    expect(reads("WITH a AS (SELECT 1 FROM spans) SELECT extract(hour FROM x), 'FROM logs' FROM a WHERE x IS DISTINCT FROM y -- FROM logs")).toEqual(['spans']);
  });
});
