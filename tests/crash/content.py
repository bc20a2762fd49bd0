"""What the server has kept, against what the senders know.

Every acknowledged span must be in `history.spans` exactly once and counted once in every built-in view (compared with
DuckDB over what the sender kept), spans sent without an answer at most once, and nothing that was never sent or was
erased. Shares no code with the engine.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from compare import compare
from numbered_spans import SERVICE, Batch, span_id
from report import Report
from server import Server

CHUNK = 20_000


def copies_in_store(server: Server, last_number: int) -> dict[str, int]:
    """How often each span id of the driver is in the store."""
    copies: dict[str, int] = {}
    for first in range(0, last_number + 1, CHUNK):
        low, high = span_id(first), span_id(first + CHUNK - 1)
        rows = server.sql(
            "SELECT span_id, count(*) AS copies FROM history.spans "
            f"WHERE service_name = '{SERVICE}' AND span_id >= '{low}' AND span_id <= '{high}' GROUP BY span_id"
        )
        copies.update({str(span): int(count) for span, count in rows})
    return copies


@dataclass(frozen=True)
class Erased:
    """Span ids: of those that must have gone, and of those that may have."""

    gone: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()


NOTHING_ERASED = Erased()


def settled_copies(server: Server, last_number: int, wanted: set[str], settle_seconds: float) -> dict[str, int]:
    """Waits, within reason, until every wanted span is there."""
    deadline = time.monotonic() + settle_seconds
    while True:
        copies = copies_in_store(server, last_number)
        if wanted <= copies.keys() or time.monotonic() > deadline:
            return copies
        time.sleep(0.5)


def check_content(
    report: Report,
    server: Server,
    batches: list[Batch],
    scratch: Path,
    when: str,
    settle_seconds: float,
    views: bool = True,
    erased: Erased = NOTHING_ERASED,
) -> None:
    known = {line["span_id"]: (batch, line) for batch in batches for line in batch.lines}
    acknowledged = {span for span, (batch, _) in known.items() if batch.acknowledged}
    acknowledged -= erased.gone | erased.doubtful
    copies = settled_copies(server, max(batch.last for batch in batches), acknowledged, settle_seconds)
    missing = sorted(acknowledged - copies.keys())
    twice = [f"span {span} is there {count} times" for span, count in sorted(copies.items()) if count != 1]
    report.seen["acknowledged spans compared, before and after the last restart"] += len(acknowledged)
    report.seen["lost"] += len(missing)
    report.seen["doubled"] += len(twice)
    report.check(
        f"{when}: every one of {len(acknowledged)} acknowledged spans is in history.spans",
        [f"span {span} is missing" for span in missing] + ([] if acknowledged else ["nothing was acknowledged"]),
    )
    report.check(f"{when}: none is there twice", twice)
    if erased.gone:
        back = sorted(erased.gone & copies.keys())
        report.seen["erased spans looked for"] += len(erased.gone)
        report.check(
            f"{when}: none of {len(erased.gone)} erased spans is there", [f"span {span} is there" for span in back]
        )
    total = int(server.sql(f"SELECT count(*) FROM history.spans WHERE service_name = '{SERVICE}'")[0][0])
    report.check(
        f"{when}: nothing is there that was not sent",
        [f"span {span} was never sent" for span in sorted(copies.keys() - known.keys())]
        + ([] if total == sum(copies.values()) else [f"{total} rows, but {sum(copies.values())} with known ids"]),
    )
    if not views:
        return
    kept = scratch / "kept.ndjson"
    present = (known[span][1] for span in copies if span in known)
    kept.write_text("".join(json.dumps(line) + "\n" for line in present))
    report.check(
        f"{when}: the views count each span once (DuckDB over the sender's file)",
        compare(server.api_url, [kept], wait_seconds=settle_seconds),
    )
