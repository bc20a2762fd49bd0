"""What subscribers saw through crashes, against a run that nothing disturbed.

A copy of the recovered log and tick log, without checkpoints, is replayed from its beginning by a server that nobody
kills. Every frame of a transcript is then asked for again by its ticks, and every reset as the content at its tick:
both must be the same rows. What checkpoints make superfluous of the log is kept beside it for that (`Archive`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from report import Report
from server import Server
from subscriber import Frame, Row, Transcript, net

ANSWER_SECONDS = 30.0
NOT_KNOWN = "PF-5022"
# Two checkpoints pass before a segment goes, which takes longer.
KEEP_SECONDS = 0.05


class Archive:
    """Keeps every file that the log and the tick log ever had, by another name for the same file."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir.with_name(data_dir.name + "-archive")
        self._data_dir = data_dir
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._keep()

    def _run(self) -> None:
        while not self._stopping.wait(KEEP_SECONDS):
            self._keep()

    def _keep(self) -> None:
        files = [*self._data_dir.glob("log/*/*/*.segment"), *self._data_dir.glob("ticks/*.journal")]
        for segment in files:
            kept = self.folder / segment.relative_to(self._data_dir)
            with contextlib.suppress(OSError):
                # One without records is replaced by another of its name; a full disk is tried again.
                if kept.exists() and kept.stat().st_ino != segment.stat().st_ino:
                    kept.unlink()
                if not kept.exists():
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    os.link(segment, kept)

    def complete(self, copy: Path) -> None:
        """Gives a copy of the logs what was deleted."""
        if self.folder.exists():
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)


@contextmanager
def undisturbed(
    binary: Path, data_dir: Path, archive: Archive, arguments: list[str], stores: bool = False
) -> Iterator[Server]:
    """A server over a copy of the logs alone; with a store of its own if it `stores`."""
    copy = data_dir.with_name(data_dir.name + "-undisturbed")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("VERSION", "log", "ticks", "catalog"):
        source = data_dir / name
        if source.is_dir():
            shutil.copytree(source, copy / name)
        else:
            shutil.copy(source, copy / name)
    archive.complete(copy)
    others = [argument for argument in arguments if not argument.startswith(("--checkpoints", "--store"))]
    server = Server(binary, copy, [*others, "--checkpoints-seconds=0", f"--store-url={'delta' if stores else 'none'}"])
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(copy, ignore_errors=True)


def check_transcripts(
    report: Report, server: Server, transcripts: list[Transcript], when: str, forgets: bool = False
) -> None:
    """Compares every frame of every transcript with `server`, which was never disturbed.

    `forgets`: a clock that jumped may have made frames older than the five minutes for which they are known.
    """
    assert server.endpoints is not None
    with connect(server.endpoints.live_url, max_size=None, ping_interval=None) as socket:
        for transcript in transcripts:
            problems = list(transcript.problems)
            report.check(f"{when}: {transcript.view}: frames follow on, and time never goes back", problems)
            compared = forgotten = rows = 0
            differences = []
            for number, frame in enumerate(transcript.frames):
                wanted = again(socket, f"{transcript.view}-{number}", transcript.view, frame)
                if wanted is None:
                    forgotten += 1
                    continue
                compared += 1
                rows += sum(abs(count) for count in frame.rows.values())
                if wanted != frame.rows:
                    differences.append(difference(frame, wanted))
            report.seen["frames compared"] += compared
            report.seen["frames no longer known to the replay"] += forgotten
            report.seen["resets"] += transcript.resets
            report.seen["reconnections"] += transcript.connections - 1
            if forgotten and not forgets:
                differences.append(f"{forgotten} of {len(transcript.frames)} frames are not known to the replay")
            if compared == 0:
                differences.append(f"none of {len(transcript.frames)} frames could be compared")
            report.check(
                f"{when}: {transcript.view}: {compared} frames ({rows} changes, {transcript.connections} connections, "
                f"{transcript.resets} resets) are those of an undisturbed run",
                differences,
            )


def again(socket: ClientConnection, name: str, view: str, frame: Frame) -> Counter[Row] | None:
    """The rows of the same ticks, asked for once more; none if the server does not know them any more."""
    subscribe: dict[str, Any] = {"type": "subscribe", "id": name, "view": view, "up_to": frame.upper}
    if frame.reset:
        subscribe |= {"as_of": frame.upper - 1, "snapshot": True}
    else:
        subscribe |= {"as_of": frame.lower - 1, "snapshot": False}
    socket.send(json.dumps(subscribe))
    rows: Counter[Row] = Counter()
    while True:
        message = json.loads(socket.recv(ANSWER_SECONDS))
        if message["id"] != name:
            continue
        match message["type"]:
            case "frame":
                rows.update(net(message["rows"]))
            case "end":
                return Counter({row: count for row, count in rows.items() if count})
            case "error":
                if message["code"] != NOT_KNOWN:
                    raise AssertionError(f"asked for {subscribe}: {message}")
                return None


def difference(frame: Frame, wanted: Counter[Row]) -> str:
    kind = "the reset" if frame.reset else "the frame"
    more = [(row, count) for row, count in frame.rows.items() if wanted[row] != count]
    less = [(row, count) for row, count in wanted.items() if frame.rows[row] != count]
    return (
        f"{kind} [{frame.lower}, {frame.upper}) of connection {frame.connection} has {more[:2]}, must have {less[:2]}"
    )
