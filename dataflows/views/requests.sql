-- Requests per project, service, model and minute.
--
-- Every span counts, not only calls of models: a span without a model is in the group whose model is ''. So the sum
-- over the models of a service is all that the service sent, and the calls of one model are its own row.
CREATE MONITOR requests WITH (
  retention = '6 hours',
  description = 'Spans by project, service, model and minute; model is empty for spans without one'
) AS
SELECT
  project,
  coalesce(service_name, '') AS service_name,
  coalesce(model, '') AS model,
  window_start,
  window_end,
  count(*) AS requests
FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
GROUP BY project, coalesce(service_name, ''), coalesce(model, ''), window_start, window_end
EMIT CHANGES;
