"""Records the request bodies of every client as fixtures: `tests/fixtures/otlp`.

Each client runs once against the recording sink; `manifest.ndjson` beside the bodies says how each
was sent and how many rows the official protobuf messages read in it, `expected-spans.ndjson` what
its spans mean, so that a decoder's tests have values they did not compute themselves. Refuses to
leave a body behind in which this machine can be recognised.
"""

from __future__ import annotations

import argparse
import base64
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
from kept import meaning
from otlp_server import OtlpServer
from programs import CACHE, HERE
from recording_sink import RecordingSink
from wire_relay import spans_of

FIXTURES = HERE.parent / "fixtures" / "otlp"
HEX_IDS = ("traceId", "spanId", "parentSpanId")
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


def read_message(signal: str, body: bytes, is_json: bool) -> Any:
    """The body as the official messages read it."""
    message = MESSAGES[signal]()
    if is_json:
        json_format.ParseDict(_with_protobuf_ids(json.loads(body)), message, ignore_unknown_fields=True)
    else:
        message.ParseFromString(body)
    return message


def _with_protobuf_ids(node: Any) -> Any:
    """OTLP's JSON has hexadecimal ids where protobuf's own JSON has base64."""
    if isinstance(node, dict):
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode() if key in HEX_IDS else _with_protobuf_ids(value)
            for key, value in node.items()
        }
    return [_with_protobuf_ids(item) for item in node] if isinstance(node, list) else node


def rows_in(signal: str, message: Any) -> int:
    """Spans, data points or log records."""
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


def expected_spans(file: str, message: Any) -> list[dict[str, Any]]:
    """What the spans of a body mean, in wire order: the sender's reading, shared with no decoder of ours."""
    rows = []
    for row, span in enumerate(spans_of(message)):
        start, end = span.pop("start_unix_nano"), span.pop("end_unix_nano")
        resource, attributes = span.pop("resource"), span.pop("attributes")
        times = {"start_unix_nano": start, "duration_ns": end - start}
        service = {"service_name": resource.get("service.name"), "service_version": resource.get("service.version")}
        rows.append({"file": file, "row": row, **span, **times, **service, **meaning(attributes)})
    return rows


def recognisable() -> list[bytes]:
    """What must not be in a fixture."""
    words = [socket.gethostname(), str(Path.home()), str(HERE.parents[1]), str(CACHE), "site-packages"]
    return [word.encode() for word in words if len(word) > 3]


def describe(sink: RecordingSink, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line per body and a line per span, for the two NDJSON files beside the bodies."""
    described, spans = [], []
    for entry in sink.recorded:
        raw = (folder / str(entry["file"])).read_bytes()
        body = gzip.decompress(raw) if entry["content_encoding"] == "gzip" else raw
        for word in recognisable():
            if word in body:
                raise SystemExit(f"{entry['file']} contains {word!r}: configure the client so that it does not")
        message = read_message(str(entry["signal"]), body, "json" in str(entry["content_type"]))
        if entry["signal"] == "traces":
            spans += expected_spans(str(entry["file"]), message)
        described.append(
            {
                **entry,
                "version": client_version(str(entry["client"])),
                "rows": rows_in(str(entry["signal"]), message),
                "decompressed_bytes": len(body),
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        )
    return described, spans


def record(sink: RecordingSink) -> None:
    """Every client once, into the sink's folder."""
    for old in [*sink.folder.glob("*.pb*"), *sink.folder.glob("*.json")]:
        old.unlink()
    with OtlpServer(sink) as server, tempfile.TemporaryDirectory() as scratch:
        for client, count in COUNTS.items():
            sink.client = client
            command = [sys.executable, "-B", str(Path(__file__).with_name("drive.py")), client]
            command += ["--endpoint-grpc", server.grpc_endpoint, "--endpoint-http", server.http_endpoint]
            command += ["--count", str(count), "--out", str(Path(scratch) / client), "--service", "fixture"]
            command += ["--signals", "traces,metrics,logs" if client.startswith(ALL_SIGNALS) else "traces"]
            command += ["--no-errors"] if client in NO_ERRORS else []
            subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=FIXTURES)
    parser.add_argument("--describe", action="store_true", help="record nothing, describe anew what is there")
    options = parser.parse_args()
    sink = RecordingSink(options.dir)
    if options.describe:
        manifest = (options.dir / "manifest.ndjson").read_text(encoding="utf-8")
        sink.recorded = [json.loads(line) for line in manifest.splitlines()]
    else:
        record(sink)
    entries, spans = describe(sink, options.dir)
    for name, lines in (("manifest", entries), ("expected-spans", spans)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (options.dir / f"{name}.ndjson").write_text(text, encoding="utf-8")
    total = sum(int(str(entry["bytes"])) for entry in entries)
    print(f"{len(entries)} bodies, {total} bytes, {sum(int(str(e['rows'])) for e in entries)} rows")
    if total > MAX_BYTES:
        raise SystemExit(f"the fixtures are larger than {MAX_BYTES} bytes: lower the counts")


if __name__ == "__main__":
    main()
