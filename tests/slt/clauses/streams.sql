-- The streams that all files of this folder read; rows.json says what their rows are drawn from.

CREATE STREAM calls (
  id BIGINT NOT NULL,
  happened TIMESTAMP,
  who TEXT,
  model TEXT,
  ok BOOLEAN,
  small INT,
  tokens BIGINT,
  score DOUBLE,
  odd DOUBLE,
  price DECIMAL(38, 12),
  tags TEXT[],
  doc JSON
) WITH (event_time = 'happened', lateness = '10 minutes');

CREATE STREAM people (
  seen TIMESTAMP,
  who TEXT,
  team TEXT,
  grade INT,
  weight DOUBLE
) WITH (event_time = 'seen', lateness = '10 minutes');

CREATE STREAM labels (
  call BIGINT,
  label TEXT,
  stars INT
);
