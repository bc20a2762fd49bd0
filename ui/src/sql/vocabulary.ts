/** The words of the language that completion offers: functions with what they take, keywords by where they stand. */

export interface SqlFunction {
  readonly name: string;
  readonly takes: string;
  readonly about: string;
}

const fn = (name: string, takes: string, about: string): SqlFunction => ({ name, takes, about });

/** Those a monitor maintains; a query knows them too. */
export const aggregates: readonly SqlFunction[] = [
  fn('count', '*', 'Rows; with an argument, rows in which it is not NULL.'),
  fn('sum', 'x', 'Exact for integers and decimals, correctly rounded for floats.'),
  fn('avg', 'x', 'The exact sum divided by the count.'),
  fn('min', 'x', 'The smallest value, of numbers, texts, booleans or times.'),
  fn('max', 'x', 'The largest value, of numbers, texts, booleans or times.'),
  fn('quantile', 'x, q', 'Within 1 % of the true value; q is a constant from 0 to 1.'),
  fn('median', 'x', 'quantile(x, 0.5)'),
  fn('approx_percentile_cont', 'x, q', 'quantile under its name in DataFusion.'),
  fn('approx_distinct', 'x', 'Different values, counted exactly.'),
  fn('stddev', 'x', 'The standard deviation of a sample.'),
  fn('stddev_pop', 'x', 'The standard deviation of all values.'),
  fn('var_samp', 'x', 'The variance of a sample.'),
  fn('var_pop', 'x', 'The variance of all values.'),
  fn('covar_samp', 'y, x', 'The covariance of a sample of pairs.'),
  fn('corr', 'y, x', "Pearson's correlation."),
  fn('regr_slope', 'y, x', 'Of the line through the pairs.'),
  fn('regr_intercept', 'y, x', 'Of the line through the pairs.'),
  fn('string_agg', "x, ', ' ORDER BY x", 'The values as one text.'),
  fn('array_agg', 'x ORDER BY x', 'The values as a list.'),
  fn('bool_and', 'x', 'Whether all are true.'),
  fn('bool_or', 'x', 'Whether any is true.'),
];

export const windowFunctions: readonly SqlFunction[] = [
  fn('row_number', '', 'The place of the row in its partition, from 1.'),
  fn('rank', '', 'The place, equal for equal rows, with gaps.'),
  fn('dense_rank', '', 'The place, equal for equal rows, without gaps.'),
  fn('percent_rank', '', 'The rank as a share from 0 to 1.'),
  fn('cume_dist', '', 'The share of rows up to this one.'),
  fn('ntile', 'n', 'In which of n equal parts the row is.'),
  fn('lag', 'x, n', 'x of the row n before this one.'),
  fn('lead', 'x, n', 'x of the row n after this one.'),
  fn('first_value', 'x', 'x of the first row of the frame; first_value(x ORDER BY y) of a group.'),
  fn('last_value', 'x', 'x of the last row of the frame; last_value(x ORDER BY y) of a group.'),
  fn('nth_value', 'x, n', 'x of the nth row of the frame.'),
];

export const scalars: readonly SqlFunction[] = [
  fn('coalesce', 'a, b', 'The first that is not NULL.'),
  fn('nullif', 'a, b', 'NULL if both are equal, else a: x / nullif(y, 0).'),
  fn('greatest', 'a, b', 'The largest of the arguments.'),
  fn('least', 'a, b', 'The smallest of the arguments.'),
  fn('now', '', "In WHERE beside the event time: event_time > now() - INTERVAL '5 minutes' shows the last five minutes."),
  fn('date_trunc', "'minute', time", 'The time cut to a unit.'),
  fn('date_bin', "INTERVAL '5 minutes', time", 'The start of the interval that holds the time.'),
  fn('date_part', "'hour', time", 'One part of a time as a number.'),
  fn('to_timestamp', 'x', 'A time from text or seconds.'),
  fn('to_char', "time, '%H:%M'", 'A time as text.'),
  fn('lower', 'text', 'In lower case.'),
  fn('upper', 'text', 'In upper case.'),
  fn('trim', 'text', 'Without blanks at both ends.'),
  fn('length', 'text', 'Number of characters.'),
  fn('substr', 'text, start, count', 'Part of a text; the first character is 1.'),
  fn('split_part', "text, '-', 1", 'The nth part of a text.'),
  fn('replace', 'text, from, to', 'Every occurrence replaced.'),
  fn('regexp_replace', 'text, pattern, to', 'The first match replaced; all with the flag g.'),
  fn('regexp_like', 'text, pattern', 'Whether the pattern matches.'),
  fn('starts_with', 'text, start', 'Whether the text begins so.'),
  fn('strpos', 'text, part', 'Where the part begins, from 1; 0 if nowhere.'),
  fn('concat', 'a, b', 'Texts joined; NULL counts as empty.'),
  fn('concat_ws', "', ', a, b", 'Texts joined with a separator.'),
  fn('md5', 'text', 'MD5 in hexadecimal digits.'),
  fn('sha256', 'text', 'SHA-256 as bytes; encode(…, \'hex\') makes text of it.'),
  fn('encode', "bytes, 'hex'", 'Bytes as text.'),
  fn('abs', 'x', 'Without its sign.'),
  fn('ceil', 'x', 'Rounded up.'),
  fn('floor', 'x', 'Rounded down.'),
  fn('round', 'x, digits', 'Rounded to so many decimal digits.'),
  fn('sqrt', 'x', 'Square root.'),
  fn('power', 'x, y', 'x to the y.'),
  fn('ln', 'x', 'Natural logarithm.'),
  fn('log10', 'x', 'Decimal logarithm.'),
  fn('exp', 'x', 'e to the x.'),
];

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
  { name: 'max_tick_rows', value: '5000000', about: 'Records that its joins may make at one tick; beyond it the monitor is stopped.' },
];

export const streamOptions: typeof options = [
  { name: 'event_time', value: 'event_time', about: 'The column that says when a row happened.' },
  { name: 'lateness', value: '10 seconds', about: 'How far out of order rows may come; 10 seconds by default.' },
  { name: 'retention', value: '30 days', about: 'How long stored rows are kept.' },
  { name: 'description', value: 'what it is for', about: 'Shown by SHOW STREAMS.' },
];

export const intervals: readonly string[] = ['10 seconds', '1 minute', '5 minutes', '15 minutes', '1 hour', '1 day'];

export const types: readonly string[] = ['BIGINT', 'INT', 'DOUBLE', 'TEXT', 'BOOLEAN', 'TIMESTAMP', 'DECIMAL(38, 12)'];

/** Of a declared stream. */
export const streamTypes: readonly string[] = [...types, 'JSON', 'TEXT[]'];
