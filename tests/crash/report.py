"""What was checked, one line each, and how often what was done."""

from __future__ import annotations

from collections import Counter

SHOWN = 10


class Report:
    """Prints a line per check; `done` counts kills and other harm by name."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def check(self, what: str, problems: list[str]) -> None:
        if problems:
            self.failed += 1
            self.failures.append(what)
            print(f"FAIL {what}")
            for problem in problems[:SHOWN]:
                print(f"     {problem}")
            if len(problems) > SHOWN:
                print(f"     … and {len(problems) - SHOWN} more")
        else:
            self.passed += 1
            print(f"ok   {what}", flush=True)

    def say(self, text: str) -> None:
        print(f"     {text}", flush=True)

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.done.items() if name.startswith("kill"))
