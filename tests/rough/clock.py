"""A process that is stopped for a while, and a clock that jumps forward and back by two hours."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from pathlib import Path

from load import SETTLE_SECONDS, kept_exactly, no_panic, under_load
from runner import Runner, Skipped, assert_equal
from server import Server

STOPPED_SECONDS = 20.0
# Longer than the hour within which a retry counts once.
STEP_SECONDS = 7200
LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)


def stopped_and_continued(binary: Path, scratch: Path, seed: int) -> None:
    server = Server(binary, scratch / "stopped")
    with under_load(server, seed) as senders:
        time.sleep(3)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        server.process.send_signal(signal.SIGCONT)
        time.sleep(5)
        senders.stop(SETTLE_SECONDS)
        kept_exactly(server, senders, scratch)
        assert_equal(server.stop(), 0, "exit code after SIGTERM")
    no_panic(server)


def clock_steps(binary: Path, scratch: Path, seed: int) -> None:
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None:
        raise Skipped("libfaketime is not installed; install the package faketime")
    offset = scratch / "clock-offset"
    offset.write_text("+0\n")
    faked = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    server = Server(binary, scratch / "clock")
    before = {name: os.environ.get(name) for name in faked}
    os.environ.update(faked)
    try:
        with under_load(server, seed) as senders:
            ticks = [newest_tick(server)]
            for step in ("+0", f"+{STEP_SECONDS}", "+0", f"-{STEP_SECONDS}", "+0"):
                offset.write_text(step + "\n")
                for _ in range(8):
                    time.sleep(0.5)
                    ticks.append(newest_tick(server))
            assert ticks == sorted(ticks), f"ticks went back: {ticks}"
            assert ticks[-1] > ticks[0] + STEP_SECONDS * 900, f"the clock did not jump: {ticks}"
            senders.stop(SETTLE_SECONDS)
            kept_exactly(server, senders, scratch)
            server.kill()
            offset.write_text("+0\n")
            server.start()
            assert newest_tick(server) >= ticks[-1], "ticks went back over a restart"
            kept_exactly(server, senders, scratch)
            assert_equal(server.stop(), 0, "exit code after SIGTERM")
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    no_panic(server)


def newest_tick(server: Server) -> int:
    """The newest tick, milliseconds."""
    with urllib.request.urlopen(f"{server.api_url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    for line in text.splitlines():
        if line.startswith("pyflare_tick_seconds"):
            return round(float(line.split()[-1]) * 1000)
    raise AssertionError("pyflare_tick_seconds is not among the metrics")


def checks(runner: Runner, binary: Path, scratch: Path, seed: int) -> None:
    runner.check("stopped for 20 s under load", lambda: stopped_and_continued(binary, scratch, seed))
    runner.check("clock: forward and back by two hours", lambda: clock_steps(binary, scratch, seed))
