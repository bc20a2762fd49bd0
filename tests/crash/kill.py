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
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "oracle")]

from content import check_content  # noqa: E402
from numbered_spans import SEND_TIMEOUT_SECONDS, Senders  # noqa: E402
from report import Report  # noqa: E402
from server import Server, ServerFailed  # noqa: E402

KILL_DURING_START_SHARE = 0.3
SENT_AGAIN_AFTER_RESTART = 10


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
