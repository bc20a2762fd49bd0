"""A data directory on a disk that is really full, and a log that has reached its cap."""

from __future__ import annotations

import os
import random
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc

from load import SETTLE_SECONDS, kept_exactly, no_panic, under_load
from numbered_spans import GRPC_METHOD, build
from runner import Runner, Skipped, assert_equal, eventually
from server import Server
from small_disk import CannotMount, fill, small_disk

LEFT_FREE_KB = 3_000
FULL_SECONDS = 6.0


class Probe:
    """Sends one span after the other and keeps what was answered."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.number = 0
        self.source = random.Random(1)

    def body(self) -> bytes:
        self.number += 1
        number = 10_000_000 + self.number
        message = build(number, number, self.source).body
        return message.replace(b"crash-driver", b"probe-driver")

    def http(self) -> tuple[int, str | None, str]:
        assert self.server.endpoints is not None
        request = urllib.request.Request(
            f"{self.server.endpoints.otlp_http_url}/v1/traces",
            data=self.body(),
            headers={"content-type": "application/x-protobuf"},
        )
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return answer.status, None, ""
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("retry-after"), error.read().decode(errors="replace")

    def grpc(self) -> tuple[grpc.StatusCode, str]:
        assert self.server.endpoints is not None
        with grpc.insecure_channel(self.server.endpoints.otlp_grpc) as channel:
            call = channel.unary_unary(GRPC_METHOD, request_serializer=None, response_deserializer=None)
            try:
                call(self.body(), timeout=15)
            except grpc.RpcError as error:
                return error.code(), str(error.details())
        return grpc.StatusCode.OK, ""


def refused_by_http(probe: Probe, *codes: str) -> None:
    status, retry_after, text = probe.http()
    assert status in (429, 503), f"status {status}, must be 429 or 503: {text[:200]}"
    assert retry_after is not None and int(retry_after) >= 1, f"Retry-After is {retry_after!r}"
    assert any(code in text for code in codes), f"none of {codes} in {text[:300]!r}"


def refused_by_grpc(probe: Probe, *codes: str) -> None:
    status, text = probe.grpc()
    assert status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), f"{status}: {text}"
    assert any(code in text for code in codes), f"none of {codes} in {text[:300]!r}"


def accepted(probe: Probe) -> None:
    assert_equal(probe.http()[0], 200, "status once there is room")


def full_disk(runner: Runner, binary: Path, scratch: Path, seed: int) -> None:
    with small_disk(scratch / "small-disk") as disk:
        # The process' own log lies beside the data directory and must not fill the disk itself.
        data = disk / "deep" / "data"
        data.parent.mkdir()
        (disk / "deep" / "data.log").symlink_to(scratch / "full-disk.log")
        server = Server(binary, data, ["--limits-min-free-gb", "0", "--store-flush-seconds", "1"])
        ballast = disk / "ballast"
        with under_load(server, seed) as senders:
            probe = Probe(server)
            time.sleep(4)
            fill(ballast, LEFT_FREE_KB)
            began = time.monotonic()
            eventually(lambda: refused_by_http(probe, "PF-2002", "PF-1015"), 60)
            print(f"     refused {time.monotonic() - began:.1f} s after the disk was nearly full", flush=True)
            refused_by_grpc(probe, "PF-2002", "PF-1015")
            deadline = time.monotonic() + FULL_SECONDS
            while time.monotonic() < deadline:
                fill(ballast, 0)
                time.sleep(0.1)
            assert server.process is not None and server.process.poll() is None, "the server ended"
            refused_by_http(probe, "PF-2002", "PF-1015")
            ballast.unlink()
            freed = time.monotonic()
            eventually(lambda: accepted(probe), 30)
            print(f"     accepted {time.monotonic() - freed:.1f} s after space was freed", flush=True)
            time.sleep(2)
            senders.stop(SETTLE_SECONDS)
            kept_exactly(server, senders, scratch)
            server.kill()
            server.start()
            kept_exactly(server, senders, scratch)
            assert_equal(server.stop(), 0, "exit code after SIGTERM")
        no_panic(server)


def full_disk_at_start_and_stop(binary: Path, scratch: Path, seed: int) -> None:
    """SIGTERM on a full disk ends with a code and loses nothing; a start on a full disk says so."""
    with small_disk(scratch / "small-disk-2") as disk:
        data = disk / "deep" / "data"
        data.parent.mkdir()
        (disk / "deep" / "data.log").symlink_to(scratch / "full-at-stop.log")
        server = Server(binary, data, ["--limits-min-free-gb", "0", "--store-flush-seconds", "1"])
        ballast = disk / "ballast"
        with under_load(server, seed) as senders:
            time.sleep(3)
            fill(ballast, 0)
            time.sleep(3)
            server.stop()
            fill(ballast, 0)
            server.launch()
            assert server.process is not None
            try:
                code = server.process.wait(20)
            except subprocess.TimeoutExpired:
                code = None
            if code is not None:
                assert code != 0 and "PF-" in server.log_tail(5), f"ended with {code}: {server.log_tail(5)}"
            server.kill()
            ballast.unlink()
            server.start()
            senders.stop(SETTLE_SECONDS)
            kept_exactly(server, senders, scratch)
            assert_equal(server.stop(), 0, "exit code after SIGTERM")
        no_panic(server)


def cap_refuses(binary: Path, scratch: Path, seed: int) -> None:
    """The room that must stay free is kept: refusals come while the disk is far from full."""
    stat = os.statvfs(scratch)
    free_gb = stat.f_bavail * stat.f_frsize >> 30
    server = Server(binary, scratch / "capped", ["--limits-min-free-gb", str(free_gb + 1_000)])
    try:
        server.start()
        probe = Probe(server)
        refused_by_http(probe, "PF-2002")
        refused_by_grpc(probe, "PF-2002")
        assert_equal(server.stop(), 0, "exit code")
        server.arguments = ["--limits-log-gb", "0"]
        server.start()
        refused_by_http(probe, "PF-2001")
        assert_equal(server.stop(), 0, "exit code")
        server.arguments = []
        server.start()
        accepted(probe)
    finally:
        server.kill()
    no_panic(server)


def mounted(claim: Callable[[], None]) -> Callable[[], None]:
    """A claim that needs a disk of its own, or a skip."""

    def run() -> None:
        try:
            claim()
        except CannotMount as reason:
            raise Skipped(str(reason)) from reason

    return run


def checks(runner: Runner, binary: Path, scratch: Path, seed: int) -> None:
    full = mounted(lambda: full_disk(runner, binary, scratch, seed))
    runner.check("disk: full under load, goes on once there is room", full)
    at_start_and_stop = mounted(lambda: full_disk_at_start_and_stop(binary, scratch, seed))
    runner.check("disk: full at stop and start", at_start_and_stop)
    runner.check("disk: the caps refuse before it is full", lambda: cap_refuses(binary, scratch, seed))
