"""Kills at the steps of the protocols, which the server lists itself and dies at when armed (`PYFLARE_FAULTS`)."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

from bed import Bed
from server import ServerFailed

# How often a fail point is passed before it kills, at most: those of requests and ticks are passed all the time.
OFTEN = {"log": 40, "tick": 25, "kafka": 40, "catalog": 4, "block": 6}
SELDOM = ("log-trimmed", "ticks-trimmed", "checkpoint", "generation", "restored", "replayed")
REACHED_SECONDS = 12.0


def die_at_points(bed: Bed, points: list[str], kills: int) -> None:
    """The server dies at one point and starts armed with the next, until all had their turn and `kills` are reached."""
    missed: dict[str, str] = {}
    reached: set[str] = set()
    time.sleep(2.5)
    bed.kill()
    while bed.report.kills < kills or not reached | missed.keys() >= set(points):
        turn = [point for point in points if point not in reached] or points
        point = bed.source.choice(turn)
        if die_at(bed, point, times(bed, point)) or die_at(bed, point, 1):
            reached.add(point)
            missed.pop(point, None)
        else:
            missed[point] = f"{point} was not reached within {REACHED_SECONDS:.0f} s"
            if bed.report.kills >= kills:
                break
    bed.restart()
    bed.report.seen["fail points reached"] = max(bed.report.seen["fail points reached"], len(reached))
    bed.report.check(f"each of {len(points)} fail points was reached", sorted(missed.values()))


def times(bed: Bed, point: str) -> int:
    if point.startswith(SELDOM):
        return 1
    return bed.source.randint(1, OFTEN.get(point.split("-")[0], 3))


def die_at(bed: Bed, point: str, count: int) -> bool:
    """Whether a server that was armed with this point died of it."""
    server = bed.server
    before = server.log_size
    server.environment = {"PYFLARE_FAULTS": f"{point}:{count}"}
    try:
        server.launch()
        code = server.wait_for_end(REACHED_SECONDS)
    finally:
        server.environment = {}
    said = f"fail point {point}:" in server.log_since(before)
    if code is None:
        bed.kill()
        return False
    if code != -signal.SIGKILL or not said:
        raise ServerFailed(f"armed with {point}, it ended with {code}: {server.log_tail()}")
    bed.report.done[f"kill at {point}"] += 1
    return True


def fail_points(binary: Path) -> list[str]:
    """All of them, as the server itself lists them."""
    return _listed(binary, r"neither a fail point \(([^)]*)\)")


def planted_faults(binary: Path) -> list[str]:
    return _listed(binary, r"nor a planted fault \(([^)]*)\)")


def _listed(binary: Path, pattern: str) -> list[str]:
    refused = subprocess.run(
        [binary, "serve", "--data-dir", "/nonexistent/never-made"],
        env={"PYFLARE_FAULTS": "list"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    found = re.search(pattern, refused.stderr)
    if found is None:
        raise ServerFailed(f"the server does not list its fail points: {refused.stderr}")
    return found[1].split(", ")
