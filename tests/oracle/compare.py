"""Compares the server's built-in views with DuckDB over what the sender kept.

`compare.py --api http://127.0.0.1:4319 kept.ndjson…` fetches `GET /api/v1/views/{name}`, keeps the
rows of the projects and services that occur in the files, and prints a difference per line.
Exit codes: 0 equal, 1 different, 2 wrong use. Views follow the data within moments: `--wait`
gives them that long to arrive before a difference counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from views import KEY, PERCENTILES, VIEWS, Group, expected

QUANTILE_ERROR = 0.01
# An average is one rounding of an exact sum here and one of a decimal there.
FLOAT_ERROR = 1e-9
ROW_LIMIT = 1_000_000
SHOWN = 20

Content = dict[Group, dict[str, object]]


class Incomparable(Exception):
    """The server's answer is not of the agreed form."""


def microseconds(value: Any) -> int:
    """A time as the API writes it (RFC 3339) in microseconds since 1970."""
    if isinstance(value, int):
        return value
    moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise Incomparable(f"the time {value!r} has no zone; the API promises RFC 3339 UTC")
    moment = moment.astimezone(UTC)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


def fetch(api: str, view: str, headers: dict[str, str]) -> Content:
    """The rows of a view by group key."""
    url = f"{api}/api/v1/views/{urllib.parse.quote(view)}?limit={ROW_LIMIT}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        body = json.load(answer)
    if body.get("truncated"):
        raise Incomparable(f"view {view}: the answer is cut at {len(body['rows'])} rows")
    names = [column["name"] for column in body["columns"]]
    missing = {*KEY, *VIEWS[view].columns} - {*names}
    if missing:
        raise Incomparable(f"view {view} lacks the columns {sorted(missing)}; it has {names}")
    content: Content = {}
    for values in body["rows"]:
        row = dict(zip(names, values, strict=True))
        row["window_start"] = microseconds(row["window_start"])
        row["window_end"] = microseconds(row["window_end"])
        group = tuple(row[key] for key in KEY)
        if group in content:
            raise Incomparable(f"view {view}: the group {group} is there twice")
        content[group] = row
    return content


def differences(view: str, wanted: Content, found: Content) -> list[str]:
    """One line per difference, empty where the view is right."""
    scope = {group[:2] for group in wanted}
    lines = []
    for group, row in wanted.items():
        if group not in found:
            lines.append(f"{view}: missing {_group(group)}: {_values(view, row)}")
            continue
        lines += [f"{view}: {_group(group)}: {line}" for line in _row_differences(view, row, found[group])]
    lines += [
        f"{view}: unexpected {_group(group)}: {_values(view, row)}"
        for group, row in found.items()
        if group not in wanted and group[:2] in scope
    ]
    return lines


def _row_differences(view: str, wanted: dict[str, Any], found: dict[str, Any]) -> Iterable[str]:
    for column in VIEWS[view].columns:
        value = found[column]
        if column in PERCENTILES:
            low, high = wanted[f"{column}_low"], wanted[f"{column}_high"]
            if not low * (1 - QUANTILE_ERROR) - 1e-9 <= float(value) <= high * (1 + QUANTILE_ERROR) + 1e-9:
                yield f"{column} is {value}, must be within 1 % of {low} … {high}"
        elif isinstance(wanted[column], float):
            if value is None or not math.isclose(float(value), wanted[column], rel_tol=FLOAT_ERROR, abs_tol=1e-12):
                yield f"{column} is {value}, must be {wanted[column]}"
        elif value is None or int(value) != wanted[column]:
            yield f"{column} is {value}, must be {wanted[column]}"


def _group(group: Group) -> str:
    project, service, model, start, _ = group
    minute = datetime.fromtimestamp(int(str(start)) / 1e6, UTC).strftime("%H:%M")
    return f"[{project} / {service} / {model} / {minute}]"


def _values(view: str, row: dict[str, object]) -> str:
    shown = {column: row.get(column, row.get(f"{column}_low")) for column in VIEWS[view].columns}
    return ", ".join(f"{column}={value}" for column, value in shown.items())


def compare(
    api: str,
    files: list[Path],
    views: Iterable[str] = tuple(VIEWS),
    headers: dict[str, str] | None = None,
    wait_seconds: float = 0.0,
) -> list[str]:
    """All differences that are left once `wait_seconds` have passed."""
    wanted = expected(files)
    deadline = time.monotonic() + wait_seconds
    while True:
        lines: list[str] = []
        for view in views:
            try:
                lines += differences(view, wanted[view], fetch(api, view, headers or {}))
            except (Incomparable, urllib.error.URLError, KeyError, TypeError) as error:
                lines.append(f"{view}: {type(error).__name__}: {error}")
        if not lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.25)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="what the senders kept (NDJSON)")
    parser.add_argument("--api", default="http://127.0.0.1:4319")
    parser.add_argument("--views", default=",".join(VIEWS), help="comma-separated")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--wait", type=float, default=15.0, help="seconds until a difference counts")
    options = parser.parse_args()
    headers = dict(pair.split("=", 1) for pair in options.header)
    views = options.views.split(",")
    if unknown := set(views) - set(VIEWS):
        parser.error(f"no such view: {sorted(unknown)}; there are {sorted(VIEWS)}")
    lines = compare(options.api.rstrip("/"), options.files, views, headers, options.wait)
    for line in lines[:SHOWN]:
        print(line)
    if len(lines) > SHOWN:
        print(f"… and {len(lines) - SHOWN} more")
    if not lines:
        groups = {view: len(rows) for view, rows in expected(options.files).items() if view in views}
        print("equal: " + ", ".join(f"{view} {count} groups" for view, count in groups.items()))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
