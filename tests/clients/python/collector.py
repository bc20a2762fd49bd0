"""The OpenTelemetry Collector between the Python SDK and the endpoint under test.

The SDK sends to the Collector, which batches anew and forwards over gRPC or over HTTP with gzip.
The Collector acknowledges before it has forwarded, so this driver ends it in an orderly way (it
drains its queue then) and believes its exit and its log, not the SDK's success alone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import replace

import otel_sdk
from client import NotAcknowledged, Run
from programs import HERE, program

READY_SECONDS = 20
DRAIN_SECONDS = 60
LOST = ("Dropping data", "Exporting failed", "rejected")


def run(run: Run) -> None:
    forwarding = "otlphttp" if run.client.endswith("-http") else "otlp"
    grpc_port, http_port = _free_port(), _free_port()
    environment = os.environ | {
        "RECEIVE_GRPC": f"127.0.0.1:{grpc_port}",
        "RECEIVE_HTTP": f"127.0.0.1:{http_port}",
        "FORWARD_GRPC": run.endpoint_grpc,
        "FORWARD_HTTP": run.endpoint_http,
        "FORWARD_WITH": forwarding,
        "PROJECT": run.project or "default",
    }
    collector = subprocess.Popen(
        [str(program("otelcol")), "--config", str(HERE / "go" / "collector.yaml")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for(grpc_port, collector)
        otel_sdk.run(
            replace(
                run,
                client="collector-grpc",
                endpoint_grpc=f"127.0.0.1:{grpc_port}",
                endpoint_http=f"http://127.0.0.1:{http_port}",
            )
        )
        collector.send_signal(signal.SIGTERM)
        log, _ = collector.communicate(timeout=DRAIN_SECONDS)
    finally:
        if collector.poll() is None:
            collector.kill()
            collector.wait()
    losses = [line for line in log.splitlines() if any(word in line for word in LOST)]
    if collector.returncode or losses:
        raise NotAcknowledged(f"the Collector ended with {collector.returncode}: {losses or log[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _output(collector: subprocess.Popen[str]) -> str:
    return collector.stdout.read()[-2000:] if collector.stdout else ""


def _wait_for(port: int, collector: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if collector.poll() is not None:
            raise NotAcknowledged(f"the Collector did not start: {_output(collector)}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise NotAcknowledged(f"the Collector was not ready within {READY_SECONDS} s")
