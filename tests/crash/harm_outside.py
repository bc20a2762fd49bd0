"""What the server stands on fails: the clock jumps, Kafka dies, ClickHouse dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from bed import Bed
from fail_points import die_at
from server import ServerFailed

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)
HOUR = 3_600
# By minutes, within the six hours for which built-in views keep a minute, and beyond them.
STEPS = (-HOUR, 5 * HOUR, 0, 60, -60, 4 * HOUR)
LONG_STEPS = (-HOUR, 24 * HOUR, 0, 60, -60, 24 * HOUR - HOUR)


def clock_environment(offset: Path) -> dict[str, str] | None:
    """Makes the clock of a server one that `offset` sets; none if the library is missing."""
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None:
        return None
    set_clock(offset, 0)
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(offset: Path, seconds: int) -> None:
    """Replaced whole: the server reads it at every look at the clock."""
    fresh = offset.with_suffix(".new")
    fresh.write_text(f"{seconds:+d}\n")
    fresh.replace(offset)


def clock(bed: Bed, kills: int) -> None:
    """The clock jumps back by an hour, forward by hours or a day, and by a minute, also between two lives.

    After a day the minutes from before may have left the views, and what comes with their times may be late: all of it
    is in history, and frames are those of the replay, but the views cannot be foretold by who does not know the ticks.
    """
    bed.views_expire = bed.source.random() < 0.5
    steps = LONG_STEPS if bed.views_expire else STEPS
    offset = bed.scratch / "clock-offset"
    ticks = [_tick(bed)]
    number = 0
    while bed.report.kills < kills:
        step = steps[number % len(steps)]
        number += 1
        while_dead = bed.source.random() < 0.4
        time.sleep(bed.source.uniform(0.4, 1.0))
        if while_dead:
            bed.kill("kill -9, the clock jumps before the restart")
        set_clock(offset, step)
        bed.report.done[f"clock set to {step:+d} s"] += 1
        if while_dead:
            bed.restart()
        time.sleep(bed.source.uniform(0.5, 1.2))
        ticks.append(_tick(bed))
        bed.kill_and_restart(0.2, 0.6)
        ticks.append(_tick(bed))
    set_clock(offset, 0)
    back = [f"{before} → {after}" for before, after in pairwise(ticks) if after < before]
    bed.report.check(f"ticks never go back over {number} jumps", back)


def _tick(bed: Bed) -> int:
    return round((bed.metric("pyflare_tick_seconds") or 0) * 1000)


def kafka_dies(bed: Bed, kills: int) -> None:
    """The broker, the server, or both; and the server at the steps of producing."""
    broker = bed.services["kafka"]
    victims = in_turn(bed, "broker", "server", "both", "kafka-produce", "kafka-acknowledged")
    reached = set()
    while bed.report.kills < kills:
        victim = next(victims)
        time.sleep(bed.source.uniform(0.5, 1.5))
        if victim.startswith("kafka-"):
            bed.kill()
            if die_at(bed, victim, bed.source.randint(1, 40)):
                reached.add(victim)
            bed.restart()
        else:
            _kill_outside(bed, broker, victim, "broker")
    missed = sorted({"kafka-produce", "kafka-acknowledged"} - reached) if kills >= 10 else []
    bed.report.check("the fail points of producing were reached", missed)


def broker_or_server_dies(bed: Bed, kills: int) -> None:
    """The broker, which has the ticks too, the server, or both; checkpoints are in an object store."""
    broker = bed.services["kafka"]
    victims = in_turn(bed, "broker", "server", "both")
    while bed.report.kills < kills:
        time.sleep(bed.source.uniform(0.5, 2.5))
        _kill_outside(bed, broker, next(victims), "broker")


def clickhouse_dies(bed: Bed, kills: int) -> None:
    """ClickHouse, the server, or both; and the server at the steps of writing a block."""
    engine = bed.services["clickhouse"]
    victims = in_turn(bed, "clickhouse", "server", "both", "block-written", "block-recorded", "flush-begun")
    reached = set()
    while bed.report.kills < kills:
        victim = next(victims)
        time.sleep(bed.source.uniform(0.5, 1.5))
        if "-" in victim:
            bed.kill()
            if die_at(bed, victim, bed.source.randint(1, 4)):
                reached.add(victim)
            bed.restart()
        else:
            _kill_outside(bed, engine, victim, "clickhouse")
    missed = sorted({"block-written", "block-recorded"} - reached) if kills >= 12 else []
    bed.report.check("the fail points of the store were reached", missed)


def in_turn(bed: Bed, *victims: str) -> Iterator[str]:
    """Each of them, in an order that the seed decides, again and again."""
    while True:
        yield from bed.source.sample(victims, len(victims))


def _kill_outside(bed: Bed, service: Any, victim: str, name: str) -> None:
    """`victim`: the service, the server, or both. The service comes back first or last, as the seed says."""
    if victim != "server":
        service.kill()
        bed.report.done[f"kill of {name}"] += 1
    if victim != name:
        bed.kill(f"kill -9 of the server with {name} dead" if victim == "both" else "kill -9 under load")
    if victim == name:
        time.sleep(bed.source.uniform(0.5, 3.0))
        problems = [] if bed.server.process and bed.server.process.poll() is None else [bed.server.log_tail(5)]
        bed.report.check(f"the server stays while {name} is away", problems)
    waits = victim == "both" and name == "clickhouse" and bed.source.random() < 0.5
    if waits:
        bed.server.launch()
        time.sleep(bed.source.uniform(0.1, 0.8))
    if victim != "server":
        service.start()
    if victim == name:
        return
    try:
        if waits:
            bed.server.wait_until_ready()
            return
    except ServerFailed:
        # It may refuse a start without its store; it says so.
        problems = [] if "PF-2305" in bed.server.log_tail(5) else [bed.server.log_tail(5)]
        bed.report.check(f"a start without {name} says what is wrong", problems)
        bed.server.kill()
    bed.restart()
