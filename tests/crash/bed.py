"""A server under load, its subscriber, and commands that come and go: what every scenario does its harm to."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from content import NOTHING_ERASED, Erased, check_content
from numbered_spans import SEND_TIMEOUT_SECONDS, Senders
from report import Report
from server import Endpoints, Server, ServerFailed, post_json
from subscriber import Subscriber
from undisturbed import Archive, check_transcripts, undisturbed

VIEWS = ("requests", "errors")
SENT_AGAIN = 10
COMMAND_SECONDS = 0.4
MONITOR = "churn"


class Commands:
    """Creates and drops a monitor again and again; knows what of it was acknowledged."""

    def __init__(self, endpoints: Callable[[], Endpoints | None]) -> None:
        self._endpoints = endpoints
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged = 0
        # None: the last command had no answer, so both are right.
        self.exists: bool | None = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(SEND_TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        while not self._stopping.wait(COMMAND_SECONDS):
            endpoints = self._endpoints()
            if endpoints is None:
                continue
            create = not self.exists
            source = f"SELECT service_name, count(*) AS n, sum(input_tokens) AS t{self.acknowledged} FROM spans"
            query = (
                f"CREATE OR REPLACE MONITOR {MONITOR} AS {source} GROUP BY service_name"
                if create
                else f"DROP MONITOR IF EXISTS {MONITOR}"
            )
            self.exists = None
            try:
                post_json(f"{endpoints.api_url}/api/v1/sql", {"query": query}, timeout=SEND_TIMEOUT_SECONDS)
            except (ServerFailed, OSError, ValueError, urllib.error.URLError):
                continue
            except Exception as error:
                # A connection that breaks in the middle of an answer.
                if type(error).__module__ != "http.client":
                    raise
                continue
            self.exists = create
            self.acknowledged += 1

    def check(self, server: Server) -> list[str]:
        """What was acknowledged last is how it is."""
        names = [row[0] for row in server.sql("SHOW MONITORS")]
        if self.exists is not None and (MONITOR in names) != self.exists:
            wanted = "created" if self.exists else "dropped"
            return [f"{MONITOR} was {wanted} and acknowledged, yet the monitors are {names}"]
        return []


@dataclass
class Bed:
    """One data directory, from its first start to its last check."""

    binary: Path
    scratch: Path
    report: Report
    seed: int
    arguments: list[str] = field(default_factory=list)
    rate: int = 1500
    threads: int = 4
    settle: float = 60.0
    data_dir: Path | None = None
    # Kafka or ClickHouse, by name.
    services: dict[str, Any] = field(default_factory=dict)
    # Whether a clock that jumps has made frames too old to be asked for again, and minutes too old to be in the views.
    forgets_frames: bool = False
    views_expire: bool = False
    # Whether its logs can be read by another server, which nobody disturbs.
    is_replayed: bool = True
    # Asks that spans be erased.
    eraser: Any = None

    def __post_init__(self) -> None:
        self.source = random.Random(self.seed)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.server = Server(self.binary, self.data_dir or self.scratch / "data", list(self.arguments))
        # Where senders and subscribers go: another server for a while, in some scenarios.
        self.speaks_to = self.server
        self.senders = Senders(self.endpoints, self.seed, self.threads, self.rate)
        self.subscriber = Subscriber(self.endpoints, VIEWS)
        self.commands = Commands(self.endpoints)
        self.archive = Archive(self.server.data_dir)

    def endpoints(self) -> Endpoints | None:
        return self.speaks_to.endpoints

    def start(self) -> None:
        self.archive.start()
        self.server.start()
        self.senders.start()
        self.subscriber.start()
        self.commands.start()

    def kill(self, how: str = "kill -9 under load") -> None:
        self.server.kill()
        self.report.done[how if how.startswith("kill") else f"kill: {how}"] += 1

    def restart(self) -> float:
        """Seconds until it was ready."""
        started = time.monotonic()
        self.server.start()
        self.senders.send_again(SENT_AGAIN)
        return time.monotonic() - started

    def kill_and_restart(self, low: float = 0.3, high: float = 1.5) -> None:
        """After a moment under load; a third of them die a second time while they start."""
        time.sleep(self.source.uniform(low, high))
        self.kill()
        if self.source.random() < 0.3:
            self.server.launch()
            time.sleep(self.source.uniform(0.0, 0.5))
            self.kill("kill -9 during the start")
        self.restart()

    def metric(self, name: str) -> float | None:
        """The sum of a metric, none if nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.server.api_url}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (OSError, ServerFailed):
            return None
        values = [float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(values) if values else None

    def readiness(self) -> str:
        """Empty if the server is ready, else what it says."""
        try:
            with urllib.request.urlopen(f"{self.server.api_url}/readyz", timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            return str(error.read().decode(errors="replace"))
        except (OSError, ServerFailed) as error:
            return f"nobody answers: {error}"

    def finish(self, when: str) -> None:
        """Everything that must be true at the end, before and after an orderly stop."""
        report, server = self.report, self.server
        self.commands.stop()
        self.senders.stop(max(self.settle, SEND_TIMEOUT_SECONDS))
        batches = self.senders.batches
        report.seen["batches"] += len(batches)
        report.seen["retries"] += self.senders.retries
        report.seen["sent again though acknowledged"] += self.senders.sent_again
        report.seen["commands acknowledged"] += self.commands.acknowledged
        views = not self.views_expire
        erased = self._erased(when)
        check_content(report, server, batches, self.scratch, when, self.settle, views, erased)
        report.check(f"{when}: acknowledged commands hold", self.commands.check(server))
        tick = round((self.metric("pyflare_tick_seconds") or 0) * 1000)
        told = self.subscriber.wait_beyond(tick, 15)
        late = [] if told else [f"ticks go up to {tick}, {self.subscriber.state()}"]
        self.subscriber.stop()
        report.check(f"{when}: subscribers are told of every tick", late)
        code = server.stop()
        report.check(f"{when}: an orderly stop ends with 0", [] if code == 0 else [f"the exit code was {code}"])
        self.archive.stop()
        if self.is_replayed:
            # Erased rows are read back from a store.
            stores = self.eraser is not None
            with undisturbed(self.binary, server.data_dir, self.archive, self.arguments, stores) as replayed:
                check_transcripts(report, replayed, self.subscriber.transcripts, when, self.forgets_frames)
        server.start()
        check_content(report, server, batches, self.scratch, f"{when}, restarted", self.settle, views, erased)
        report.check(f"{when}, restarted: acknowledged commands hold", self.commands.check(server))
        server.kill()
        report.check(f"{when}: no panic", panics(server))

    def _erased(self, when: str) -> Erased:
        """What must have gone, once it has."""
        if self.eraser is None:
            return NOTHING_ERASED
        self.eraser.stop()
        self.report.done["erasures promised"] += len(self.eraser.promises)
        problems = self.eraser.settled(self.server) + ([] if self.eraser.promises else ["nothing was erased"])
        self.report.check(f"{when}: erasures that were promised are known and done", problems)
        return Erased(frozenset(self.eraser.gone), frozenset(self.eraser.doubtful))


def panics(server: Server) -> list[str]:
    text = server.log.read_text(errors="replace")
    at = text.find("panicked")
    return [] if at < 0 else [text[max(0, at - 200) : at + 500]]


def says(text: str, *parts: str) -> list[str]:
    """What is missing of what a server has to say."""
    return [f"no {part!r} in: {json.dumps(text[-800:])}" for part in parts if part not in text]
