"""Rough treatment: a full disk, a stopped process, a clock that jumps, damaged files.

`tests/support/python tests/rough/run.py --binary PATH` starts servers on free ports over temporary
directories. What was acknowledged must be there once afterwards, or the server must refuse to
start with a code and a sentence that says what to do; it never panics. Needs root for the full
disk and libfaketime for the clock: what is missing is a printed skip, and a failure where CI=true.
Prints `N passed, N failed`; exit code 0 only if none failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / folder) for folder in ("support", "oracle", "crash", "e2e")]

import clock  # noqa: E402
import damage  # noqa: E402
import disk  # noqa: E402
from runner import Runner  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--only", default=None, help="only checks whose name contains this")
    parser.add_argument("--seed", type=int, default=7, help="of what is sent and where bytes are flipped")
    parser.add_argument("--keep", type=Path, default=None, help="keep data and logs in this folder")
    options = parser.parse_args()
    runner = Runner(options.only)
    with tempfile.TemporaryDirectory(prefix="pyflare-rough-") as temporary:
        scratch = options.keep or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for module in (disk, clock, damage):
            module.checks(runner, options.binary.resolve(), scratch, options.seed)
    print(runner.closing_line)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
