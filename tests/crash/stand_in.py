"""A stand-in for the server, only to prove that the crash driver finds faults.

Keeps the promises the driver checks in the simplest way (one file of admitted spans, DuckDB for
the rest) and breaks one of them on request: FAULT names which. It is no part of the product and
nothing but the driver's own test runs it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "clients" / "python")]

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402

from otlp_server import OtlpServer, Request, Response  # noqa: E402
from wire_relay import spans_of  # noqa: E402

FAULTS = {
    "none": "keeps every promise",
    "acknowledge-before-write": "a batch is written 0.3 s after it was acknowledged",
    "lose-tail": "a restart drops the last batch",
    "replay-twice": "a restart puts the last batch into the store once more",
    "forget-hashes": "a restart forgets which bodies were admitted",
    "view-forgets": "a restart rebuilds the views without the last batch",
    "view-counts-resent": "the views count a body that is sent again",
    "failing-stop": "an orderly stop ends with 1",
}
GROUP = "project, service_name, model, minute"
VIEWS = {
    "requests": "count(*) AS requests",
    "errors": "count(*) FILTER (status = 'error') AS errors, count(*) AS requests, errors / requests AS error_rate",
    "latency": ", ".join(
        f"quantile_cont(duration_ms, {quantile}) AS {name}"
        for name, quantile in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p95_ms", 0.95), ("p99_ms", 0.99))
    )
    + ", avg(duration_ms) AS avg_ms",
    "tokens": "sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens, "
    "0 AS cache_read_tokens, 0 AS cache_write_tokens, 0 AS reasoning_tokens",
}
COLUMNS = (
    "{batch: 'VARCHAR', counted: 'BOOLEAN', stored: 'BOOLEAN', project: 'VARCHAR', service_name: 'VARCHAR', "
    "model: 'VARCHAR', span_id: 'VARCHAR', status: 'VARCHAR', minute: 'BIGINT', duration_ms: 'DOUBLE', "
    "input_tokens: 'BIGINT', output_tokens: 'BIGINT'}"
)


class StandIn:
    """The admitted spans, one JSON line each, in admission order."""

    def __init__(self, folder: Path, fault: str) -> None:
        self.fault = fault
        self.file = folder / "admitted.ndjson"
        self.lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.file.touch()
        lines = [json.loads(line) for line in self.file.read_text().splitlines() if line.endswith("}")]
        restarted = bool(lines)
        tail = [line for line in lines if line["batch"] == lines[-1]["batch"]] if lines else []
        if restarted and fault == "lose-tail":
            lines = [line for line in lines if line not in tail]
        if restarted and fault == "replay-twice":
            lines += [{**line, "counted": False} for line in tail]
        if restarted and fault == "view-forgets":
            lines = [{**line, "counted": line["counted"] and line not in tail} for line in lines]
        replacement = self.file.with_suffix(".new")
        replacement.write_text("".join(json.dumps(line) + "\n" for line in lines))
        replacement.replace(self.file)
        self.admitted = set() if fault == "forget-hashes" else {line["batch"] for line in lines}

    def export(self, request: Request) -> Response:
        body = gzip.decompress(request.body) if request.content_encoding == "gzip" else request.body
        batch = hashlib.sha256(body).hexdigest()[:32]
        with self.lock:
            resent = batch in self.admitted
            self.admitted.add(batch)
            if not resent or self.fault == "view-counts-resent":
                rows = [
                    self._row(batch, span, stored=not resent)
                    for span in spans_of(ExportTraceServiceRequest.FromString(body))
                ]
                if self.fault == "acknowledge-before-write":
                    threading.Timer(0.3, self._append, (rows,)).start()
                else:
                    self._append(rows)
        return Response()

    def _append(self, rows: list[dict[str, Any]]) -> None:
        with self.file.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    @staticmethod
    def _row(batch: str, span: dict[str, Any], stored: bool) -> dict[str, Any]:
        attributes = span["attributes"]
        return {
            "batch": batch,
            "counted": True,
            "stored": stored,
            "project": "default",
            "service_name": span["resource"]["service.name"],
            "model": attributes.get("gen_ai.request.model"),
            "span_id": span["span_id"],
            "status": span["status"],
            "minute": span["end_unix_nano"] // 60_000_000_000,
            "duration_ms": (span["end_unix_nano"] - span["start_unix_nano"]) / 1e6,
            "input_tokens": attributes.get("gen_ai.usage.input_tokens"),
            "output_tokens": attributes.get("gen_ai.usage.output_tokens"),
        }

    def query(self, query: str) -> dict[str, Any]:
        database = duckdb.connect()
        with self.lock:
            content = self.file.read_text()
        source = self.file.with_suffix(f".{threading.get_ident()}")
        source.write_text(content)
        database.execute(
            f"CREATE TABLE admitted AS FROM read_json('{source}', format = 'newline_delimited', columns = {COLUMNS})"
        )
        source.unlink()
        result = database.execute(query)
        columns = [{"name": column[0], "type": str(column[1])} for column in result.description]
        rows = [list(row) for row in result.fetchall()]
        return {"columns": columns, "rows": rows, "row_count": len(rows), "truncated": False}

    def sql(self, query: str) -> dict[str, Any]:
        return self.query(re.sub(r"history\.spans", "(FROM admitted WHERE stored)", query))

    def view(self, name: str) -> dict[str, Any]:
        grouped = f"SELECT {GROUP}, {VIEWS[name]} FROM admitted WHERE counted GROUP BY {GROUP}"
        times = ", ".join(
            f"strftime(make_timestamp((minute + {offset}) * 60000000), '%Y-%m-%dT%H:%M:%SZ') AS {column}"
            for offset, column in enumerate(("window_start", "window_end"))
        )
        return self.query(f"SELECT * EXCLUDE (minute), {times} FROM ({grouped})")


def api_handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            view = re.match(r"/api/v1/views/(\w+)", self.path)
            self._json(stand_in.view(view[1]) if view else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._json(stand_in.sql(body["query"]))

        def _json(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Api


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--checkpoints-seconds")
    for listener in ("otlp-grpc", "otlp-http", "api"):
        parser.add_argument(f"--listen-{listener}")
    options = parser.parse_args()
    fault = os.environ.get("FAULT", "none")
    stand_in = StandIn(options.data_dir, fault)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    api = ThreadingHTTPServer(("127.0.0.1", 0), api_handler(stand_in))
    api.daemon_threads = True
    threading.Thread(target=api.serve_forever, daemon=True).start()
    with OtlpServer(stand_in.export) as otlp:
        endpoints = {
            "pid": os.getpid(),
            "otlp_grpc": otlp.grpc_endpoint,
            "otlp_http": f"127.0.0.1:{otlp.http_port}",
            "api": f"127.0.0.1:{api.server_address[1]}",
        }
        (options.data_dir / "endpoints.json").write_text(json.dumps(endpoints))
        stop.wait()
    time.sleep(0.4)
    return 1 if fault == "failing-stop" else 0


if __name__ == "__main__":
    sys.exit(main())
