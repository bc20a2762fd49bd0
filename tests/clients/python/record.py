"""Records the request bodies of every client as fixtures: `tests/fixtures/otlp`.

Each client runs once against the recording sink; `manifest.ndjson` beside the bodies says how each
was sent and what the official protobuf messages read in it (rows), so that
a decoder's tests have a count they did not compute themselves. Refuses to leave a body behind in
which this machine can be recognised.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from drive import CLIENTS
from otlp_server import OtlpServer
from programs import CACHE, HERE
from recording_sink import RecordingSink

FIXTURES = HERE.parent / "fixtures" / "otlp"
MAX_BYTES = 2_000_000
COUNTS = {
    "otel-python-grpc": 200,
    "otel-python-http": 60,
    "otel-python-http-gzip": 60,
    "genai-openai": 24,
    "openinference-openai": 16,
    "openinference-langchain": 6,
    "pydantic-ai": 4,
    "langfuse": 16,
    "otel-js-proto": 60,
    "otel-js-json": 60,
    "telemetrygen-grpc": 40,
    "telemetrygen-http": 20,
    "collector": 200,
    "collector-http": 100,
}
ALL_SIGNALS = ("otel-", "telemetrygen", "collector")
# Their instrumentation writes the stack trace of a failed call, with the paths of the machine.
NO_ERRORS = ("openinference-openai",)
MESSAGES: dict[str, Any] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}


def client_version(client: str) -> str:
    distribution = CLIENTS[client].version_of
    if CLIENTS[client].needs == "js":
        return str(json.loads((CACHE / "js/node_modules" / distribution / "package.json").read_text())["version"])
    if CLIENTS[client].needs == "go":
        return "v0.155.0"
    return version(distribution)


def rows_in(signal: str, body: bytes, is_json: bool) -> int:
    """Spans, data points or log records, as the official messages count them."""
    message = MESSAGES[signal]()
    if is_json:
        _parse_otlp_json(json.loads(body), message)
    else:
        message.ParseFromString(body)
    if signal == "traces":
        return sum(len(s.spans) for r in message.resource_spans for s in r.scope_spans)
    if signal == "logs":
        return sum(len(s.log_records) for r in message.resource_logs for s in r.scope_logs)
    return sum(
        len(getattr(metric, metric.WhichOneof("data")).data_points)
        for r in message.resource_metrics
        for s in r.scope_metrics
        for metric in s.metrics
    )


def _parse_otlp_json(value: object, message: object) -> None:
    """OTLP's JSON has hex ids where protobuf's has base64; row counts do not need them."""

    def without_ids(node: object) -> object:
        if isinstance(node, dict):
            return {k: without_ids(v) for k, v in node.items() if k not in ("traceId", "spanId", "parentSpanId")}
        return [without_ids(item) for item in node] if isinstance(node, list) else node

    json_format.ParseDict(without_ids(value), message, ignore_unknown_fields=True)


def recognisable() -> list[bytes]:
    """What must not be in a fixture."""
    words = [socket.gethostname(), str(Path.home()), str(HERE.parents[1]), str(CACHE), "site-packages"]
    return [word.encode() for word in words if len(word) > 3]


def describe(sink: RecordingSink, folder: Path) -> list[dict[str, object]]:
    described = []
    for entry in sink.recorded:
        raw = (folder / str(entry["file"])).read_bytes()
        body = gzip.decompress(raw) if entry["content_encoding"] == "gzip" else raw
        for word in recognisable():
            if word in body:
                raise SystemExit(f"{entry['file']} contains {word!r}: configure the client so that it does not")
        is_json = "json" in str(entry["content_type"])
        described.append(
            {
                **entry,
                "version": client_version(str(entry["client"])),
                "rows": rows_in(str(entry["signal"]), body, is_json),
                "decompressed_bytes": len(body),
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        )
    return described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=FIXTURES)
    options = parser.parse_args()
    for old in [*options.dir.glob("*.pb*"), *options.dir.glob("*.json")]:
        old.unlink()
    sink = RecordingSink(options.dir)
    with OtlpServer(sink) as server, tempfile.TemporaryDirectory() as scratch:
        for client, count in COUNTS.items():
            sink.client = client
            command = [sys.executable, "-B", str(Path(__file__).with_name("drive.py")), client]
            command += ["--endpoint-grpc", server.grpc_endpoint, "--endpoint-http", server.http_endpoint]
            command += ["--count", str(count), "--out", str(Path(scratch) / client), "--service", "fixture"]
            command += ["--signals", "traces,metrics,logs" if client.startswith(ALL_SIGNALS) else "traces"]
            command += ["--no-errors"] if client in NO_ERRORS else []
            subprocess.run(command, check=True)
    entries = describe(sink, options.dir)
    (options.dir / "manifest.ndjson").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    total = sum(int(str(entry["bytes"])) for entry in entries)
    print(f"{len(entries)} bodies, {total} bytes, {sum(int(str(e['rows'])) for e in entries)} rows")
    if total > MAX_BYTES:
        raise SystemExit(f"the fixtures are larger than {MAX_BYTES} bytes: lower the counts")


if __name__ == "__main__":
    main()
