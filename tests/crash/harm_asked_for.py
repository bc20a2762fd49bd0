"""What operators ask of a server while it is being killed: erasures, and backups."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bed import Bed
from content import copies_in_store
from fail_points import die_at
from harm_outside import in_turn
from numbered_spans import SEND_TIMEOUT_SECONDS, Batch, Senders
from server import Endpoints, Server, ServerFailed, post_json

ERASE_SECONDS = 1.2
TRACES_AT_ONCE = 4
SPANS_OF_A_TRACE = 10
SETTLE_SECONDS = 60.0
STEPS = ("erasure-asked", "erasure-removed")


class Eraser:
    """Asks again and again that traces be erased that are acknowledged as a whole; knows what it was promised."""

    def __init__(self, endpoints: Callable[[], Endpoints | None], senders: Senders, seed: int) -> None:
        self._endpoints = endpoints
        self._senders = senders
        self._source = random.Random(f"erase-{seed}")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._asked: set[str] = set()
        # Span ids: of what was promised to go, and of what was asked for without an answer.
        self.gone: set[str] = set()
        self.doubtful: set[str] = set()
        self.promises: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(SEND_TIMEOUT_SECONDS + 1)

    def _whole_traces(self) -> dict[str, list[str]]:
        """Traces whose spans are all acknowledged, with their span ids."""
        spans: dict[str, list[str]] = {}
        for batch in [batch for batch in self._senders.batches if batch.acknowledged]:
            for number in range(batch.first, batch.last + 1):
                trace = f"{number // SPANS_OF_A_TRACE + 1:032x}"
                spans.setdefault(trace, []).append(batch.lines[number - batch.first]["span_id"])
        whole = {trace: ids for trace, ids in spans.items() if len(ids) == SPANS_OF_A_TRACE}
        return {trace: ids for trace, ids in whole.items() if trace not in self._asked}

    def _run(self) -> None:
        while not self._stopping.wait(ERASE_SECONDS):
            endpoints = self._endpoints()
            whole = self._whole_traces()
            if endpoints is None or len(whole) < TRACES_AT_ONCE:
                continue
            chosen = self._source.sample(sorted(whole), TRACES_AT_ONCE)
            self._asked.update(chosen)
            spans = set(itertools.chain.from_iterable(whole[trace] for trace in chosen))
            try:
                answer = post_json(f"{endpoints.api_url}/api/v1/erasures", {"traces": chosen}, timeout=SEND_TIMEOUT_SECONDS)
            except Exception as error:
                # It may have been taken or not. Anything else than a broken connection is the test's own fault.
                is_broken = isinstance(error, (ServerFailed, OSError, ValueError))
                if not is_broken and type(error).__module__ != "http.client":
                    raise
                self.doubtful |= spans
                continue
            self.gone |= spans
            self.promises.update(one["id"] for one in answer["items"])

    def settled(self, server: Server) -> list[str]:
        """Waits until what is erased is not even stored any more."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            listed = server.get("/api/v1/erasures?limit=1000")["items"]
            reading = [one for one in listed if one["stage"] == "reading"]
            kept = [one for one in listed if one["stage"] != "removed"]
            if not kept:
                forgotten = self.promises - {one["id"] for one in listed}
                return [f"erasures are not known any more: {sorted(forgotten)}"] if forgotten else []
            if time.monotonic() > deadline:
                return [f"{len(kept)} of {len(listed)} are not done, {len(reading)} still read for: {kept[:2]}"]
            time.sleep(0.3)


def erased_meanwhile(bed: Bed, kills: int) -> None:
    """Traces are erased under load; the server is killed at random, and dies at the steps of an erasure."""
    eraser = Eraser(bed.endpoints, bed.senders, bed.seed)
    bed.eraser = eraser
    eraser.start()
    victims = in_turn(bed, "any moment", *STEPS)
    reached = set()
    while bed.report.kills < kills:
        victim = next(victims)
        if victim in STEPS:
            bed.kill()
            if die_at(bed, victim, bed.source.randint(1, 3)):
                reached.add(victim)
            bed.restart()
        else:
            bed.kill_and_restart(0.5, 2.5)
    missed = sorted(set(STEPS) - reached) if kills >= 12 else []
    bed.report.check("the fail points of erasures were reached", missed)
    time.sleep(3)


class Backups:
    """Takes one backup after the other, whatever happens to the server."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.taken = 0
        self.failures: list[str] = []
        # The newest one, and what had been acknowledged when it began.
        self.newest: tuple[Path, list[Batch]] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(120)

    def _run(self) -> None:
        for number in itertools.count():
            if self._stopping.wait(0.5):
                return
            target = self._bed.scratch / f"backup-{number}"
            before = [batch for batch in self._bed.senders.batches if batch.acknowledged]
            problems = self._bed.server.command("backup", "--data-dir", self._bed.server.data_dir, "--to", target)
            problems = problems or self._bed.server.command("verify", target)
            self.taken += not problems
            self.failures += problems
            if problems:
                shutil.rmtree(target, ignore_errors=True)
                continue
            if self.newest is not None:
                shutil.rmtree(self.newest[0], ignore_errors=True)
            self.newest = (target, before)


def backed_up_meanwhile(bed: Bed, kills: int) -> None:
    """Backups are taken under load while the server is killed at random; the newest is restored and started."""
    backups = Backups(bed)
    backups.start()
    while bed.report.kills < kills:
        bed.kill_and_restart()
    time.sleep(2)
    backups.stop()
    bed.report.done["backup taken and verified"] += backups.taken
    few = [] if backups.taken >= max(1, kills // 4) else [f"{backups.taken} backups"]
    bed.report.check("backups succeed while the server is killed", backups.failures[:3] + few)
    if backups.newest is None:
        return
    folder, before = backups.newest
    restored = Server(bed.binary, bed.scratch / "restored", list(bed.arguments))
    problems = restored.command("restore", "--from", folder, "--data-dir", restored.data_dir)
    bed.report.check("the newest backup is restored", problems)
    try:
        restored.start()
        wanted = {line["span_id"] for batch in before for line in batch.lines}
        deadline = time.monotonic() + SETTLE_SECONDS
        copies: dict[str, int] = {}
        while not wanted <= copies.keys() and time.monotonic() < deadline:
            time.sleep(0.3)
            copies = copies_in_store(restored, max(batch.last for batch in bed.senders.batches))
        missing = sorted(wanted - copies.keys())
        twice = [f"span {span} is there {count} times" for span, count in sorted(copies.items()) if count != 1]
        bed.report.check(
            f"what is restored has each of {len(wanted)} spans acknowledged before the backup, once",
            [f"span {span} is missing" for span in missing] + twice + ([] if wanted else ["there were none"]),
        )
    finally:
        restored.kill()
