"""Proves that the crash tests find faults: each is planted, and the check that watches for it must be among what fails.

The faults are planted in the server itself (`PYFLARE_FAULTS`, with `--binary`), which then breaks one promise once
under real load: what the checks are worth is shown where they are used. Those that are a client's affair, or that no
server can be made to have, are planted in a stand-in (`stand_in.py`, no part of the product). Without a fault every
check must pass. Prints `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS / folder) for folder in ("support", "oracle", "e2e")]

from bed import Bed  # noqa: E402
from fail_points import planted_faults  # noqa: E402
from harm_asked_for import Eraser  # noqa: E402
from report import Report  # noqa: E402
from server import ServerFailed  # noqa: E402
from stand_in import FAULTS  # noqa: E402

LOST = "acknowledged spans is in history.spans"
TWICE = "none is there twice"
VIEWS = "the views count each span once"
FRAMES = "are those of an undisturbed run"

IN_STAND_IN = {
    "none": None,
    "acknowledge-before-write": LOST,
    "lose-tail": LOST,
    "replay-twice": TWICE,
    "forget-hashes": TWICE,
    "view-forgets": VIEWS,
    "view-counts-resent": VIEWS,
    "failing-stop": "an orderly stop ends with 0",
}


@dataclass(frozen=True)
class Planted:
    """When the fault happens, who must find it, and when the process is killed after it; 0: it dies of it by itself."""

    times: int
    found_by: str
    killed_after: float
    at_restart: bool = False


IN_SERVER = {
    "log-sync-skipped": Planted(40, LOST, 0),
    "offsets-dropped": Planted(15, LOST, 2.5),
    "tick-record-lost": Planted(15, FRAMES, 0),
    "block-repeated": Planted(2, TWICE, 1),
    # Its checkpoint is complete by then, and the next one is not.
    "state-lost": Planted(2, VIEWS, 0.5),
    "hashes-forgotten": Planted(1, TWICE, 3, at_restart=True),
    "frame-dropped": Planted(15, FRAMES, 1),
    "erasure-forgotten": Planted(1, VIEWS, 1),
}
SEED = 7
SETTLE_SECONDS = 3.0
HAPPENS_SECONDS = 15.0
SENT_AGAIN = 400


def judged_in_server(binary: Path, fault: str | None) -> str | None:
    """None if the checks judged a server with this fault rightly, else what they said."""
    said = io.StringIO()
    report = Report()
    arguments = ["--checkpoints-seconds=1", "--store-flush-seconds=1"]
    with tempfile.TemporaryDirectory(prefix="pyflare-planted-") as folder, contextlib.redirect_stdout(said):
        bed = Bed(binary, Path(folder), report, SEED, arguments, settle=SETTLE_SECONDS)
        try:
            harm(bed, fault)
            bed.finish(fault or "none")
        except (ServerFailed, TimeoutError, AssertionError) as failure:
            report.check("the server runs and answers", [str(failure)])
        finally:
            bed.subscriber.stop()
            bed.server.kill()
    if fault is None:
        right = report.failed == 0
    else:
        right = any(IN_SERVER[fault].found_by in failure for failure in report.failures)
    return None if right else said.getvalue()


def harm(bed: Bed, fault: str | None) -> None:
    """A server that breaks its promise, is killed, and goes on without the fault."""
    planted = IN_SERVER[fault] if fault else Planted(1, "", 3)
    armed = {"PYFLARE_FAULTS": f"{fault}:{planted.times}"} if fault else {}
    bed.server.environment = {} if planted.at_restart else armed
    bed.start()
    if fault == "erasure-forgotten":
        bed.eraser = Eraser(bed.endpoints, bed.senders, bed.seed)
        bed.eraser.start()
    if fault and not planted.at_restart:
        happens(bed, f"{fault}:")
    time.sleep(planted.killed_after)
    if planted.killed_after:
        bed.kill()
    elif bed.server.wait_for_end(5) is None:
        raise ServerFailed(f"it does not die of {fault}: {bed.server.log_tail()}")
    bed.server.environment = armed if planted.at_restart else {}
    bed.server.start()
    if fault is None or planted.at_restart:
        # What is sent again would make good what was lost.
        bed.senders.send_again(SENT_AGAIN)
    time.sleep(1)


def happens(bed: Bed, text: str) -> None:
    deadline = time.monotonic() + HAPPENS_SECONDS
    while f"planted fault {text}" not in bed.server.log_since(0):
        if time.monotonic() > deadline:
            raise ServerFailed(f"the planted fault {text} did not happen: {bed.server.log_tail()}")
        time.sleep(0.01)


def judged_in_stand_in(fault: str) -> str | None:
    """None if the driver judged the stand-in rightly, else what it said."""
    load = ["--kills", "3", "--seconds", "4", "--seed", str(SEED), "--rate", "400", "--settle", "2"]
    finished = subprocess.run(
        [sys.executable, "-B", HERE / "kill.py", "--binary", HERE / "stand_in", *load],
        env=os.environ | {"FAULT": fault},
        capture_output=True,
        text=True,
    )
    wanted = IN_STAND_IN[fault]
    failures = [line for line in finished.stdout.splitlines() if line.startswith("FAIL")]
    if wanted is None:
        right = finished.returncode == 0 and not failures
    else:
        right = finished.returncode == 1 and any(wanted in line for line in failures)
    return None if right else finished.stdout + finished.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--binary", type=Path, default=None, help="plant them in this pyflare binary, not in the stand-in"
    )
    parser.add_argument("--only", action="append", help="default: all of them")
    options = parser.parse_args()
    passed = failed = 0

    def judge(name: str, what: str, said: str | None) -> None:
        nonlocal passed, failed
        print(f"{'ok  ' if said is None else 'FAIL'} {name}: {what}", flush=True)
        passed, failed = passed + (said is None), failed + (said is not None)
        if said is not None:
            print(said)

    if options.binary is None:
        for fault in options.only or IN_STAND_IN:
            judge(fault, FAULTS[fault], judged_in_stand_in(fault))
    else:
        binary = options.binary.resolve()
        known = planted_faults(binary)
        unjudged = sorted(set(known) ^ IN_SERVER.keys())
        judge("all faults", "each that the server can have is judged", "\n".join(unjudged) or None)
        for fault in options.only or ["none", *known]:
            found_by = "every check passes" if fault == "none" else f"found by “{IN_SERVER[fault].found_by}”"
            judge(fault, found_by, judged_in_server(binary, None if fault == "none" else fault))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
