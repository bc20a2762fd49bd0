"""Backups taken while a server is being sent spans and killed, verified, damaged, restored and started from."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from runner import assert_equal, eventually
from server import Server, post_json


def _run(server: Server, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(server.binary.resolve()), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _says(outcome: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    assert_equal(outcome.returncode, code, f"exit code of {outcome.args}: {outcome.stderr}")
    assert text in outcome.stdout + outcome.stderr, f"{text!r} is not in {outcome.stdout!r} {outcome.stderr!r}"


# Numbers that are sent to a restored server.
FIRST_AFTER = 1_000_000


class Sender(threading.Thread):
    """Sends one span after the other; `acknowledged` are those that the server has taken."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        assert server.endpoints is not None
        self.acknowledged = 0
        self._exporter = OTLPSpanExporter(f"{server.endpoints.otlp_http_url}/v1/traces", timeout=10)
        self._told_to_stop = threading.Event()

    def run(self) -> None:
        provider = TracerProvider(resource=Resource.create({"service.name": "backed-up"}))
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        tracer = provider.get_tracer("backups")
        while not self._told_to_stop.is_set():
            with tracer.start_as_current_span("call", attributes={"number": self.acknowledged}):
                pass
            self.acknowledged += 1
        provider.shutdown()

    def stop(self) -> None:
        self._told_to_stop.set()
        self.join(30)


def _numbers(server: Server) -> list[int]:
    rows = server.sql("SELECT attributes['number'] FROM history.spans WHERE service_name = 'backed-up'")
    return sorted(int(row[0]) for row in rows)


def taken_and_restored(server: Server, scratch: Path) -> None:
    """Three backups under traffic: each is whole, has what was acknowledged before it began, and a start from it counts on."""
    post_json(
        f"{server.api_url}/api/v1/sql",
        {"query": "CREATE MONITOR backed_up AS SELECT name, count(*) AS n FROM spans WHERE service_name = 'backed-up' GROUP BY name"},
    )
    sender = Sender(server)
    sender.start()
    taken = []
    for number in range(3):
        time.sleep(2.5)
        before = sender.acknowledged
        target = scratch / f"backup-{number}"
        _says(_run(server, "backup", "--data-dir", server.data_dir, "--to", target), 0, "Check it with")
        taken.append((target, before, sender.acknowledged))
    sender.stop()
    held = [path.name for path in server.data_dir.iterdir() if path.name.startswith(".backup")]
    assert_equal(held, [], "what was held is let go")
    for target, before, after in taken:
        _says(_run(server, "verify", target), 0, "a server can start from it")
        restored = Server(server.binary, scratch / f"restored-{target.name}", server.arguments)
        _says(_run(server, "restore", "--from", target, "--data-dir", restored.data_dir), 0, "Start it with")
        try:
            restored.start()

            def claim(restored: Server = restored, before: int = before, after: int = after) -> None:
                numbers = _numbers(restored)
                assert numbers == list(range(len(numbers))), f"each once and without a gap: {numbers[-20:]}"
                assert before <= len(numbers) <= after + 1, f"{before} <= {len(numbers)} <= {after + 1}"
                rows = restored.sql("SELECT n FROM live.backed_up")
                assert_equal(rows, [[len(numbers)]], "the monitor")

            eventually(claim, 20)
            # The log may have more than was admitted so far.
            more = Sender(restored)
            more.acknowledged = FIRST_AFTER
            more.start()
            time.sleep(0.5)
            more.stop()

            def goes_on(restored: Server = restored, sent: int = more.acknowledged, after: int = after) -> None:
                numbers = _numbers(restored)
                old = [number for number in numbers if number < FIRST_AFTER]
                assert old == list(range(len(old))) and len(old) <= after + 1, f"numbers of before: {old[-20:]}"
                assert numbers[len(old) :] == list(range(FIRST_AFTER, sent)), f"numbers sent after: {numbers[-20:]}"

            eventually(goes_on, 20)
            assert_equal(restored.stop(), 0, "exit code")
        finally:
            restored.kill()
        _says(_run(server, "verify", restored.data_dir), 0, "a server can start from it")


def damage_named(server: Server, scratch: Path) -> None:
    """A flipped bit and a missing file, anywhere in a backup, are found, named and not restored."""
    whole = scratch / "backup-2"
    files = [entry["path"] for entry in json.loads((whole / "backup.json").read_text())["files"]]
    kinds = ("VERSION", "catalog/", "checkpoints/manifests", "checkpoints/state", "tables/", "ticks/", "log/")
    for kind in kinds:
        chosen = [path for path in files if path.startswith(kind) and (whole / "data" / path).stat().st_size > 0]
        assert chosen, f"no file of {kind} in {files}"
        for damage in ("bit", "gone"):
            damaged = scratch / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged)
            path = damaged / "data" / chosen[-1]
            if damage == "gone":
                path.unlink()
            else:
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
            outcome = _run(server, "verify", damaged)
            assert_equal(outcome.returncode, 1, f"exit code of verify, {damage} in {chosen[-1]}: {outcome.stdout}")
            if not (kind == "VERSION" and damage == "gone"):
                assert chosen[-1] in outcome.stdout + outcome.stderr, f"{chosen[-1]} is not named: {outcome.stdout}"
            target = scratch / "not-restored"
            shutil.rmtree(target, ignore_errors=True)
            outcome = _run(server, "restore", "--from", damaged, "--data-dir", target)
            assert_equal(outcome.returncode, 1, f"exit code of restore, {damage} in {chosen[-1]}")
            assert not (target / "VERSION").exists(), "half a restored directory is none"


def refused(server: Server, scratch: Path) -> None:
    """What cannot be done is refused with a code."""
    some = scratch / "backup-0"
    empty = scratch / "empty"
    empty.mkdir(exist_ok=True)
    for code, words in (
        ("PF-6053", ["backup", "--data-dir", empty, "--to", scratch / "x"]),
        ("PF-6054", ["backup", "--data-dir", server.data_dir, "--to", some]),
        ("PF-6054", ["backup", "--data-dir", server.data_dir, "--to", server.data_dir / "x"]),
        ("PF-6050", ["restore", "--from", empty, "--data-dir", scratch / "y"]),
        ("PF-6054", ["restore", "--from", some, "--data-dir", server.data_dir]),
        ("PF-6053", ["verify", empty]),
        ("PF-6010", ["verify", server.data_dir]),
    ):
        _says(_run(server, *words), 1, code)
    unfinished = scratch / "unfinished"
    shutil.copytree(some, unfinished)
    (unfinished / "backup.json").write_text('{"format": 9, "version": "9", "taken_at": "", "files": []}')
    _says(_run(server, "verify", unfinished), 1, "PF-6052")
    strange: dict[str, Any] = {"path": "../../etc/x", "bytes": 0, "blake3": ""}
    listing = {"format": 1, "version": "1", "taken_at": "", "files": [strange]}
    (unfinished / "backup.json").write_text(json.dumps(listing))
    _says(_run(server, "restore", "--from", unfinished, "--data-dir", scratch / "z"), 1, "PF-6051")


def claims(binary: Path, scratch: Path, arguments: list[str]) -> tuple[Server, list[tuple[str, Callable[[], object]]]]:
    """A server of its own, with a checkpoint a second."""
    server = Server(binary, scratch / "backups", ["--checkpoints-seconds", "1", *arguments])
    return server, [
        ("the server starts", server.start),
        ("taken under traffic, restored, started from", lambda: taken_and_restored(server, scratch)),
        ("damage is named", lambda: damage_named(server, scratch)),
        ("what cannot be done is refused", lambda: refused(server, scratch)),
    ]
