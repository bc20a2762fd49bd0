"""Where the clients that are programs of their own were installed.

The installer writes them under `$PYFLARE_CACHE/clients` (default `~/.cache/pyflare/clients`),
outside the clone, so that a fresh clone does not build them again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from client import MissingTool

CACHE = Path(os.environ.get("PYFLARE_CACHE") or Path.home() / ".cache" / "pyflare") / "clients"
HERE = Path(__file__).resolve().parent.parent


def program(name: str) -> Path:
    """The path of an installed Go program."""
    path = CACHE / "go" / "bin" / name
    if not path.is_file():
        raise MissingTool(f"{name} is not installed; tests/clients/install.sh --only go builds it (needs go)")
    return path


def node() -> tuple[str, Path]:
    """The node executable and the folder with the installed packages."""
    executable = shutil.which("node")
    folder = CACHE / "js"
    if executable is None:
        raise MissingTool("node is not installed; install Node.js 20 or newer")
    if not (folder / "node_modules").is_dir():
        raise MissingTool("the JS clients are not installed; run tests/clients/install.sh --only js")
    return executable, folder
