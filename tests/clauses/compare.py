"""Whether two lists of rows are the same rows: floats to nine digits and a bit, everything else exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from dialect import QUANTILE_ERROR

RELATIVE = 1e-12
# What needs no other form to be compared.
PLAIN = (int, str, float, bool, type(None))
Row = tuple[Any, ...]
Rows = Sequence[Row]


def difference(found: Rows, wanted: Rows) -> str | None:
    """None if they agree."""
    found, wanted = _only(found, wanted)
    bounded = {place for row in wanted for place, value in enumerate(row) if _is_bounds(value)}

    def key(row: tuple[Any, ...]) -> list[tuple[int, Any]]:
        exact = [_sortable(value) for place, value in enumerate(row) if place not in bounded]
        # Floats last: two that are nearly equal must not decide before something that is exact.
        return [one for one in exact if one[0] != 3] + [one for one in exact if one[0] == 3]

    found.sort(key=key)
    wanted.sort(key=key)
    for ours, theirs in zip(found, wanted, strict=False):
        if len(ours) != len(theirs) or not all(map(_same, ours, theirs)):
            return f"{len(found)} rows have no equal among {len(wanted)}:\n  found  {ours}\n  wanted {theirs}"
    if len(found) != len(wanted):
        more = (found if len(found) > len(wanted) else wanted)[min(len(found), len(wanted))]
        return f"{len(found) - len(wanted):+} rows; one of them: {more}"
    return None


def _only(found: Rows, wanted: Rows) -> tuple[list[Row], list[Row]]:
    """The rows of each side without those that the other has exactly: almost all, and counted they are quickest."""
    ours = Counter(tuple(value if type(value) in PLAIN else _plain(value) for value in row) for row in found)
    theirs = Counter(tuple(value if type(value) in PLAIN else _plain(value) for value in row) for row in wanted)
    return list((ours - theirs).elements()), list((theirs - ours).elements())


def _same(ours: Any, theirs: Any) -> bool:
    if _is_bounds(theirs):
        low, high, error = theirs if len(theirs) == 3 else (*theirs, QUANTILE_ERROR)
        return isinstance(ours, float) and low - abs(low) * error <= ours <= high + abs(high) * error
    if isinstance(ours, float) or isinstance(theirs, float):
        if not isinstance(ours, int | float) or not isinstance(theirs, int | float):
            return False
        return (math.isnan(ours) and math.isnan(theirs)) or math.isclose(ours, theirs, rel_tol=RELATIVE)
    return bool(ours == theirs) and isinstance(ours, bool) == isinstance(theirs, bool)


def _is_bounds(value: Any) -> bool:
    """The least and the greatest value, and perhaps how far beyond them."""
    return isinstance(value, tuple) and len(value) in (2, 3) and all(isinstance(one, float) for one in value)


def _plain(value: Any) -> Any:
    """One form for what both sides say in their own ways."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, Decimal):
        return value.normalize()
    if isinstance(value, list):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return tuple(sorted((key, _plain(one)) for key, one in value.items()))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value


def _sortable(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    if isinstance(value, bool):
        return (1, value)
    if isinstance(value, int):
        return (2, value)
    if isinstance(value, float):
        # Nearly equal floats sort alike; NaN has no place of its own.
        return (3, math.inf if math.isnan(value) else float(f"{value:.9g}"))
    if isinstance(value, tuple):
        return (4, tuple(map(_sortable, value)))
    return (5, f"{type(value).__name__} {value}")
