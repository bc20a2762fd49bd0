import { describe, expect, test } from 'vitest';
import { accept, complete, type Completion, type Purpose } from './completion.ts';
import { Catalogue, type Relation } from './relations.ts';

const column = (entry: string): { name: string; type: string } => {
  const [name = '', type = 'Utf8'] = entry.split(':');
  return { name, type };
};
const relation = (schema: string, name: string, list: string): Relation => ({ schema, name, kind: schema === '' ? 'stream' : 'view', about: '', columns: list.split(' ').map(column) });
const spans = 'event_time:Timestamp(µs,UTC) user_id model model_requested duration_ns:Int64 status _tick:Int64';
const catalogue = new Catalogue([
  relation('', 'spans', spans),
  relation('', 'logs', 'event_time:Timestamp body'),
  relation('live', 'requests', 'model requests:Int64'),
  relation('live', 'odd name', 'x'),
  relation('history', 'spans', spans),
  relation('pyflare_internal', 'monitors', 'name busy_us:Int64'),
]);

/** At the place of `|`. */
function at(text: string, purpose: Purpose = 'monitor'): Completion | null {
  const caret = text.indexOf('|');
  return complete(text.replace('|', ''), caret, catalogue, purpose);
}
const labels = (text: string, purpose: Purpose = 'monitor'): string[] => at(text, purpose)?.offers.map((offer) => offer.label) ?? [];

describe('relations', () => {
  test('after FROM and JOIN: streams, views and windows; in a query by schema', () => {
    expect(labels('SELECT * FROM |')).toEqual(expect.arrayContaining(['spans', 'requests', 'TUMBLE(…)', 'HOP(…)', 'SESSION(…)']));
    expect(labels('SELECT * FROM spans JOIN re|')).toEqual(['requests']);
    expect(labels('SELECT * FROM spans, |')).toContain('requests');
    expect(labels('SELECT * FROM l|', 'query').slice(0, 2)).toEqual(['live.requests', 'live.odd name']);
    expect(labels('SELECT * FROM pyflare_internal.|', 'query')).toEqual(['monitors']);
    expect(labels('SELECT * FROM live.|')).toEqual(['requests', 'odd name']);
  });
  test('queries of WITH are relations, but not before they are named', () => {
    expect(labels('WITH busy AS (SELECT user_id FROM spans) SELECT * FROM |')[0]).toBe('busy');
    expect(labels('WITH busy AS (SELECT user_id FROM |) SELECT 1')).not.toContain('busy');
  });
  test('a name that is no plain word is quoted', () => {
    const offer = at('SELECT * FROM od|')?.offers[0];
    expect(offer?.insert).toBe('"odd name"');
  });
});

describe('columns', () => {
  test('of what FROM reads, though it stands behind', () => {
    expect(labels('SELECT | FROM logs').slice(0, 2)).toEqual(['event_time', 'body']);
    expect(labels('SELECT mod| FROM spans').slice(0, 2)).toEqual(['model', 'model_requested']);
    expect(labels('SELECT | ')).toContain('user_id');
  });
  test('after an alias and a dot, also of a subquery, a WITH query and a window', () => {
    expect(labels('SELECT s.| FROM spans AS s JOIN requests r ON true').slice(0, 3)).toEqual(['event_time', 'user_id', 'model']);
    expect(labels('SELECT r.|\nFROM spans AS s JOIN requests r ON true')).toEqual(['model', 'requests']);
    expect(labels('SELECT q.| FROM (SELECT user_id AS who, count(*) FROM spans GROUP BY user_id) q')).toEqual(['who', 'count']);
    expect(labels('WITH b AS (SELECT model, duration_ns / 2 FROM spans) SELECT b.| FROM b')).toEqual(['model', 'column_2']);
    expect(labels("SELECT window| FROM TUMBLE(spans, event_time, INTERVAL '1 minute')").slice(0, 2)).toEqual(['window_start', 'window_end']);
    expect(labels('SELECT live.requests.| FROM live.requests')).toEqual(['model', 'requests']);
  });
  test('what two relations have is qualified', () => {
    const offered = labels('SELECT | FROM spans AS s JOIN requests AS r ON true');
    expect(offered).toEqual(expect.arrayContaining(['s.model', 'r.model', 'user_id', 'requests']));
    expect(offered).not.toContain('model');
  });
  test('of the query around a subquery, with its name; of nothing beside a subquery in FROM', () => {
    expect(labels('SELECT 1 FROM spans AS s WHERE EXISTS (SELECT 1 FROM logs WHERE |)')).toEqual(expect.arrayContaining(['body', 's.user_id']));
    expect(labels('SELECT 1 FROM logs AS l, (SELECT | FROM spans) AS q')).not.toContain('l.body');
  });
  test('those that are selected, after GROUP BY and ORDER BY', () => {
    expect(labels('SELECT upper(model) AS shown FROM spans GROUP BY |')[0]).toBe('shown');
    expect(labels('SELECT count(*) AS n FROM spans ORDER BY |')[0]).toBe('n');
  });
  test('each side of UNION has its own', () => {
    expect(labels('SELECT body FROM logs UNION ALL SELECT | FROM requests').slice(0, 2)).toEqual(['model', 'requests']);
  });
  test('the origin of a row comes last', () => {
    const offered = labels('SELECT | FROM spans').filter((label) => /^[a-z_]+$/.test(label));
    expect(offered.indexOf('_tick')).toBeGreaterThan(offered.indexOf('status'));
  });
});

describe('windows', () => {
  test('the arguments, one after the other', () => {
    expect(labels('SELECT 1 FROM TUMBLE(|')[0]).toBe("spans, event_time, INTERVAL '1 minute'");
    expect(labels('SELECT 1 FROM TUMBLE(l|')).toEqual(['logs']);
    expect(labels('SELECT 1 FROM TUMBLE(spans, |')).toEqual(['event_time']);
    expect(labels('SELECT 1 FROM SESSION(|')[0]).toBe("spans, event_time, INTERVAL '30 minutes'");
    expect(labels('SELECT 1 FROM SESSION(spans, |')).toEqual(['event_time']);
    expect(labels('SELECT 1 FROM HOP(spans, event_time, |')).toContain("INTERVAL '5 minutes'");
    expect(labels('SELECT 1 FROM TUMBLE(spans, event_time, INTERVAL |')).toContain("'1 minute'");
  });
  test('the template selects what is to be changed', () => {
    const text = 'SELECT 1 FROM TUM';
    const found = complete(text, text.length, catalogue, 'monitor');
    const taken = found?.offers[0] === undefined ? null : accept(text, found, found.offers[0]);
    expect(taken?.text).toBe("SELECT 1 FROM TUMBLE(spans, event_time, INTERVAL '1 minute')");
    expect(taken?.text.slice(...taken.selection)).toBe('spans');
  });
});

describe('words', () => {
  test('that may follow', () => {
    expect(labels('SELECT model |FROM spans')).toContain('FROM');
    expect(labels('SELECT 1 FROM spans W|')).toContain('WHERE');
    expect(labels('SELECT 1 FROM spans WHERE a = 1 A|')[0]).toBe('AND');
    expect(labels('SELECT 1 FROM spans GROUP |')).toEqual(['BY']);
    expect(labels('SELECT 1 FROM spans GROUP BY model EMIT |')).toEqual(['CHANGES', 'FINAL']);
    expect(labels('SELECT 1 FROM spans WHERE model IS |')).toContain('NOT NULL');
  });
  test('statements and their options', () => {
    expect(labels('cr|')).toEqual(['CREATE MONITOR … AS SELECT']);
    expect(labels('CREATE |')).toContain('OR REPLACE MONITOR');
    expect(labels('CREATE MONITOR m WITH (|')).toEqual(['retention', 'lateness', 'description', 'max_rows', 'backfill', 'max_tick_rows', 'max_updates_per_second', 'kafka_topic']);
    expect(labels('CREATE MONITOR m |')).toContain('AS SELECT');
    expect(labels('DROP MONITOR |', 'query')).toContain('requests');
    expect(labels('ALTER MONITOR |', 'query')).toContain('requests');
    expect(labels('ALTER MONITOR requests |', 'query')).toEqual(['SET (…)', 'RESET (…)']);
    expect(labels('ALTER MONITOR requests SET (|', 'query')).toContain('retention');
    expect(labels('ALTER MONITOR requests RESET (max_rows, |', 'query')).toContain('description');
    expect(labels('CREATE STREAM s (a |', 'query')).toContain('TIMESTAMP');
    expect(labels('CREATE STREAM s (a TEXT) |', 'query')).toEqual(['WITH (…)']);
    expect(labels('CREATE STREAM s (a TEXT) WITH (|', 'query')[0]).toBe('event_time');
    expect(labels('DROP STREAM |', 'query')).toEqual(['spans', 'logs']);
    expect(labels('DESCRIBE re|', 'query')).toEqual(['requests']);
  });
  test('functions, with the place of their argument', () => {
    const offer = at('SELECT quant| FROM spans')?.offers[0];
    expect(offer).toMatchObject({ kind: 'function', label: 'quantile', insert: 'quantile()', select: [9, 9] });
    expect(at('SELECT quant|(x, 0.5) FROM spans')?.offers[0]?.insert).toBe('quantile');
  });
  test('types in a cast', () => {
    expect(labels('SELECT CAST(model AS |')).toContain('BIGINT');
  });
});

describe('nothing', () => {
  test.each(["SELECT 'a|' FROM spans", "SELECT 'a|", 'SELECT 1 -- spa|', 'SELECT /* spa| */ 1', 'SELECT 12| FROM spans', 'SELECT model AS |', 'SELECT "model"|'])('%s', (text) => {
    expect(at(text)).toBeNull();
  });
  test('every place of a statement is answered, whatever is cut off', () => {
    const text = `CREATE MONITOR m WITH (retention = '1 hour') AS WITH a AS (SELECT user_id, "odd ""x" FROM spans s WHERE s.model IN ('a', 'b')) SELECT a.*, (SELECT max(duration_ns) FROM spans), row_number() OVER (PARTITION BY user_id ORDER BY 1) FROM TUMBLE((SELECT * FROM spans), event_time, INTERVAL '1 minute') AS t LEFT JOIN a USING (user_id) GROUP BY 1 EMIT FINAL`;
    for (let end = 0; end <= text.length; end++) {
      const cut = complete(text.slice(0, end), end, catalogue, 'monitor');
      const whole = complete(text, end, catalogue, 'query');
      for (const found of [cut, whole]) if (found !== null) expect(found.from).toBeLessThanOrEqual(end);
    }
    expect(complete(`SELECT ${'('.repeat(3000)}`, 3007, catalogue, 'monitor')).not.toBeUndefined();
    expect(complete('SELECT * FROM ('.repeat(300), 4500, catalogue, 'monitor')).not.toBeUndefined();
  });
});
