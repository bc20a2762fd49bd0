"""Damaged files: the server refuses to start and says what to do, or it lost nothing.

One data directory is filled under load and killed once everything was admitted. Each case works on a copy. A
refusal must leave log and tick log as they were, since somebody may want to repair them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import newer
from load import SETTLE_SECONDS, kept_exactly, no_panic, under_load
from numbered_spans import Senders
from runner import Runner
from server import Server

ADVICE = ("backup", "newer version", "version of pyflare", "free some space", "choose")


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
    ("a tick record of a newer format", True, lambda data: newer.tick_record(journal(data))),
    ("a catalog entry of a newer format", True, lambda data: newer.catalog_entry(catalog(data))),
    ("a log segment of a newer format", True, lambda data: newer.segment(segment(data))),
    ("a log layout of a newer format", True, lambda data: newer.layout(data / "log" / "LAYOUT.json")),
]


def manifests(data: Path) -> list[Path]:
    return sorted((data / "checkpoints" / "manifests").glob("*.json"))


def files_of(manifest: Path) -> list[Path]:
    """Those of the checkpoint, by its manifest."""
    described = json.loads(manifest.read_text().split("\n", 1)[1])
    return [manifest.parent.parent / file["name"] for file in described["files"]]


def both_manifests(data: Path) -> list[Path]:
    damaged = manifests(data)
    for manifest in damaged:
        flip(manifest, 0.7)
    return damaged


def newest(data: Path, harm: Callable[[Path], object]) -> list[Path]:
    damaged = manifests(data)[-1]
    harm(damaged)
    return [damaged]


def state(data: Path, kind: str, harm: Callable[[Path], object]) -> list[Path]:
    found = [
        file for file in files_of(manifests(data)[-1]) if (file.name == "admitted.parquet") == (kind == "admitted")
    ]
    harm(found[-1])
    return [found[-1]]


def ticks_cut(data: Path) -> list[Path]:
    """The tick log ends before the older checkpoint."""
    cut(journal(data), 0.05)
    return []


# name, what is done, and which files are damaged by it; the server starts from what is left and names one of them.
CHECKPOINT_CASES: list[tuple[str, Callable[[Path], list[Path]]]] = [
    ("the newest manifest, a byte", lambda data: newest(data, lambda file: flip(file, 0.5))),
    ("the newest manifest, its checksum", lambda data: newest(data, lambda file: flip(file, 0.0))),
    ("the newest manifest, cut", lambda data: newest(data, lambda file: cut(file, 0.5))),
    ("the newest manifest, empty", lambda data: newest(data, lambda file: file.write_bytes(b""))),
    ("the state, a byte", lambda data: state(data, "state", lambda file: flip(file, 0.4))),
    ("the state, cut", lambda data: state(data, "state", lambda file: cut(file, 0.6))),
    ("the state, deleted", lambda data: state(data, "state", Path.unlink)),
    ("the hashes, a byte", lambda data: state(data, "admitted", lambda file: flip(file, 0.5))),
    ("the hashes, deleted", lambda data: state(data, "admitted", Path.unlink)),
    ("both manifests", both_manifests),
]


def another_taken(binary: Path, original: Path, senders: Senders, harm: Callable[[Path], list[Path]]) -> None:
    """A damaged checkpoint is named, and the start takes the one before or replays everything; nothing is missing."""
    copy = original.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    copy.with_name("damaged.log").unlink(missing_ok=True)
    shutil.copytree(original, copy)
    damaged = harm(copy)
    server = Server(binary, copy, ["--checkpoints-seconds", "3600"])
    try:
        server.start()
        text = server.log.read_text(errors="replace")
        assert "WARN" in text, f"there is no warning in:\n{text}"
        epochs = {re.sub(r"^0+", "", file.stem) for file in damaged if file.suffix == ".json"}
        names = {str(file.relative_to(copy / "checkpoints")) for file in damaged} | {
            f"checkpoint {at}" for at in epochs
        }
        assert any(name in text for name in names), f"none of {sorted(names)} is named in:\n{text}"
        kept_exactly(server, senders, original.parent)
        assert server.stop() == 0, "exit code after SIGTERM"
    finally:
        server.kill()
    no_panic(server)


def ticks_before_checkpoint(binary: Path, original: Path, senders: Senders) -> None:
    refused_or_complete(binary, original, senders, True, ticks_cut)
    text = original.with_name("damaged.log").read_text(errors="replace")
    assert "PF-3019" in text, f"no PF-3019 in:\n{text}"


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
            changed = [file for file in changed if file not in ("GENERATION", "OWNER")]
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


def filled(binary: Path, scratch: Path, seed: int, name: str, *arguments: str) -> tuple[Path, Senders]:
    """A data directory with data in every file, killed once all of it was admitted and flushed."""
    (scratch / name).mkdir()
    server = Server(binary, scratch / name / "original", ["--store-flush-seconds", "1", *arguments])
    with under_load(server, seed) as senders:
        time.sleep(4)
        senders.stop(SETTLE_SECONDS)
        kept_exactly(server, senders, scratch)
        time.sleep(3)
        server.kill()
    return server.data_dir, senders


def checks(runner: Runner, binary: Path, scratch: Path, seed: int) -> None:
    original, senders = filled(binary, scratch, seed, "logs")
    for name, must_refuse, harm in CASES:
        runner.check(
            f"damage: {name}",
            partial(refused_or_complete, binary, original, senders, must_refuse, harm),
        )
    runner.check("damage: a stored file deleted", partial(stored_file_deleted, binary, original))
    original, senders = filled(binary, scratch, seed + 1, "checkpoints", "--checkpoints-seconds", "1")
    for name, damage in CHECKPOINT_CASES:
        runner.check(f"damage: checkpoints: {name}", partial(another_taken, binary, original, senders, damage))
    runner.check("damage: ticks end before a checkpoint", partial(ticks_before_checkpoint, binary, original, senders))
