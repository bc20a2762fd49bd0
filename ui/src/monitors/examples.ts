/** Monitors to begin with. */

export const examples: readonly { readonly title: string; readonly about: string; readonly sql: string }[] = [
  {
    title: 'Tokens by user',
    about: 'Who uses how much, always current.',
    sql: `CREATE MONITOR tokens_by_user
  WITH (retention = '24 hours', description = 'Tokens of every user')
AS SELECT
  user_id,
  count(*) AS requests,
  sum(input_tokens) AS input_tokens,
  sum(output_tokens) AS output_tokens
FROM spans
WHERE span_class = 'llm'
GROUP BY user_id`,
  },
  {
    title: 'Slow tools',
    about: 'Calls, failures and latency of every tool by minute.',
    sql: `CREATE MONITOR tool_calls
AS SELECT
  window_start, window_end, tool_name,
  count(*) AS calls,
  sum(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS failures,
  max(duration_ns) AS slowest_ns
FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
WHERE span_class = 'tool'
GROUP BY window_start, window_end, tool_name`,
  },
  {
    title: 'Errors by kind',
    about: 'What fails, where, in windows of ten seconds.',
    sql: `CREATE MONITOR errors_by_kind
AS SELECT
  window_start, window_end, service_name, error_type,
  count(*) AS errors
FROM TUMBLE(spans, event_time, INTERVAL '10 seconds')
WHERE status = 'error'
GROUP BY window_start, window_end, service_name, error_type`,
  },
  {
    title: 'Load by model',
    about: 'Requests and mean latency of every model by minute.',
    sql: `CREATE MONITOR load_by_model
AS SELECT
  window_start, window_end, model,
  count(*) AS requests,
  avg(duration_ns) AS mean_ns
FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
WHERE model IS NOT NULL
GROUP BY window_start, window_end, model`,
  },
  {
    title: 'Slowest calls',
    about: 'The twenty slowest model calls of the last hour.',
    sql: `CREATE MONITOR slowest_calls
  WITH (retention = '1 hour')
AS SELECT trace_id, span_id, model, duration_ns
FROM spans
WHERE span_class = 'llm'
ORDER BY duration_ns DESC, span_id
LIMIT 20`,
  },
  {
    title: 'Failures against load',
    about: 'Failed and all requests of every user who had failures.',
    sql: `CREATE MONITOR failing_users
AS SELECT a.user_id, a.requests, f.failures
FROM (SELECT user_id, count(*) AS requests FROM spans GROUP BY user_id) AS a
JOIN (SELECT user_id, count(*) AS failures FROM spans WHERE status = 'error' GROUP BY user_id) AS f
  ON a.user_id = f.user_id`,
  },
];
