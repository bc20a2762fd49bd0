"""The Langfuse SDK with its own exporter settings: path, Basic authentication, headers.

Its exporter is built here as the SDK builds it (same class, path and headers), only wrapped so
that acknowledged spans are kept.
"""

from __future__ import annotations

import base64
import os

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider

from client import Run
from elaborate import elaborated
from kept import KeepingExporter
from otel_sdk import check, resource

PUBLIC_KEY = "pk-lf-test"
SECRET_KEY = "sk-lf-test"


def run(run: Run) -> None:
    # The SDK would otherwise look for its own service beside the traces.
    os.environ["LANGFUSE_MEDIA_UPLOAD_ENABLED"] = "false"
    from langfuse import Langfuse, propagate_attributes

    credentials = base64.b64encode(f"{PUBLIC_KEY}:{SECRET_KEY}".encode()).decode()
    exporter = KeepingExporter(
        OTLPSpanExporter(
            endpoint=f"{run.endpoint_http}/api/public/otel/v1/traces",
            headers={
                "Authorization": f"Basic {credentials}",
                "x-langfuse-sdk-name": "python",
                "x-langfuse-ingestion-version": "4",
                **run.all_headers,
            },
            timeout=30,
        ),
        run.kept,
    )
    provider = TracerProvider(resource=resource(run))
    langfuse = Langfuse(
        public_key=PUBLIC_KEY,
        secret_key=SECRET_KEY,
        base_url=run.endpoint_http,
        environment="test",
        release="1.4.0",
        tracer_provider=provider,
        span_exporter=exporter,
    )
    for number in range(run.count):
        with (
            langfuse.start_as_current_observation(
                as_type="span", name="answer", input={"question": elaborated(str(number), number)}
            ),
            propagate_attributes(user_id=f"user-{number % 7}", session_id=f"session-{number % 3}", tags=["help"]),
        ):
            with langfuse.start_as_current_observation(
                as_type="generation",
                name="draft",
                model="atlas-small",
                model_parameters={"temperature": 0.2},
                input=[{"role": "user", "content": elaborated(f"question {number}", number)}],
            ) as generation:
                failing = run.errors and number % 8 == 7
                generation.update(
                    output=None if failing else elaborated(f"answer {number}", number),
                    level="ERROR" if failing else None,
                    status_message="rate limited" if failing else None,
                    usage_details={"input": 100 + number, "output": 40, "cache_read_input_tokens": 64},
                    cost_details={"input": 0.01, "output": 0.02},
                )
            with langfuse.start_as_current_observation(as_type="tool", name="lookup") as lookup:
                lookup.update(output={"found": True})
    langfuse.flush()
    flushed = provider.force_flush(60_000)
    provider.shutdown()
    check(flushed, exporter, run.kept)
