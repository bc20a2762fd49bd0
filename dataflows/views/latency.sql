-- Latency of requests per project, service, model and minute, in milliseconds.
--
-- Every span counts, failed ones too. Quantiles come from logarithmic buckets: each is within 1 % of the true value
-- and can be taken back exactly. They are computed in nanoseconds and divided once, at the end.
CREATE MONITOR latency WITH (
  retention = '6 hours',
  description = 'Quantiles (within 1 %) and mean of span durations in ms, by project, service, model and minute'
) AS
SELECT
  project,
  coalesce(service_name, '') AS service_name,
  coalesce(model, '') AS model,
  window_start,
  window_end,
  quantile(duration_ns, 0.5) / 1e6 AS p50_ms,
  quantile(duration_ns, 0.9) / 1e6 AS p90_ms,
  quantile(duration_ns, 0.95) / 1e6 AS p95_ms,
  quantile(duration_ns, 0.99) / 1e6 AS p99_ms,
  avg(duration_ns) / 1e6 AS avg_ms
FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
GROUP BY project, coalesce(service_name, ''), coalesce(model, ''), window_start, window_end
EMIT CHANGES;
