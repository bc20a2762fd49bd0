"""Damaged files: the server refuses to start and says what to do, or it lost nothing.

One data directory is filled under load and killed once everything was admitted. Each case works on a copy. A
refusal must leave log and tick log as they were, since somebody may want to repair them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from load import SETTLE_SECONDS, kept_exactly, no_panic, under_load
from numbered_spans import Senders
from runner import Runner
from server import Server

ADVICE = ("backup", "newer version", "free some space", "choose")


def flip(path: Path, at: float) -> None:
    """Changes one byte, `at` of the way through what is not zero."""
    content = bytearray(path.read_bytes())
    end = len(content.rstrip(b"\0"))
    position = min(int(end * at), end - 1)
    content[position] ^= 0x20
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * share)])


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def segment(data: Path) -> Path:
    return max((data / "log" / "otlp_spans" / "0").glob("*.segment"))


def journal(data: Path) -> Path:
    return data / "ticks" / "ticks.journal"


def catalog(data: Path) -> Path:
    return data / "catalog" / "catalog.journal"


CASES: list[tuple[str, bool, Callable[[Path], object]]] = [
    # name, whether a refusal is the only right answer, what is done
    ("log: a byte in the middle", True, lambda data: flip(segment(data), 0.5)),
    ("log: a byte in the first header", True, lambda data: flip(segment(data), 0.0)),
    ("log: the last byte", True, lambda data: flip(segment(data), 1.0)),
    ("log: cut in half", True, lambda data: cut(segment(data), 0.5)),
    ("log: its end cut off", True, lambda data: cut(segment(data), 0.999)),
    ("log: the segment deleted", True, lambda data: segment(data).unlink()),
    ("log: everything deleted", True, lambda data: shutil.rmtree(data / "log")),
    ("log: the layout garbled", True, lambda data: (data / "log" / "LAYOUT.json").write_text("{")),
    ("ticks: a byte in the middle", True, lambda data: flip(journal(data), 0.5)),
    ("ticks: the last byte", False, lambda data: flip(journal(data), 1.0)),
    ("ticks: cut in half", True, lambda data: cut(journal(data), 0.5)),
    ("ticks: the journal deleted", True, lambda data: journal(data).unlink()),
    ("ticks: everything deleted", True, lambda data: shutil.rmtree(data / "ticks")),
    ("ticks: the generation garbled", True, lambda data: (data / "ticks" / "GENERATION").write_text("x")),
    ("catalog: a byte in the middle", True, lambda data: flip(catalog(data), 0.5)),
    ("catalog: the last byte", False, lambda data: flip(catalog(data), 1.0)),
    ("catalog: deleted", False, lambda data: catalog(data).unlink()),
    ("the version garbled", True, lambda data: (data / "VERSION").write_text("?")),
    ("a newer version", True, lambda data: (data / "VERSION").write_text("99\n")),
]


def refused_or_complete(
    binary: Path, original: Path, senders: Senders, must_refuse: bool, harm: Callable[[Path], object]
) -> None:
    copy = original.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    copy.with_name("damaged.log").unlink(missing_ok=True)
    shutil.copytree(original, copy)
    harm(copy)
    before = {name: digest(copy / name) for name in ("log", "ticks") if (copy / name).exists()}
    server = Server(binary, copy)
    server.launch()
    assert server.process is not None
    try:
        deadline = time.monotonic() + 60
        while server.process.poll() is None and time.monotonic() < deadline:
            try:
                server.wait_until_ready(0.5)
                break
            except Exception:
                continue
        if server.process.poll() is None:
            server.wait_until_ready(1)
            assert not must_refuse, f"it started:\n{server.log_tail(12)}"
            kept_exactly(server, senders, original.parent)
            return
        text = server.log_tail(3)
        assert server.process.returncode != 0, "it ended with 0"
        assert re.search(r"PF-\d{4}", text), f"no code in:\n{text}"
        assert any(words in text for words in ADVICE), f"it does not say what to do:\n{text}"
        for name, files in before.items():
            after = digest(copy / name)
            changed = sorted(file for file in files if file in after and after[file] != files[file])
            changed = [file for file in changed if file not in ("GENERATION",)]
            assert not changed and files.keys() <= after.keys(), f"the refused start changed {name}/: {changed}"
    finally:
        server.kill()
        no_panic(server)


def stored_file_deleted(binary: Path, original: Path) -> None:
    """A query over a table that lost a file is an error, not an answer with fewer rows."""
    copy = original.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    files = sorted((copy / "tables").glob("spans*/**/*.parquet"))
    assert files, "the store has no file of spans"
    for file in files:
        file.unlink()
    server = Server(binary, copy)
    try:
        server.start()
        asked = subprocess.run(
            [str(binary), "sql", "--api", server.api_url, "SELECT count(DISTINCT span_id) FROM history.spans"],
            capture_output=True,
            timeout=60,
        )
        assert asked.returncode != 0, f"it answered {asked.stdout.decode()!r}"
        assert b"PF-" in asked.stderr, f"no code in {asked.stderr.decode()!r}"
    finally:
        server.kill()
    no_panic(server)


def filled(binary: Path, scratch: Path, seed: int) -> tuple[Path, Senders]:
    """A data directory with data in every file, killed once all of it was admitted and flushed."""
    server = Server(binary, scratch / "original", ["--store-flush-seconds", "1"])
    with under_load(server, seed) as senders:
        time.sleep(4)
        senders.stop(SETTLE_SECONDS)
        kept_exactly(server, senders, scratch)
        time.sleep(3)
        server.kill()
    return server.data_dir, senders


def checks(runner: Runner, binary: Path, scratch: Path, seed: int) -> None:
    made: list[tuple[Path, Senders]] = []
    if not runner.check("damage: a directory to damage", lambda: made.append(filled(binary, scratch, seed))):
        return
    if not made:
        made.append(filled(binary, scratch, seed))
    original, senders = made[0]
    for name, must_refuse, harm in CASES:
        runner.check(
            f"damage: {name}",
            lambda harm=harm, must_refuse=must_refuse: refused_or_complete(  # type: ignore[misc]
                binary, original, senders, must_refuse, harm
            ),
        )
    runner.check("damage: a stored file deleted", lambda: stored_file_deleted(binary, original))
