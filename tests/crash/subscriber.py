"""A subscriber that lives through crashes: one WebSocket after the other, each continuing with the newest token.

Models what a dashboard sees of a view: `Transcript` is the frames in the order they came, whichever process sent them.
Its own rules are checked as they come: a frame begins where the one before ended, time never goes back, also not over a
crash or with a reset, and no row is there less often than never.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from server import Endpoints

RECONNECT_SECONDS = 0.05
RECEIVE_SECONDS = 0.5

Row = tuple[Any, ...]


@dataclass
class Frame:
    lower: int
    upper: int
    reset: bool
    rows: Counter[Row]
    connection: int


@dataclass
class Transcript:
    """Frames of one view over all connections, and what was wrong with them."""

    view: str
    frames: list[Frame] = field(default_factory=list)
    content: Counter[Row] = field(default_factory=Counter)
    columns: list[str] = field(default_factory=list)
    resume: str | None = None
    problems: list[str] = field(default_factory=list)
    connections: int = 0
    resets: int = 0

    def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "schema":
                self.columns = [column["name"] for column in message["columns"]]
            case "frame":
                self._frame(message)
            case "end":
                pass
            case _:
                self.problems.append(f"{self.view}: the server said {message}")

    def _frame(self, message: dict[str, Any]) -> None:
        rows = net(message["rows"])
        frame = Frame(message["lower"], message["upper"], message["reset"], rows, self.connections)
        last = self.frames[-1].upper if self.frames else 0
        if frame.lower >= frame.upper:
            self.problems.append(f"{self.view}: a frame [{frame.lower}, {frame.upper}) without a tick")
        if frame.upper < last:
            self.problems.append(f"{self.view}: time went back from {last} to {frame.upper}")
        if frame.reset:
            self.resets += 1
            self.content = Counter()
        elif frame.lower != last:
            self.problems.append(f"{self.view}: a frame begins at {frame.lower}, the one before ended at {last}")
        for row, count in rows.items():
            self.content[row] += count
            if self.content[row] == 0:
                del self.content[row]
            elif self.content[row] < 0:
                self.problems.append(
                    f"{self.view}: before {frame.upper} the row {row} is there {self.content[row]} times"
                )
        self.frames.append(frame)
        self.resume = message["resume"]


def net(rows: list[list[Any]]) -> Counter[Row]:
    """The rows of a frame with their differences, each row once."""
    counted: Counter[Row] = Counter()
    for diff, *values in rows:
        counted[tuple(json.dumps(value) if isinstance(value, dict | list) else value for value in values)] += diff
    return Counter({row: count for row, count in counted.items() if count})


class Subscriber:
    """A thread that subscribes to views and comes back whenever the server does."""

    def __init__(self, endpoints: Callable[[], Endpoints | None], views: tuple[str, ...]) -> None:
        self.transcripts = [Transcript(view) for view in views]
        self._endpoints = endpoints
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    @property
    def upper(self) -> int:
        return min((transcript.frames[-1].upper if transcript.frames else 0) for transcript in self.transcripts)

    def wait_beyond(self, tick: int, seconds: float) -> bool:
        """Whether everything up to a tick has been told."""
        deadline = time.monotonic() + seconds
        while self.upper <= tick and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.upper > tick

    def state(self) -> str:
        """How far it is, for who wonders."""
        told = ", ".join(
            f"{transcript.view} is told up to {transcript.frames[-1].upper} by its connection "
            f"{transcript.frames[-1].connection} of {transcript.connections}"
            for transcript in self.transcripts
            if transcript.frames
        )
        return f"{told}; {'listening' if self._thread.is_alive() else 'the thread has ended'}"

    def _run(self) -> None:
        while not self._stopping.is_set():
            endpoints = self._endpoints()
            if endpoints is None:
                time.sleep(RECONNECT_SECONDS)
                continue
            try:
                with connect(
                    endpoints.live_url, max_size=None, open_timeout=2, close_timeout=0.2, ping_interval=None
                ) as socket:
                    self._listen(socket)
            except (OSError, WebSocketException, TimeoutError):
                # The server is gone; the next one is waited for.
                time.sleep(RECONNECT_SECONDS)

    def _listen(self, socket: ClientConnection) -> None:
        for number, transcript in enumerate(self.transcripts):
            transcript.connections += 1
            subscribe = {
                "type": "subscribe",
                "id": str(number),
                "view": transcript.view,
                "snapshot": True,
                "progress": True,
            }
            socket.send(json.dumps(subscribe | ({"resume": transcript.resume} if transcript.resume else {})))
        while not self._stopping.is_set():
            try:
                message = json.loads(socket.recv(RECEIVE_SECONDS))
            except TimeoutError:
                continue
            if message["type"] == "end":
                return
            self.transcripts[int(message["id"])].take(message)
