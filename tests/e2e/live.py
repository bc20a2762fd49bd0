"""A view over the WebSocket: frames follow on without a gap and add up to what was sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from clients import Sent, send
from compare import Content, differences, microseconds
from runner import assert_equal
from server import Server
from views import KEY, expected

WAIT_SECONDS = 20.0


@dataclass
class LiveView:
    """The content of a view, maintained from frames."""

    view: str
    columns: list[str] = field(default_factory=list)
    rows: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    upper: int | None = None
    frames: int = 0
    resets: int = 0
    resume: str | None = None

    def apply(self, message: dict[str, Any]) -> None:
        if message["type"] == "schema":
            self.columns = [column["name"] for column in message["columns"]]
            return
        assert_equal(message["type"], "frame", f"type of a message: {message}")
        assert message["lower"] < message["upper"], f"an empty frame: {message['lower']} … {message['upper']}"
        if message["reset"]:
            self.rows.clear()
            self.resets += 1
        elif self.upper is not None:
            assert_equal(message["lower"], self.upper, "a frame's lower, which must be the last upper")
        for diff, *values in message["rows"]:
            assert diff != 0, "a diff of zero"
            row = tuple(json.dumps(value) if isinstance(value, dict | list) else value for value in values)
            self.rows[row] += diff
            if self.rows[row] == 0:
                del self.rows[row]
        assert all(count > 0 for count in self.rows.values()), "a row with a negative count after a frame"
        self.upper = message["upper"]
        self.resume = message["resume"]
        self.frames += 1

    def content(self) -> Content:
        content: Content = {}
        for values, count in self.rows.items():
            assert_equal(count, 1, f"copies of {values}")
            row = dict(zip(self.columns, values, strict=True))
            row["window_start"] = microseconds(row["window_start"])
            row["window_end"] = microseconds(row["window_end"])
            content[tuple(row[key] for key in KEY)] = row
        return content


def frames_add_up(server: Server, scratch: Path, count: int) -> None:
    """Subscribes, then sends; then resumes where it left off and must not start anew."""
    asyncio.run(_frames_add_up(server, scratch, count))


async def _frames_add_up(server: Server, scratch: Path, count: int) -> None:
    assert server.endpoints is not None
    live = LiveView("requests")
    async with connect(server.endpoints.live_url, max_size=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "id": "a", "view": "requests", "snapshot": True}))
        live.apply(await _next(socket))
        sent = await asyncio.to_thread(send, server, "otel-python-grpc", count, scratch, "default", 41, "live-")
        first = await _until_equal(socket, live, [sent])
        assert_equal(live.resets, 1, "resets of a subscription with a snapshot")
        assert live.upper is not None
        passed, then = live.upper, Counter(live.rows)
    async with connect(server.endpoints.live_url, max_size=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "id": "b", "view": "requests", "resume": live.resume}))
        again = await asyncio.to_thread(send, server, "otel-python-grpc", count, scratch, "default", 42, "live-")
        await _until_equal(socket, live, [sent, again])
        assert_equal(live.resets, 1, "resets: a token still known must resume, not start anew")
    async with connect(server.endpoints.live_url, max_size=None) as socket:
        await _passed(socket, live, passed, then)
        await _keys(socket, live)
    async with connect(server.endpoints.live_url, max_size=None) as socket:
        await _closed_windows(socket, live)
    print(f"     {live.frames} frames; all spans were in the view {first * 1000:.0f} ms after the export returned")


async def _passed(socket: Any, live: LiveView, passed: int, then: Counter[tuple[Any, ...]]) -> None:
    """The view as it was before a tick, with what followed and without; a tick that is not known is refused."""
    subscribe = {"type": "subscribe", "view": "requests"}
    await socket.send(json.dumps(subscribe | {"id": "c", "as_of": passed - 1}))
    again = LiveView("requests")
    while again.frames == 0:
        again.apply(await _next(socket))
    assert_equal((again.upper, again.rows), (passed, then), "the view as of a tick that has passed")
    while again.rows != live.rows:
        again.apply(await _next(socket))
    await socket.send(json.dumps({"type": "unsubscribe", "id": "c"}))
    while (await _next(socket))["type"] != "end":
        pass
    await socket.send(json.dumps(subscribe | {"id": "d", "up_to": passed}))
    ended = LiveView("requests")
    while (message := await _next(socket))["type"] != "end":
        ended.apply(message)
    assert_equal(ended.rows, then, "the view up to a tick that has passed")
    await socket.send(json.dumps(subscribe | {"id": "e", "as_of": 1}))
    answers = [await _next(socket) for _ in range(2)]
    assert_equal(answers[-1].get("code"), "PF-5022", f"as of the beginning of time: {answers}")


async def _keys(socket: Any, live: LiveView) -> None:
    """The view key by key."""
    message = {"type": "subscribe", "id": "f", "view": "requests", "envelope": "upsert"}
    await socket.send(json.dumps(message))
    schema = await _next(socket)
    keys = [place for place, column in enumerate(schema["columns"]) if column["key"]]
    frame = await _next(socket)
    found = {tuple(row[1:][place] for place in keys): tuple(row[1:]) for row in frame["rows"] if row[0] == 1}
    wanted = {tuple(row[place] for place in keys): row for row in live.rows}
    assert_equal((found, len(frame["rows"])), (wanted, len(wanted)), "upserts of a snapshot")


async def _closed_windows(socket: Any, live: LiveView) -> None:
    """Windows that are closed, whole; what has none is refused."""
    closed = LiveView("requests")
    await socket.send(json.dumps({"type": "subscribe", "id": "g", "view": "requests", "envelope": "final"}))
    while closed.frames == 0:
        closed.apply(await _next(socket))
    ends = [row[closed.columns.index("window_end")] for row in closed.rows]
    place = live.columns.index("window_end")
    wanted = {row for row in live.rows if ends and row[place] <= max(ends)}
    assert_equal(set(closed.rows), wanted, "closed windows are whole, and the first ones")
    sql = "SELECT model, count(*) AS calls FROM spans GROUP BY model"
    await socket.send(json.dumps({"type": "subscribe", "id": "h", "sql": sql, "envelope": "final"}))
    answer = await _next(socket)
    while answer["id"] != "h" or answer["type"] == "schema":
        answer = await _next(socket)
    assert_equal(answer.get("code"), "PF-5034", f"closed windows of what has none: {answer}")


async def _next(socket: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), WAIT_SECONDS))
    return message


async def _until_equal(socket: Any, live: LiveView, sent: list[Sent]) -> float:
    """Applies frames until the view is right; returns the seconds that took."""
    wanted = expected([one.file for one in sent])[live.view]
    started = time.monotonic()
    left = ["no frame came"]
    while time.monotonic() - started < WAIT_SECONDS:
        if live.columns and live.upper is not None:
            left = differences(live.view, wanted, live.content())
            if not left:
                return time.monotonic() - started
        try:
            message = await asyncio.wait_for(socket.recv(), 1.0)
        except TimeoutError:
            continue
        live.apply(json.loads(message))
    raise AssertionError(f"{live.frames} frames did not add up:\n" + "\n".join(left[:10]))


def conditions_are_looked_up(server: Server) -> None:
    """Conditions on keys, alone and together, give the rows that a filter of all rows gives."""
    columns = ["project", "service_name", "window_start", "requests"]
    rows = server.sql(f"SELECT {', '.join(columns)} FROM live.requests")
    assert rows, "the view requests is empty"

    def text(value: Any) -> str:
        return "'" + str(value).replace("'", "''") + "'"

    first, last = rows[0], rows[-1]
    some = [(first[1], last[1]), (first[2], last[2])]
    cases = [
        (f"service_name = {text(first[1])}", lambda row: row[1] == first[1]),
        (f"project = 'default' AND service_name = {text(last[1])}", lambda row: row[1] == last[1]),
        (f"service_name IN ({text(some[0][0])}, {text(some[0][1])}, 'nobody', NULL)", lambda row: row[1] in some[0]),
        (f"window_start = {text(first[2])}", lambda row: row[2] == first[2]),
        (f"window_start = {text(first[2])} OR window_start = {text(last[2])}", lambda row: row[2] in some[1]),
        (f"service_name = {text(first[1])} AND requests = {first[3]}", lambda row: row[1::2] == first[1::2]),
        ("service_name = 'nobody'", lambda row: False),
        ("service_name = NULL", lambda row: False),
    ]
    for condition, holds in cases:
        found = server.sql(f"SELECT {', '.join(columns)} FROM live.requests WHERE {condition}")
        assert_equal(sorted(map(str, found)), sorted(str(row) for row in rows if holds(row)), condition)
        counted = server.sql(f"SELECT count(*) FROM live.requests WHERE {condition}")
        assert_equal(counted, [[len(found)]], f"the number of rows with {condition}")
    assert_equal(len(server.sql("SELECT * FROM live.requests LIMIT 1")), 1, "rows with LIMIT 1")


def refuses_nonsense(server: Server) -> None:
    """Garbage on the socket is answered with a coded error, and the socket goes on."""
    asyncio.run(_refuses_nonsense(server))


async def _refuses_nonsense(server: Server) -> None:
    assert server.endpoints is not None
    async with connect(server.endpoints.live_url) as socket:
        for nonsense in ("{", '{"type": "dance"}', '{"type": "subscribe", "id": "x", "view": "no_such_view"}'):
            await socket.send(nonsense)
            answer = await _next(socket)
            assert_equal(answer["type"], "error", f"answer to {nonsense}")
            assert str(answer["code"]).startswith("PF-"), f"the answer to {nonsense} has no code: {answer}"
        await socket.send(json.dumps({"type": "subscribe", "id": "y", "view": "requests"}))
        assert_equal((await _next(socket))["type"], "schema", "answer to a good subscription after bad ones")
