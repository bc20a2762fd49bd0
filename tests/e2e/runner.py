"""Runs named checks one after the other and counts them.

A check is a function that returns if what it claims is true and raises `AssertionError` with the
difference if not. `Skipped` means that a tool is missing: a printed skip on a user's machine, a
failure where `CI=true`, because there nothing may be left out unseen.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable


class Skipped(Exception):
    """The check cannot run here; the text says what is missing."""


class Runner:
    """Prints a line per check; `closing_line` is what a machine reads."""

    def __init__(self, only: str | None = None) -> None:
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self._only = only
        self._must_run = os.environ.get("CI") == "true"

    def check(self, name: str, claim: Callable[[], object], *, always: bool = False) -> bool:
        """True if the claim held, or was not asked for; `always` is for what the others stand on."""
        if self._only and self._only not in name and not always:
            return True
        started = time.monotonic()
        try:
            claim()
        except Skipped as reason:
            if not self._must_run:
                self.skipped += 1
                self._say("skip", name, started, str(reason))
                return False
            self._fail(name, started, f"must not be skipped in CI: {reason}")
            return False
        except AssertionError as difference:
            self._fail(name, started, str(difference) or traceback.format_exc())
            return False
        except Exception:
            self._fail(name, started, traceback.format_exc())
            return False
        self.passed += 1
        self._say("ok  ", name, started)
        return True

    @property
    def closing_line(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"

    def _fail(self, name: str, started: float, reason: str) -> None:
        self.failed += 1
        self._say("FAIL", name, started, reason)

    @staticmethod
    def _say(verdict: str, name: str, started: float, more: str = "") -> None:
        print(f"{verdict} {name} ({time.monotonic() - started:.1f} s)", flush=True)
        for line in more.splitlines()[:60]:
            print(f"     {line}", flush=True)
        sys.stdout.flush()


def eventually(claim: Callable[[], object], seconds: float = 15.0) -> None:
    """Repeats a claim until it holds; raises its last difference when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            claim()
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def assert_equal(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: found {found!r}, must be {wanted!r}")
