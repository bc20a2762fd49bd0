-- Tokens per project, service, model and minute.
--
-- Every span counts with the tokens it reports; a span that reports none adds 0. Cached tokens are part of the input
-- tokens and reasoning tokens part of the output tokens, so the columns are not to be added up.
CREATE MONITOR tokens WITH (
  retention = '6 hours',
  description = 'Sums of reported tokens by project, service, model and minute'
) AS
SELECT
  project,
  coalesce(service_name, '') AS service_name,
  coalesce(model, '') AS model,
  window_start,
  window_end,
  sum(coalesce(input_tokens, 0)) AS input_tokens,
  sum(coalesce(output_tokens, 0)) AS output_tokens,
  sum(coalesce(cache_read_tokens, 0)) AS cache_read_tokens,
  sum(coalesce(cache_write_tokens, 0)) AS cache_write_tokens,
  sum(coalesce(reasoning_tokens, 0)) AS reasoning_tokens
FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
GROUP BY project, coalesce(service_name, ''), coalesce(model, ''), window_start, window_end
EMIT CHANGES;
