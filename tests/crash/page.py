"""Writes the crash report of the book from what rounds have reported: `page.py rounds.jsonl > crash-report.md`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

INTRODUCTION = """# Crash report

What a long run of the tests under harm (`tests/crash`) did and found. `make test-crash` repeats it, with seeds of
its own; `tests/support/python tests/crash/run.py --binary PATH --scenario X --seed N --rounds 1` repeats one round:
the seed decides the order and the moments, and the machine how far a request has come by then.
"""

MEANING = """
Each round is a data directory of its own, under load from senders that retry, with a WebSocket subscriber that comes
back with its newest token and a client that creates and drops a monitor. After it, and after an orderly stop and start,
every acknowledged span was looked for in history and, by DuckDB over what the senders kept, in the built-in views;
every frame that the subscriber was told was compared with a replay of the recovered tick log that nobody disturbed.
"""


def rows_of(title: str, counted: dict[str, int]) -> list[str]:
    lines = ["", f"| {title} | |", "|---|---:|"]
    return lines + [f"| {name} | {count:,} |" for name, count in counted.items()]


def page(rounds: list[dict[str, Any]]) -> str:
    seen: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for one in rounds:
        done.update(one["done"])
        seen.update({name: count for name, count in one["seen"].items() if name != "fail points reached"})
    kills = sum(count for name, count in done.items() if name.startswith("kill"))
    failed = sum(one["failed"] for one in rounds)
    begun, ended = min(one["at"] for one in rounds), max(one["at"] for one in rounds)
    versions = ", ".join(sorted({one["version"] for one in rounds}))
    lines = [
        INTRODUCTION.strip(),
        "",
        f"{versions}; rounds that ended from {begun} to {ended}.",
        "",
        f"**{kills:,} kills in {len(rounds)} rounds; lost {seen['lost']}, doubled {seen['doubled']}; "
        f"{sum(one['passed'] for one in rounds):,} checks passed, {failed} failed.**",
        MEANING.rstrip(),
    ]
    lines += rows_of("compared", dict(seen))
    lines += rows_of("done", dict(sorted(done.items())))
    lines += ["", "| scenario | kills | seconds | checks | failed | seed |", "|---|---:|---:|---:|---:|---:|"]
    for one in sorted(rounds, key=lambda one: (one["scenario"], one["at"])):
        killed = sum(count for name, count in one["done"].items() if name.startswith("kill"))
        lines.append(
            f"| {one['scenario']} | {killed} | {one['seconds']:.0f} | {one['passed'] + one['failed']} "
            f"| {one['failed']} | {one['seed']} |"
        )
    for one in rounds:
        lines += [f"\n{one['scenario']}, seed {one['seed']}: {failure}" for failure in one["failures"]]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=Path, nargs="+", help="what `run.py --report` has written")
    options = parser.parse_args()
    lines = [line for file in options.rounds for line in file.read_text().splitlines()]
    sys.stdout.write(page([json.loads(line) for line in lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
