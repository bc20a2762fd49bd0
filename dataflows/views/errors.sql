-- Failed requests per project, service, model and minute, and their share.
--
-- Every span counts; it failed if its status is `error`. Groups without a failure are shown too, with a share of 0:
-- that nothing failed is an answer.
CREATE MONITOR errors WITH (
  retention = '6 hours',
  description = 'Spans with status error, all spans, and the share of the first, by project, service, model and minute'
) AS
SELECT
  project,
  coalesce(service_name, '') AS service_name,
  coalesce(model, '') AS model,
  window_start,
  window_end,
  count(*) FILTER (WHERE status = 'error') AS errors,
  count(*) AS requests,
  CAST(count(*) FILTER (WHERE status = 'error') AS DOUBLE) / CAST(count(*) AS DOUBLE) AS error_rate
FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
GROUP BY project, coalesce(service_name, ''), coalesce(model, ''), window_start, window_end
EMIT CHANGES;
