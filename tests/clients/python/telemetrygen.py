"""The Collector project's `telemetrygen`, seen through a byte-for-byte relay.

It makes traces of a root and one child; an odd `count` is rounded up to the next even number.
"""

from __future__ import annotations

import subprocess

from client import NotAcknowledged, Run
from programs import program
from wire_relay import WireRelay

CHILDREN = 1
TIMEOUT_SECONDS = 120


def run(run: Run) -> None:
    relay = WireRelay(run)
    with relay.server() as server:
        over_http = run.client.endswith("-http")
        endpoint = f"127.0.0.1:{server.http_port}" if over_http else server.grpc_endpoint
        transport = ["--otlp-insecure", "--otlp-endpoint", endpoint] + (["--otlp-http"] if over_http else [])
        labels = [f"--service={run.service}", "--rate=0", "--workers=1"]
        for signal in ("traces", "metrics", "logs"):
            if signal not in run.signals:
                continue
            amount = ["--traces", str((run.count + CHILDREN) // (1 + CHILDREN))] if signal == "traces" else []
            if signal == "traces":
                amount += ["--child-spans", str(CHILDREN), "--span-duration", "1ms", "--status-code", "Ok"]
            else:
                amount = [f"--{signal}", str(run.count)]
            finished = subprocess.run(
                [str(program("telemetrygen")), signal, *transport, *labels, *amount],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
            if finished.returncode or relay.refused:
                raise NotAcknowledged(f"telemetrygen {signal}: {relay.refused} {finished.stderr[-2000:]}")
