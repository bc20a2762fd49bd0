"""Records the benchmark corpus *real*: `operators/src/corpus/recorded.pb`.

The instrumented LLM clients run with long questions (see `elaborate`) against the recording sink;
their request bodies, one behind the other, are one valid request. Refuses to leave a file behind
in which this machine can be recognised.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otlp_server import OtlpServer
from programs import HERE
from record import NO_ERRORS, recognisable
from recording_sink import RecordingSink

CORPUS = HERE.parents[1] / "operators" / "src" / "corpus" / "recorded.pb"
# (client, calls, words of a question, service)
RUNS = (
    ("genai-openai", 32, 420, "support-desk"),
    ("openinference-openai", 20, 300, "order-desk"),
    ("openinference-langchain", 8, 300, "manuals"),
    ("pydantic-ai", 6, 250, "concierge"),
    ("langfuse", 14, 450, "claims"),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        sink = RecordingSink(Path(scratch))
        with OtlpServer(sink) as server:
            for client, count, words, service in RUNS:
                sink.client = client
                command = [sys.executable, "-B", str(Path(__file__).with_name("drive.py")), client]
                command += ["--endpoint-grpc", server.grpc_endpoint, "--endpoint-http", server.http_endpoint]
                command += ["--count", str(count), "--out", str(Path(scratch) / f"{client}.kept")]
                command += ["--service", service, "--signals", "traces"]
                command += ["--no-errors"] if client in NO_ERRORS else []
                subprocess.run(command, check=True, env=os.environ | {"CLIENT_TEXT_WORDS": str(words)})
        body = b"".join((Path(scratch) / str(entry["file"])).read_bytes() for entry in sink.recorded)
    for word in recognisable():
        if word in body:
            raise SystemExit(f"the corpus contains {word!r}: configure the client so that it does not")
    message = ExportTraceServiceRequest.FromString(body)
    spans = sum(len(s.spans) for r in message.resource_spans for s in r.scope_spans)
    CORPUS.parent.mkdir(exist_ok=True)
    CORPUS.write_bytes(body)
    print(f"{spans} spans, {len(body)} bytes, {len(body) // spans} a span")


if __name__ == "__main__":
    main()
