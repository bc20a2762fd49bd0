"""Proves that the comparison finds faults: a server that is right, and a sender's file made wrong.

Spans go into the stand-in of the crash driver; then one line of what the sender kept is altered
in one way at a time, and the comparison must name the views that this concerns and no others.
Prints `N passed, N failed`.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "crash")]

from compare import compare  # noqa: E402
from numbered_spans import Batch, Senders, build  # noqa: E402
from server import Server  # noqa: E402
from views import VIEWS  # noqa: E402

SPANS = 400
MINUTE_NS = 60_000_000_000
Line = dict[str, Any]


def _minute_later(line: Line) -> Line:
    moved = {key: line[key] + MINUTE_NS for key in ("start_unix_nano", "end_unix_nano")}
    return {**line, **moved}


# What is done to one line, and the views in which that must show.
FAULTS: dict[str, tuple[Callable[[Line], list[Line]], set[str]]] = {
    "nothing": (lambda line: [line], set()),
    "a span is missing": (lambda line: [line, line], set(VIEWS)),
    "a span too many": (lambda _: [], set(VIEWS)),
    "a span in another minute": (lambda line: [_minute_later(line)], set(VIEWS)),
    "another model": (lambda line: [{**line, "model": "other"}], set(VIEWS)),
    "a failure not counted": (lambda line: [{**line, "status": "error"}], {"errors"}),
    "one token more": (lambda line: [{**line, "output_tokens": line["output_tokens"] + 1}], {"tokens"}),
    "cached tokens not counted": (lambda line: [{**line, "cache_read_tokens": 1}], {"tokens"}),
    "a microsecond longer": (lambda line: [{**line, "start_unix_nano": line["start_unix_nano"] - 1000}], {"latency"}),
}


def sent_batch(server: Server) -> Batch:
    batch = build(0, SPANS - 1, random.Random(1))
    if not Senders(lambda: server.endpoints, 1, 0, 1).send(batch):
        raise SystemExit("the stand-in did not acknowledge")
    return batch


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pyflare-oracle-") as scratch:
        server = Server(TESTS / "crash" / "stand_in", Path(scratch) / "data")
        try:
            server.start()
            lines = sent_batch(server).lines
            for name, (alter, concerned) in FAULTS.items():
                kept = Path(scratch) / "kept.ndjson"
                altered = [*alter(lines[1]), *(line for line in lines if line is not lines[1])]
                kept.write_text("".join(json.dumps(line) + "\n" for line in altered))
                found = {difference.split(":")[0] for difference in compare(server.api_url, [kept])}
                # A single span among hundreds need not move a percentile by 1 %, but it moves the mean.
                right = found == concerned
                failed += not right
                print(f"{'ok  ' if right else 'FAIL'} {name}" + ("" if right else f": {found}, must be {concerned}"))
        finally:
            server.kill()
    print(f"{len(FAULTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
