"""Starts a PyFlare server on free loopback ports, finds out where it listens, stops or kills it.

Models one server process over one data directory, across restarts. Addresses come from
`<data>/endpoints.json`, which the server writes once all of them are open; a file left by an
earlier process is recognised by its pid. Only processes started here are ever signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_SECONDS = 60.0
STOP_SECONDS = 60.0
LISTENERS = ("otlp-grpc", "otlp-http", "api")


class ServerFailed(Exception):
    """The server did not start, or ended; carries the end of what it wrote."""


@dataclass(frozen=True)
class Endpoints:
    """Where the server listens."""

    otlp_grpc: str
    otlp_http: str
    api: str

    @property
    def otlp_http_url(self) -> str:
        return f"http://{self.otlp_http}"

    @property
    def api_url(self) -> str:
        return f"http://{self.api}"

    @property
    def live_url(self) -> str:
        return f"ws://{self.api}/api/v1/live"


@dataclass
class Server:
    """One server over `data_dir`; `start` again after `kill` or `stop`."""

    binary: Path
    data_dir: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    endpoints: Endpoints | None = None

    @property
    def log(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".log")

    @property
    def api_url(self) -> str:
        if self.endpoints is None:
            raise ServerFailed("the server is not ready")
        return self.endpoints.api_url

    def launch(self) -> None:
        """Starts the process and returns at once."""
        command = [str(self.binary.resolve()), "serve", "--data-dir", str(self.data_dir)]
        for listener in LISTENERS:
            command += [f"--listen-{listener}", "127.0.0.1:0"]
        self.endpoints = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
            )

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Endpoints:
        """Returns once `/readyz` says 200; raises `ServerFailed` if the process ends first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._must_run()
            if self.endpoints is None:
                self.endpoints = self._read_endpoints()
            elif _answers(f"{self.endpoints.api_url}/readyz"):
                return self.endpoints
            time.sleep(0.02)
        raise ServerFailed(f"not ready within {seconds:.0f} s; its log ends:\n{self.log_tail()}")

    def start(self) -> Endpoints:
        self.launch()
        return self.wait_until_ready()

    def wait_for_end(self, seconds: float) -> int | None:
        """The exit code once it ends by itself, none if it still runs; finds out meanwhile where it listens."""
        deadline = time.monotonic() + seconds
        while self.process is not None and self.process.poll() is None:
            if time.monotonic() > deadline:
                return None
            if self.endpoints is None:
                self.endpoints = self._read_endpoints()
            time.sleep(0.01)
        code = None if self.process is None else self.process.returncode
        self.process = self.endpoints = None
        return code

    def log_since(self, position: int) -> str:
        """What was written to the log after so many bytes."""
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    @property
    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to write anything more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = self.endpoints = None

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; returns the exit code once the server has drained and flushed."""
        if self.process is None:
            raise ServerFailed("stop: no server is running")
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as expired:
            self.kill()
            raise ServerFailed(f"did not end within {seconds:.0f} s of SIGTERM") from expired
        self.process = None
        return code

    def log_tail(self, lines: int = 30) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def sql(self, query: str, limit: int = 100_000, headers: dict[str, str] | None = None) -> list[list[Any]]:
        """Rows of a query over REST."""
        answer = post_json(f"{self.api_url}/api/v1/sql", {"query": query, "limit": limit}, headers)
        if answer["truncated"]:
            raise ServerFailed(f"the answer was cut at {answer['row_count']} rows: {query}")
        return list(answer["rows"])

    def get(self, path: str, headers: dict[str, str] | None = None) -> Any:
        """A JSON document of the API."""
        request = urllib.request.Request(self.api_url + path, headers=headers or {})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def command(self, *arguments: object) -> list[str]:
        """What is wrong with the end of a `pyflare` command in the server's environment."""
        call = [str(self.binary.resolve()), *map(str, arguments)]
        ended = subprocess.run(call, env=os.environ | self.environment, capture_output=True, text=True, timeout=120)
        return [] if ended.returncode == 0 else [f"{arguments[0]} ended with {ended.returncode}: {ended.stderr[-400:]}"]

    def _must_run(self) -> None:
        if self.process is None:
            raise ServerFailed("no server was launched")
        if self.process.poll() is not None:
            raise ServerFailed(f"ended with {self.process.returncode}; its log ends:\n{self.log_tail()}")

    def _read_endpoints(self) -> Endpoints | None:
        try:
            content = json.loads((self.data_dir / "endpoints.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if self.process is None or content["pid"] != self.process.pid:
            return None
        return Endpoints(content["otlp_grpc"], content["otlp_http"], content["api"])


def post_json(url: str, body: Any, headers: dict[str, str] | None = None, timeout: float = 60.0) -> Any:
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", **(headers or {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ServerFailed(f"{url}: {error.code}: {error.read().decode(errors='replace')}") from error


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
