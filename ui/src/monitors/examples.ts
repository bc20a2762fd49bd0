/** Monitors to begin with, and the columns they are made of. */

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

export const spanColumns: readonly { readonly group: string; readonly names: readonly string[] }[] = [
  { group: 'Identity', names: ['trace_id', 'span_id', 'parent_span_id', 'name', 'kind', 'status', 'status_message', 'service_name', 'service_version', 'environment', 'scope_name'] },
  { group: 'Time', names: ['event_time', 'start_time', 'end_time', 'start_unix_nano', 'duration_ns'] },
  { group: 'Meaning', names: ['span_class', 'operation', 'provider', 'model_requested', 'model', 'model_version', 'temperature', 'max_tokens', 'finish_reason', 'time_to_first_token_ns', 'error_type'] },
  { group: 'Tokens and cost', names: ['input_tokens', 'output_tokens', 'cache_read_tokens', 'cache_write_tokens', 'reasoning_tokens', 'reported_cost'] },
  { group: 'Who', names: ['user_id', 'session_id', 'agent_name', 'tool_name', 'prompt_name', 'prompt_version'] },
  { group: 'Content', names: ['input', 'output', 'attributes', 'resource', 'events', 'links'] },
];
