"""The built-in views, computed by DuckDB from what the sender kept.

The second oracle: it shares no code, no decoder and no query engine with the server. Its input
is the sender's own NDJSON (tests/clients/python/kept.py says what a line holds); its output is
what each view must contain. Every span counts, in the minute of its *end*; one
without a service or a model is in the group whose name is empty, one without tokens adds 0.

Percentiles are not copied but bounded: the exact order statistics around the rank, which a
logarithmic histogram must meet within its relative error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

MINUTE_NS = 60_000_000_000
KEY = ("project", "service_name", "model", "window_start", "window_end")

SPANS = """
CREATE TABLE spans AS
SELECT
    project,
    coalesce(service_name, '') AS service_name,
    coalesce(model, '') AS model,
    epoch_us(make_timestamp((end_unix_nano // {minute}) * ({minute} // 1000))) AS window_start,
    window_start + {minute} // 1000 AS window_end,
    status,
    (end_unix_nano - start_unix_nano) / 1e6 AS duration_ms,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens
FROM read_json({files}, format = 'newline_delimited', maximum_object_size = 67108864, columns = {{
    project: 'VARCHAR', service_name: 'VARCHAR', model: 'VARCHAR', status: 'VARCHAR',
    start_unix_nano: 'BIGINT', end_unix_nano: 'BIGINT',
    input_tokens: 'BIGINT', output_tokens: 'BIGINT', cache_read_tokens: 'BIGINT',
    cache_write_tokens: 'BIGINT', reasoning_tokens: 'BIGINT'}})
"""


@dataclass(frozen=True)
class View:
    """A built-in view: the query over `spans` that gives its content."""

    columns: tuple[str, ...]
    query: str


def _grouped(*columns: str) -> str:
    return f"SELECT {', '.join(KEY)}, {', '.join(columns)} FROM spans GROUP BY {', '.join(KEY)}"


def _rank_bounds(column: str, quantile: float) -> tuple[str, str]:
    """The two order statistics between which every common definition of a quantile lies."""
    low = f"list_sort(list(duration_ms))[1 + floor({quantile} * (count(*) - 1))::BIGINT] AS {column}_low"
    high = f"list_sort(list(duration_ms))[1 + ceil({quantile} * (count(*) - 1))::BIGINT] AS {column}_high"
    return low, high


PERCENTILES = {"p50_ms": 0.50, "p90_ms": 0.90, "p95_ms": 0.95, "p99_ms": 0.99}
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")

VIEWS = {
    "requests": View(("requests",), _grouped("count(*) AS requests")),
    "errors": View(
        ("errors", "requests", "error_rate"),
        _grouped(
            "count(*) FILTER (status = 'error') AS errors",
            "count(*) AS requests",
            "errors / requests AS error_rate",
        ),
    ),
    "latency": View(
        (*PERCENTILES, "avg_ms"),
        _grouped(
            *(bound for column, quantile in PERCENTILES.items() for bound in _rank_bounds(column, quantile)),
            "avg(duration_ms) AS avg_ms",
        ),
    ),
    "tokens": View(TOKENS, _grouped(*(f"sum(coalesce({column}, 0))::BIGINT AS {column}" for column in TOKENS))),
}

Group = tuple[object, ...]


def expected(files: list[Path]) -> dict[str, dict[Group, dict[str, object]]]:
    """For every view: its rows by group key; times are microseconds since 1970."""
    database = duckdb.connect()
    listed = "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in files) + "]"
    database.execute(SPANS.format(minute=MINUTE_NS, files=listed))
    content: dict[str, dict[Group, dict[str, object]]] = {}
    for name, view in VIEWS.items():
        result = database.execute(view.query)
        columns = [column[0] for column in result.description]
        rows = (dict(zip(columns, row, strict=True)) for row in result.fetchall())
        content[name] = {tuple(row[key] for key in KEY): row for row in rows}
    return content
