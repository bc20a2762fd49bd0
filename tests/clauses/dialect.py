"""DuckDB over the rows that were sent: what every monitor must show.

What it needs to be told: NULL sorts as in monitors, whole numbers divide to whole numbers, `TUMBLE` and `HOP` are
subqueries, quantiles are bounded by the values around their rank, because buckets give them within 1 %, and moments are
`about` what it computes in floating point.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import duckdb

from files import Record
from rows import TYPES, Row, as_table

QUANTILE_ERROR = 0.01
# How far DuckDB's floating point may be from the exact moments.
MOMENT_ERROR = 1e-9
SETTINGS = f"""
SET TimeZone = 'UTC';
SET default_null_order = 'nulls_last_on_asc_first_on_desc';
SET integer_division = true;
CREATE SCHEMA live;
CREATE MACRO known(l) AS list_sort(list_filter(l, lambda x: x IS NOT NULL));
CREATE MACRO place(l, q) AS q * (len(known(l)) - 1);
CREATE MACRO between_ranks(l, q) AS CASE WHEN len(known(l)) > 0 THEN
  [known(l)[1 + floor(place(l, q))::BIGINT]::DOUBLE, known(l)[1 + ceil(place(l, q))::BIGINT]::DOUBLE] END;
CREATE MACRO about(x) AS CASE WHEN x IS NOT NULL THEN [x::DOUBLE, x::DOUBLE, {MOMENT_ERROR}::DOUBLE] END;
"""
DUCKDB_TYPES = {
    "timestamp[us, tz=UTC]": "TIMESTAMP",
    "int64": "BIGINT",
    "int32": "INTEGER",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "double": "DOUBLE",
    "decimal128(38, 12)": "DECIMAL(38, 12)",
    "list<item: string>": "VARCHAR[]",
    "map<string, string>": "MAP(VARCHAR, VARCHAR)",
}
WINDOW = re.compile(r"\b(TUMBLE|HOP)\(")


class Oracle:
    """A DuckDB database with the streams' rows, and a view for every monitor."""

    def __init__(self, records: list[Record]) -> None:
        self._database = duckdb.connect()
        self._database.execute(SETTINGS)
        for stream, columns in TYPES.items():
            declared = ", ".join(f"{name} {DUCKDB_TYPES[str(data_type)]}" for name, data_type in columns.items())
            self._database.execute(f"CREATE TABLE {stream} (project VARCHAR DEFAULT 'default', {declared})")
        for record in records:
            if record.for_duckdb is None or record.refusal is not None:
                continue
            for schema in ("main", "live"):
                query = windows_as_subqueries(record.for_duckdb)
                try:
                    self._database.execute(f"CREATE VIEW {schema}.{record.name} AS {query}")
                except duckdb.Error as error:
                    raise AssertionError(f"{record.place}: DuckDB: {error}\n{query}") from error

    def add(self, stream: str, rows: list[Row]) -> None:
        sent = as_table(stream, rows)  # noqa: F841 (DuckDB reads it by its name)
        self._database.execute(f"INSERT INTO {stream} ({', '.join(TYPES[stream])}) SELECT {_columns(stream)} FROM sent")

    def view(self, record: Record, mark: datetime | None) -> list[tuple[Any, ...]]:
        """What the monitor shows; of a final one, the windows that the watermark has passed."""
        query = f"SELECT * FROM {record.name}"
        if record.is_final:
            if mark is None:
                return []
            passed = f"TIMESTAMP '{mark:%Y-%m-%d %H:%M:%S.%f}' - INTERVAL '{record.lateness}'"
            query += f" WHERE window_end <= {passed}"
        return self.rows(query, record.place)

    def errors(self, record: Record) -> int:
        """Rows and groups in error."""
        query = record.sections.get("errors")
        return int(self.rows(query, record.place)[0][0]) if query else 0

    def rows(self, query: str, place: str) -> list[tuple[Any, ...]]:
        try:
            return list(self._database.execute(query).fetchall())
        except duckdb.Error as error:
            raise AssertionError(f"{place}: DuckDB: {error}\n{query}") from error


def _columns(stream: str) -> str:
    """Times are kept without a zone: DuckDB cuts those without asking where it is."""
    is_time = {name: str(data_type).startswith("timestamp") for name, data_type in TYPES[stream].items()}
    return ", ".join(f"{name} AT TIME ZONE 'UTC'" if time else name for name, time in is_time.items())


def windows_as_subqueries(query: str) -> str:
    """Rewrites `TUMBLE(relation, time, size)` and `HOP(relation, time, slide, size)`."""
    found = WINDOW.search(query)
    if found is None:
        return query
    end, arguments = _arguments(query, found.end())
    relation, time, *sizes = (windows_as_subqueries(argument) for argument in arguments)
    slide, size = sizes[0], sizes[-1]
    name = relation if relation.isidentifier() else "windowed"
    source = f"{relation} AS windowed" if relation.startswith("(") else relation
    if found[1] == "TUMBLE":
        starts = f"time_bucket({size}, {time}, TIMESTAMP '1970-01-01')"
    else:
        first = f"time_bucket({slide}, {time} - {size}, TIMESTAMP '1970-01-01')"
        starts = f"unnest(generate_series({first}, {time}, {slide}))"
    started = f"(SELECT *, {starts} AS window_start FROM {source} WHERE {time} IS NOT NULL)"
    subquery = f"(SELECT *, window_start + {size} AS window_end FROM {started} WHERE window_start + {size} > {time})"
    rest = query[end:]
    alias = "" if re.match(r"\s+AS\b", rest) else f" AS {name}"
    return query[: found.start()] + subquery + alias + windows_as_subqueries(rest)


def _arguments(query: str, start: int) -> tuple[int, list[str]]:
    """The place behind the closing parenthesis, and what stands between commas."""
    depth, begun, arguments, quoted = 0, start, [], False
    for place in range(start, len(query)):
        letter = query[place]
        if letter == "'":
            quoted = not quoted
        if quoted:
            continue
        if letter == "(":
            depth += 1
        elif letter == ")" and depth > 0:
            depth -= 1
        elif letter in ",)" and depth == 0:
            arguments.append(query[begun:place].strip())
            begun = place + 1
            if letter == ")":
                return place + 1, arguments
    raise AssertionError(f"a window without an end: {query}")
