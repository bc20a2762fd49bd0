"""Runs one client nobody here wrote against an OTLP endpoint, and keeps what it sent.

The uniform command line of all clients: `run <client> --endpoint-grpc … --endpoint-http …
--count N --out kept.ndjson`. Prints one JSON line with what was sent. Exit codes: 0 sent and
acknowledged, 1 not acknowledged, 2 wrong use, 77 a tool this client needs is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from client import EXIT_FAILED, EXIT_MISSING_TOOL, MissingTool, NotAcknowledged, Run
from kept import Kept

SDK = "opentelemetry-sdk"


@dataclass(frozen=True)
class Client:
    """Where a client's driver is, and which distribution's version names it."""

    module: str
    needs: str
    """`python`, `js` or `go`: the part of the installer that brings it."""
    version_of: str
    about: str


CLIENTS = {
    "otel-python-grpc": Client("otel_sdk", "python", SDK, "OpenTelemetry Python SDK, OTLP/gRPC"),
    "otel-python-http": Client("otel_sdk", "python", SDK, "OpenTelemetry Python SDK, OTLP/HTTP protobuf"),
    "otel-python-http-gzip": Client("otel_sdk", "python", SDK, "the same, gzip bodies"),
    "genai-openai": Client(
        "instrumented_openai",
        "python",
        "opentelemetry-instrumentation-genai-openai",
        "OpenTelemetry's OpenAI instrumentation (GenAI conventions)",
    ),
    "openinference-openai": Client(
        "instrumented_openai",
        "python",
        "openinference-instrumentation-openai",
        "OpenInference's OpenAI instrumentation",
    ),
    "openinference-langchain": Client(
        "langchain_chain",
        "python",
        "openinference-instrumentation-langchain",
        "a LangChain retrieval chain under OpenInference, offline",
    ),
    "pydantic-ai": Client("pydantic_agent", "python", "pydantic-ai-slim", "a Pydantic AI agent with its own TestModel"),
    "langfuse": Client("langfuse_sdk", "python", "langfuse", "the Langfuse SDK, at /api/public/otel/v1/traces"),
    "otel-js-proto": Client(
        "otel_js",
        "js",
        "@opentelemetry/exporter-trace-otlp-proto",
        "OpenTelemetry JS, OTLP/HTTP protobuf, chunked bodies",
    ),
    "otel-js-json": Client(
        "otel_js",
        "js",
        "@opentelemetry/exporter-trace-otlp-http",
        "OpenTelemetry JS, OTLP/HTTP JSON, chunked bodies",
    ),
    "telemetrygen-grpc": Client(
        "telemetrygen", "go", "telemetrygen", "telemetrygen over gRPC, seen through a byte-for-byte relay"
    ),
    "telemetrygen-http": Client("telemetrygen", "go", "telemetrygen", "the same over HTTP"),
    "collector": Client(
        "collector", "go", "otelcol", "OpenTelemetry Collector between the Python SDK and us, over gRPC"
    ),
    "collector-http": Client("collector", "go", "otelcol", "the same over HTTP with gzip"),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    listing = "\n".join(f"  {name:<24} {client.about}" for name, client in CLIENTS.items())
    parser = argparse.ArgumentParser(
        prog="run",
        description="Sends spans with a pinned client and writes what the sender kept.",
        epilog=f"clients:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("client", choices=[*CLIENTS, "list"], metavar="client", help="see below; `list` prints them")
    parser.add_argument("--endpoint-grpc", default="127.0.0.1:4317")
    parser.add_argument("--endpoint-http", default="http://127.0.0.1:4318")
    parser.add_argument("--count", type=int, default=100, help="spans; for instrumented libraries: calls")
    parser.add_argument("--out", type=Path, default=Path("kept.ndjson"), help="where the sender's spans go")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spread-seconds", type=float, default=150.0, help="span ends lie this far back at most")
    parser.add_argument("--service", default=None, help="service.name (default: the client's name)")
    parser.add_argument("--project", default=None, help="sent as x-pyflare-project")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="another request header")
    parser.add_argument("--signals", default="traces", help="comma-separated: traces,metrics,logs")
    parser.add_argument("--no-errors", action="store_true", help="leave out calls whose failure records a stack trace")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse(sys.argv[1:])
    if options.client == "list":
        for name, client in CLIENTS.items():
            print(f"{name}\t{client.needs}\t{client.about}")
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    # Says so for every attribute beyond a span's limit; the long conversations are sent to exceed it.
    logging.getLogger("opentelemetry.attributes").setLevel(logging.ERROR)
    client = CLIENTS[options.client]
    kept = Kept(options.out, options.client, options.project or "default")
    run = Run(
        client=options.client,
        endpoint_grpc=options.endpoint_grpc,
        endpoint_http=options.endpoint_http.rstrip("/"),
        count=options.count,
        kept=kept,
        seed=options.seed,
        spread_seconds=options.spread_seconds,
        service=options.service or options.client,
        project=options.project,
        headers=dict(pair.split("=", 1) for pair in options.header),
        signals=frozenset(options.signals.split(",")),
        errors=not options.no_errors,
    )
    started = time.monotonic()
    try:
        importlib.import_module(client.module).run(run)
    except MissingTool as missing:
        print(f"{options.client}: {missing}", file=sys.stderr)
        return EXIT_MISSING_TOOL
    except NotAcknowledged as failure:
        print(f"{options.client}: {failure}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        kept.close()
    print(json.dumps({"client": options.client, "spans": kept.spans, "seconds": round(time.monotonic() - started, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
