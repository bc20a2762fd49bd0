"""Kills a PyFlare server at random moments under load and counts what it kept.

Every acknowledged span must be in `history.spans` exactly once and counted once in every
built-in view (compared with DuckDB over what the sender kept), spans sent a single time without
an answer at most once, and nothing that was never sent. At the end the server is stopped in an
orderly way, started again and counted once more.

The seed decides the moments of the kills, the batches and how they are sent; it is printed.
Prints `N passed, N failed`; exit code 0 only if all passed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "oracle")]

from compare import compare  # noqa: E402
from numbered_spans import SEND_TIMEOUT_SECONDS, SERVICE, Batch, Senders, span_id  # noqa: E402
from server import Server, ServerFailed  # noqa: E402

CHUNK = 20_000
KILL_DURING_START_SHARE = 0.3
SENT_AGAIN_AFTER_RESTART = 10
SHOWN = 10


class Report:
    """What was checked, one line each."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, what: str, problems: list[str]) -> None:
        if problems:
            self.failed += 1
            print(f"FAIL {what}")
            for problem in problems[:SHOWN]:
                print(f"     {problem}")
            if len(problems) > SHOWN:
                print(f"     … and {len(problems) - SHOWN} more")
        else:
            self.passed += 1
            print(f"ok   {what}")


def kill_under_load(server: Server, senders: Senders, kills: int, seconds: float, source: random.Random) -> None:
    """`kills` kills spread at random over about `seconds`; some hit a server that is starting."""
    pause = seconds / (kills + 1)
    senders.start()
    for number in range(1, kills + 1):
        delay = source.uniform(0.05, 2 * pause - 0.05) if pause > 0.1 else pause
        time.sleep(delay)
        server.kill()
        print(f"kill {number}/{kills} after {delay:.2f} s, {len(senders.batches)} batches so far", flush=True)
        if source.random() < KILL_DURING_START_SHARE:
            server.launch()
            moment = source.uniform(0.0, 0.5)
            time.sleep(moment)
            server.kill()
            print(f"kill {number}/{kills} again, {moment:.2f} s into the start", flush=True)
        started = time.monotonic()
        server.start()
        print(f"     ready {time.monotonic() - started:.2f} s after the restart", flush=True)
        senders.send_again(SENT_AGAIN_AFTER_RESTART)
    time.sleep(pause)


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


def settled_copies(server: Server, batches: list[Batch], settle_seconds: float) -> dict[str, int]:
    """Waits, within reason, until every acknowledged span is there."""
    last_number = max(batch.last for batch in batches)
    wanted = {line["span_id"] for batch in batches if batch.acknowledged for line in batch.lines}
    deadline = time.monotonic() + settle_seconds
    while True:
        copies = copies_in_store(server, last_number)
        if wanted <= copies.keys() or time.monotonic() > deadline:
            return copies
        time.sleep(0.5)


def check_content(
    report: Report, server: Server, batches: list[Batch], scratch: Path, when: str, settle_seconds: float
) -> None:
    copies = settled_copies(server, batches, settle_seconds)
    known = {line["span_id"]: (batch, line) for batch in batches for line in batch.lines}
    acknowledged = {span for span, (batch, _) in known.items() if batch.acknowledged}
    report.check(
        f"{when}: every one of {len(acknowledged)} acknowledged spans is in history.spans",
        [f"span {known[span][1]['span_id']} is missing" for span in sorted(acknowledged - copies.keys())],
    )
    report.check(
        f"{when}: none is there twice",
        [f"span {span} is there {count} times" for span, count in sorted(copies.items()) if count != 1],
    )
    total = int(server.sql(f"SELECT count(*) FROM history.spans WHERE service_name = '{SERVICE}'")[0][0])
    report.check(
        f"{when}: nothing is there that was not sent",
        [f"span {span} was never sent" for span in sorted(copies.keys() - known.keys())]
        + ([] if total == sum(copies.values()) else [f"{total} rows, but {sum(copies.values())} with known ids"]),
    )
    kept = scratch / "kept.ndjson"
    present = (known[span][1] for span in copies if span in known)
    kept.write_text("".join(json.dumps(line) + "\n" for line in present))
    report.check(
        f"{when}: the views count each span once (DuckDB over the sender's file)",
        compare(server.api_url, [kept], wait_seconds=settle_seconds),
    )


@contextmanager
def scratch_folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="pyflare-crash-") as folder:
        yield Path(folder)


def run(options: argparse.Namespace, scratch: Path) -> Report:
    report = Report()
    source = random.Random(options.seed)
    checkpoints = f"--checkpoints-seconds={options.checkpoints}"
    server = Server(options.binary, scratch / "data", [checkpoints, *options.server_arg])
    senders = Senders(lambda: server.endpoints, options.seed, options.threads, options.rate)
    try:
        server.start()
        kill_under_load(server, senders, options.kills, options.seconds, source)
        senders.stop(max(options.settle, SEND_TIMEOUT_SECONDS))
        batches = senders.batches
        print(
            f"{sum(len(batch.lines) for batch in batches)} spans in {len(batches)} batches, "
            f"{senders.retries} retries, {senders.sent_again} sent again though acknowledged, "
            f"{sum(not batch.acknowledged for batch in batches)} sent once without an answer",
            flush=True,
        )
        check_content(report, server, batches, scratch, "after the kills", options.settle)
        code = server.stop()
        report.check("an orderly stop ends with 0", [] if code == 0 else [f"the exit code was {code}"])
        server.start()
        check_content(report, server, batches, scratch, "after an orderly restart", options.settle)
    except (ServerFailed, TimeoutError) as failure:
        report.check("the server runs and answers", [str(failure)])
    finally:
        server.kill()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0, help="of load, over which the kills are spread")
    parser.add_argument("--seed", type=int, default=None, help="default: random, and printed")
    parser.add_argument("--rate", type=int, default=3000, help="spans per second")
    parser.add_argument("--threads", type=int, default=4, help="senders")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds until something missing counts")
    parser.add_argument(
        "--checkpoints", type=int, default=1, help="seconds between checkpoints; 0: every start replays the whole log"
    )
    parser.add_argument("--server-arg", action="append", default=[], help="another argument for `serve`")
    parser.add_argument("--keep", type=Path, default=None, help="keep data and log in this folder")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**31)
    print(f"seed {options.seed} (repeat with --seed {options.seed})", flush=True)
    with scratch_folder(options.keep) as scratch:
        report = run(options, scratch)
        if report.failed and (log := scratch / "data.log").exists():
            print("the server's log ends:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
