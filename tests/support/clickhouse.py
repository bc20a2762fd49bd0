"""A real ClickHouse for tests: the engine of the package `@chdb/lib-linux-x64-gnu`, with its own HTTP listener.

Installs the pinned library once into `${PYFLARE_CACHE:-~/.cache/pyflare}/services` and runs it over one data directory,
across restarts. As a program: `clickhouse.py install` prints where the library is, `clickhouse.py run DIRECTORY` starts
the engine, prints `ready PORT` once it answers, and ends when its standard input is closed. Exit code 77: it cannot be
had here.

The engine is `clickhouse local`, which opens its listeners when a query says so. The query that waits for a line from a
named pipe keeps it alive. No `system.*_log` table is configured: unbounded ones fill disks. There are two users,
`default` without a password and `pyflare` with the password `tell-nobody`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "@chdb/lib-linux-x64-gnu"
# The tag `latest` refuses to open listeners.
VERSION = "26.7.3-stable.1"
TARBALL = f"chdb-lib-linux-x64-gnu-{VERSION}.tgz"
SHA1 = "d2905fafd0e0ac0e231cccadd1f0f6d010977297"
READY_SECONDS = 60.0
UNAVAILABLE = 77
USER = "pyflare"
PASSWORD = "tell-nobody"

CONFIGURATION = """<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <users_config>{users}</users_config>
  <max_server_memory_usage>{memory}</max_server_memory_usage>
  <mark_cache_size>67108864</mark_cache_size>
</clickhouse>
"""
USERS = """<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
    </default>
    <{user}>
      <password>{password}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
    </{user}>
  </users>
</clickhouse>
"""


class Unavailable(Exception):
    """The engine cannot be had on this machine."""


def services() -> Path:
    """Where installed services are kept."""
    cache = os.environ.get("PYFLARE_CACHE")
    return Path(cache) / "services" if cache else Path.home() / ".cache" / "pyflare" / "services"


def install() -> Path:
    """The library, fetched from the npm registry if it is not there yet."""
    library = services() / f"chdb-{VERSION}" / "libchdb.so"
    if library.exists():
        return library
    if sys.platform != "linux" or os.uname().machine != "x86_64" or shutil.which("npm") is None:
        raise Unavailable("ClickHouse's engine needs Linux on x86-64 and npm")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
        fetched = subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=temporary, capture_output=True, text=True
        )
        archive = Path(temporary) / TARBALL
        if fetched.returncode != 0 or not archive.exists():
            raise Unavailable(f"npm could not fetch {PACKAGE}@{VERSION}: {fetched.stderr.strip()[-300:]}")
        if hashlib.sha1(archive.read_bytes()).hexdigest() != SHA1:
            raise Unavailable(f"{TARBALL} is not what was published")
        with tarfile.open(archive) as contents:
            contents.extract("package/libchdb.so", temporary, filter="data")
        (Path(temporary) / "package" / "libchdb.so").replace(library)
    return library


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass
class ClickHouse:
    """One engine over `data_dir`, on the same port after `kill` and `start`."""

    data_dir: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Returns the HTTP port once the engine answers there."""
        library = install()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        with (self.data_dir / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "engine", str(library), str(self.data_dir), str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Unavailable(f"ClickHouse ended with {self.process.returncode}: {self.log_tail()}")
            if answers(self.port):
                return self.port
            time.sleep(0.02)
        self.kill()
        raise Unavailable(f"ClickHouse was not ready within {READY_SECONDS:.0f} s: {self.log_tail()}")

    def kill(self) -> None:
        """SIGKILL: the engine gets no chance to write anything more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def query(self, sql: str) -> str:
        """What the engine answers, as tab-separated text."""
        url = f"http://127.0.0.1:{self.port}/?" + urllib.parse.urlencode({"user": "default"})
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=sql.encode()), timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode(errors="replace")) from error

    def log_tail(self) -> str:
        path = self.data_dir / "server.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


def engine(library: str, data_dir: Path, port: int) -> int:
    """Becomes the engine."""
    configuration = data_dir / "config.xml"
    users = data_dir / "users.xml"
    pipe = data_dir / "alive"
    users.write_text(USERS.format(user=USER, password=PASSWORD))
    configuration.write_text(CONFIGURATION.format(users=users, memory=4 << 30))
    if not pipe.exists():
        os.mkfifo(pipe)
    query = f"SYSTEM START LISTEN HTTP; SELECT count() FROM file('{pipe}', LineAsString)"
    arguments = [
        "clickhouse",
        f"--config-file={configuration}",
        f"--path={data_dir / 'data'}",
        "--listen_host=127.0.0.1",
        f"--http_port={port}",
        f"--query={query}",
    ]
    run = ctypes.CDLL(library).chdb_query_cmdline
    run.restype = ctypes.c_void_p
    values = (ctypes.c_char_p * len(arguments))(*[argument.encode() for argument in arguments])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    run(len(arguments), values)
    return 0


def run(data_dir: Path) -> int:
    """Runs until standard input ends; a line `kill` kills the engine, a line `start` starts it again."""
    server = ClickHouse(data_dir)
    print("ready", server.start(), flush=True)
    parent_gone = threading.Event()
    try:
        for line in sys.stdin:
            if line.strip() == "kill":
                server.kill()
                print("killed", flush=True)
            elif line.strip() == "start":
                print("ready", server.start(), flush=True)
    finally:
        parent_gone.set()
        server.kill()
    return 0


def main() -> int:
    try:
        match sys.argv[1:]:
            case ["install"]:
                print(install())
                return 0
            case ["run", directory]:
                return run(Path(directory))
            case ["engine", library, directory, port]:
                return engine(library, Path(directory), int(port))
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return UNAVAILABLE
    print("usage: clickhouse.py install | run DIRECTORY", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
