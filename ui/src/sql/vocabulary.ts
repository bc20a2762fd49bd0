/**
 * The words of the language that completion offers: functions with what they take, keywords by where they stand.
 *
 * The functions are those the planner knows: functions.json is written from its registries (`make reference`).
 */
import functions from './functions.json';

export interface SqlFunction {
  readonly name: string;
  readonly takes: string;
  readonly about: string;
}

/** Those a monitor maintains; a query knows them too. */
export const aggregates: readonly SqlFunction[] = functions.aggregates;

export const windowFunctions: readonly SqlFunction[] = functions.windows;

/** What is written most often stands first. */
const usual = [
  'coalesce', 'nullif', 'greatest', 'least', 'date_trunc', 'date_bin', 'date_part', 'to_timestamp', 'to_char', 'lower',
  'upper', 'trim', 'length', 'substr', 'split_part', 'replace', 'regexp_replace', 'regexp_like', 'starts_with', 'strpos',
  'concat', 'concat_ws', 'md5', 'sha256', 'encode', 'abs', 'ceil', 'floor', 'round', 'sqrt',
  'power', 'ln', 'log10', 'exp',
];

export const scalars: readonly SqlFunction[] = functions.scalars.toSorted((one, other) => place(one.name) - place(other.name));

function place(name: string): number {
  const at = usual.indexOf(name);
  return at < 0 ? usual.length : at;
}

/** What may follow something complete, by the clause. */
export const after: Readonly<Record<string, readonly string[]>> = {
  SELECT: ['FROM', 'AS', 'FILTER (WHERE )', 'OVER (PARTITION BY )', 'AND', 'OR', 'IS NULL', 'IS NOT NULL', 'IN ()', 'LIKE', 'BETWEEN', 'THEN', 'ELSE', 'END', 'WHEN'],
  FROM: ['WHERE', 'GROUP BY', 'JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN', 'CROSS JOIN', 'ON', 'USING ()', 'AS', 'AND', 'OR', 'HAVING', 'QUALIFY', 'ORDER BY', 'LIMIT', 'UNION ALL', 'UNION', 'INTERSECT', 'EXCEPT', 'EMIT CHANGES', 'EMIT FINAL'],
  WHERE: ['AND', 'OR', 'GROUP BY', 'IS NULL', 'IS NOT NULL', 'IN ()', 'NOT IN ()', 'LIKE', 'ILIKE', 'BETWEEN', 'HAVING', 'QUALIFY', 'ORDER BY', 'LIMIT', 'UNION ALL', 'UNION', 'INTERSECT', 'EXCEPT', 'EMIT CHANGES', 'EMIT FINAL', 'THEN', 'ELSE', 'END', 'WHEN'],
  GROUP: ['HAVING', 'QUALIFY', 'ORDER BY', 'LIMIT', 'UNION ALL', 'EMIT CHANGES', 'EMIT FINAL'],
  HAVING: ['AND', 'OR', 'QUALIFY', 'ORDER BY', 'LIMIT', 'OVER (PARTITION BY )', 'UNION ALL', 'EMIT CHANGES', 'EMIT FINAL'],
  QUALIFY: ['AND', 'OR', 'OVER (PARTITION BY )', 'ORDER BY', 'LIMIT', 'EMIT CHANGES'],
  ORDER: ['ASC', 'DESC', 'NULLS FIRST', 'NULLS LAST', 'LIMIT', 'OFFSET'],
  LIMIT: ['OFFSET', 'EMIT CHANGES'],
  OFFSET: ['LIMIT'],
};

/** What may begin an expression. */
export const before: readonly string[] = ['CASE WHEN  THEN  ELSE  END', 'CAST( AS )', 'TRY_CAST( AS )', 'NOT', 'EXISTS ()', 'NULL', 'TRUE', 'FALSE', "INTERVAL '1 minute'"];

export const statements: readonly { readonly label: string; readonly insert: string; readonly select: readonly [number, number] | null; readonly about: string }[] = [
  { label: 'CREATE MONITOR … AS SELECT', insert: 'CREATE MONITOR name\nAS SELECT\n  \nFROM spans', select: [15, 19], about: 'A query whose answer stays current.' },
  { label: 'SELECT', insert: 'SELECT ', select: null, about: 'Ask once.' },
  { label: 'WITH … AS', insert: 'WITH name AS (\n  SELECT \n)\nSELECT * FROM name', select: [5, 9], about: 'Name a query and read it below.' },
  { label: 'EXPLAIN MONITOR', insert: 'EXPLAIN MONITOR ', select: null, about: 'How a monitor is kept.' },
  { label: 'EXPLAIN ANALYZE MONITOR', insert: 'EXPLAIN ANALYZE MONITOR ', select: null, about: 'What the operators of a monitor have done.' },
  { label: 'SHOW MONITORS', insert: 'SHOW MONITORS', select: null, about: 'All monitors of the project.' },
  { label: 'ALTER MONITOR', insert: 'ALTER MONITOR ', select: null, about: 'Give a monitor other options.' },
  { label: 'DROP MONITOR', insert: 'DROP MONITOR ', select: null, about: 'End a monitor.' },
  { label: 'CREATE STREAM', insert: "CREATE STREAM name (\n  event_time TIMESTAMP,\n  value DOUBLE\n)", select: [14, 18], about: 'Declare a stream of your own.' },
  { label: 'SHOW STREAMS', insert: 'SHOW STREAMS', select: null, about: 'The streams that were declared.' },
  { label: 'DROP STREAM', insert: 'DROP STREAM ', select: null, about: 'End a stream.' },
  { label: 'DESCRIBE', insert: 'DESCRIBE ', select: null, about: 'The columns of a stream or view.' },
];

export const options: readonly { readonly name: string; readonly value: string; readonly about: string }[] = [
  { name: 'retention', value: '48 hours', about: 'How long a window stays in the live view after its end; 24 hours by default.' },
  { name: 'lateness', value: '10 seconds', about: 'How far out of order rows may come; 10 seconds by default.' },
  { name: 'description', value: 'what it is for', about: 'Shown in the list of monitors.' },
  { name: 'max_rows', value: '5000000', about: 'Rows that one of its operators may keep; beyond it the monitor is stopped.' },
  { name: 'backfill', value: '6 hours', about: 'How far back to begin, with rows read from the store.' },
  { name: 'max_tick_rows', value: '5000000', about: 'Records that its joins may make at one tick; beyond it the monitor is stopped.' },
  { name: 'max_updates_per_second', value: '5000000', about: 'Changes of its result, on average of ten seconds; beyond it the monitor is stopped.' },
  { name: 'kafka_topic', value: 'topic', about: 'A Kafka topic that its changes are written to, each once.' },
];

export const streamOptions: typeof options = [
  { name: 'event_time', value: 'event_time', about: 'The column that says when a row happened.' },
  { name: 'lateness', value: '10 seconds', about: 'How far out of order rows may come; 10 seconds by default.' },
  { name: 'retention', value: '30 days', about: 'How long stored rows are kept.' },
  { name: 'description', value: 'what it is for', about: 'Shown by SHOW STREAMS.' },
  { name: 'start', value: 'earliest', about: 'Of a stream FROM KAFKA TOPIC: earliest, latest, or a moment.' },
];

export const intervals: readonly string[] = ['10 seconds', '1 minute', '5 minutes', '15 minutes', '1 hour', '1 day'];

export const types: readonly string[] = ['BIGINT', 'INT', 'DOUBLE', 'TEXT', 'BOOLEAN', 'TIMESTAMP', 'DECIMAL(38, 12)'];

/** Of a declared stream. */
export const streamTypes: readonly string[] = [...types, 'JSON', 'TEXT[]'];
