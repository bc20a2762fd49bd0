"""Disks that are full or cannot be written: mounts of our own, which need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_MB = 160


class CannotMount(Exception):
    """Nothing can be mounted here."""


def _mount(*arguments: str) -> None:
    mounted = subprocess.run(["mount", *arguments], capture_output=True)
    if mounted.returncode != 0:
        raise CannotMount(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own in memory, small enough to fill."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={DISK_MB}m", "pyflare-test", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder as if its disk could only be read; for whoever opens something there from now on."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(ballast: Path, leave_kb: int) -> None:
    """Writes until only so much is free; again if somebody gave something back."""
    with ballast.open("ab", buffering=0) as file:
        while True:
            stat = os.statvfs(ballast)
            free = stat.f_bavail * stat.f_frsize - leave_kb * 1024
            if free <= 0:
                return
            try:
                file.write(bytes(min(free, 1 << 20)))
            except OSError:
                return
