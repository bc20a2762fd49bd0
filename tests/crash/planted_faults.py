"""Proves that the crash driver finds faults: runs it against the stand-in, one fault at a time.

Without a fault every check must pass; with one, the check that watches for it must be among those
that fail. Prints `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from stand_in import FAULTS

HERE = Path(__file__).resolve().parent
EXPECTED = {
    "none": None,
    "acknowledge-before-write": "acknowledged spans is in history.spans",
    "lose-tail": "acknowledged spans is in history.spans",
    "replay-twice": "none is there twice",
    "forget-hashes": "none is there twice",
    "view-forgets": "the views count each span once",
    "view-counts-resent": "the views count each span once",
    "failing-stop": "an orderly stop ends with 0",
}
SEED = 7


def found(fault: str, settle: float) -> str | None:
    """None if the driver judged the stand-in rightly, else what it said."""
    load = ["--kills", "3", "--seconds", "4", "--seed", str(SEED), "--rate", "400"]
    finished = subprocess.run(
        [sys.executable, "-B", HERE / "kill.py", "--binary", HERE / "stand_in", *load, "--settle", str(settle)],
        env=os.environ | {"FAULT": fault},
        capture_output=True,
        text=True,
    )
    wanted = EXPECTED[fault]
    failures = [line for line in finished.stdout.splitlines() if line.startswith("FAIL")]
    if wanted is None:
        right = finished.returncode == 0 and not failures
    else:
        right = finished.returncode == 1 and any(wanted in line for line in failures)
    return None if right else finished.stdout + finished.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=FAULTS, action="append", help="default: all of them")
    parser.add_argument("--settle", type=float, default=2.0)
    options = parser.parse_args()
    failed = 0
    faults = options.only or list(FAULTS)
    for fault in faults:
        said = found(fault, options.settle)
        print(f"{'ok  ' if said is None else 'FAIL'} {fault}: {FAULTS[fault]}", flush=True)
        if said is not None:
            failed += 1
            print(said)
    print(f"{len(faults) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
