"""The kinds of harm: each is done to a server under load for about so many kills, then everything is counted.

A scenario checks what the server says meanwhile; what it has kept is checked the same way after each of them
(`bed.Bed.finish`).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import harm_asked_for
import harm_disk
import harm_outside
from bed import Bed, says
from fail_points import die_at_points, fail_points
from server import Server, ServerFailed

# Reached only where there is Kafka, or where somebody asks for erasures.
ELSEWHERE = ("kafka-", "erasure-")


def at_random(bed: Bed, kills: int) -> None:
    """Kills at random moments, a third of them followed by another while it starts."""
    while bed.report.kills < kills:
        bed.kill_and_restart()


def at_fail_points(bed: Bed, kills: int) -> None:
    """A kill at each step of the protocols, in an order that the seed decides; every one must be reached."""
    points = [point for point in fail_points(bed.binary) if not point.startswith(ELSEWHERE)]
    die_at_points(bed, points, kills)


def stopped(bed: Bed, kills: int) -> None:
    """SIGSTOP, a second server on the same data directory, SIGCONT; with its lock and after somebody removed it."""
    while bed.report.kills < kills:
        time.sleep(bed.source.uniform(0.5, 1.5))
        second_is_refused(bed)
        bed.kill_and_restart()
        if bed.report.kills < kills:
            taken_over(bed)


def second_is_refused(bed: Bed) -> None:
    first = bed.server.process
    assert first is not None
    first.send_signal(signal.SIGSTOP)
    second = Server(bed.binary, bed.server.data_dir, list(bed.arguments))
    before = bed.server.log_size
    second.launch()
    code = second.wait_for_end(20)
    second.kill()
    text = bed.server.log_since(before)
    first.send_signal(signal.SIGCONT)
    bed.report.done["stopped, a second server refused"] += 1
    problems = [] if code else [f"the second server's exit code is {code}"]
    bed.report.check(
        "while it is stopped, a second server is refused", problems + says(text, "PF-6010", str(first.pid))
    )
    time.sleep(0.5)
    bed.report.check("it goes on", [] if first.poll() is None else [f"it ended with {first.returncode}"])


def taken_over(bed: Bed) -> None:
    """Without the lock, as on a disk whose locks are not seen by others: only the generation is left to fence it."""
    old = bed.server
    assert old.process is not None
    old.process.send_signal(signal.SIGSTOP)
    (old.data_dir / "LOCK").unlink()
    bed.server = Server(bed.binary, old.data_dir, list(bed.arguments))
    before = old.log_size
    bed.server.launch()
    try:
        bed.server.wait_until_ready()
    except ServerFailed:
        held_in_the_middle(bed, old, old.log_since(before))
        return
    bed.speaks_to = bed.server
    time.sleep(bed.source.uniform(1.0, 2.0))
    process = old.process
    process.send_signal(signal.SIGCONT)
    code = old.wait_for_end(30)
    bed.report.done["stopped and taken over"] += 1
    text = old.log_since(before)
    problems = [] if code not in (None, 0) else [f"its exit code is {code}"]
    bed.report.check("a server that was taken over ends by itself and says why", problems + says(text, "PF-2103"))
    old.kill()
    time.sleep(bed.source.uniform(0.2, 0.8))
    bed.kill()
    bed.restart()


def held_in_the_middle(bed: Bed, old: Server, text: str) -> None:
    """It was stopped in the middle of an append: the successor says whom to end, and starts once that is done."""
    bed.report.check("a successor that cannot take over says why", says(text, "PF-2106"))
    bed.report.done["stopped in the middle of an append"] += 1
    old.kill()
    bed.report.done["kill -9 of a stopped server"] += 1
    bed.speaks_to = bed.server
    bed.restart()


Scenario = Callable[[Bed, int], None]

SCENARIOS: dict[str, Scenario] = {
    "random": at_random,
    "fail-points": at_fail_points,
    "stopped": stopped,
    "full-disk": harm_disk.full_disk,
    "read-only": harm_disk.read_only_disk,
    "clock": harm_outside.clock,
    "kafka": harm_outside.kafka_dies,
    "clickhouse": harm_outside.clickhouse_dies,
    "erasures": harm_asked_for.erased_meanwhile,
    "backups": harm_asked_for.backed_up_meanwhile,
    "elsewhere": harm_outside.broker_or_server_dies,
}
