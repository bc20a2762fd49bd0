"""Starts the OpenTelemetry JS client and takes over the lines it kept."""

from __future__ import annotations

import json
import subprocess

from client import NotAcknowledged, Run
from programs import HERE, node
from workload import traces

TIMEOUT_SECONDS = 120


def run(run: Run) -> None:
    executable, packages = node()
    planned = [
        [
            {
                "name": span.name,
                "kind": span.kind,
                "parent": span.parent,
                "start": str(span.start_unix_nano),
                "end": str(span.end_unix_nano),
                "attributes": span.attributes,
                "error": span.error,
            }
            for span in trace
        ]
        for trace in traces(run.count, run.seed, run.spread_seconds)
    ]
    order = {
        "packages": str(packages),
        "encoding": "json" if run.client.endswith("-json") else "protobuf",
        "endpoint": run.endpoint_http,
        "headers": run.all_headers,
        "service": run.service,
        "signals": sorted(run.signals),
        "count": run.count,
        "traces": planned,
    }
    finished = subprocess.run(
        [executable, str(HERE / "js" / "otel_sdk.mjs")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    for line in finished.stdout.splitlines():
        run.kept.add(json.loads(line))
    if finished.returncode:
        raise NotAcknowledged(f"the JS client failed: {finished.stderr[-2000:]}")
