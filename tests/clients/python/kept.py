"""What the sender keeps of the spans that were acknowledged.

Models the sender's side of the exact check: one JSON line per span, written only after the
exporter reported success, with the meaning (model, tokens) read from the client's own
attributes by the documented precedence of the conventions. Nothing here is shared with the
server; the oracle computes from these lines what a view must contain.

A line: trace_id, span_id, parent_span_id (null for a root), name, kind, start_unix_nano,
end_unix_nano, status (`unset`, `ok`, `error`), status_message, project, service_name,
model_requested, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
reasoning_tokens (null where the span says nothing), attributes, resource, client.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

# The first key with a value wins: GenAI conventions newest first, then OpenInference, then
# the vendors' own.
MODEL_REQUESTED = ("gen_ai.request.model", "llm.request.model_name")
MODEL_SERVED = (
    "gen_ai.response.model",
    "llm.response.model_name",
    "llm.model_name",
    "embedding.model_name",
    "reranker.model_name",
    # What pydantic-ai calls it on its agent spans.
    "model_name",
    "langfuse.observation.model.name",
)
TOKENS = {
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    "output_tokens": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cache_read_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_write_tokens": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
}
LANGFUSE_USAGE = "langfuse.observation.usage_details"


def meaning(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Model and token counts of a span, totals inclusive of their cached and reasoning parts."""

    def first(keys: Sequence[str]) -> Any:
        return next((attributes[key] for key in keys if attributes.get(key) not in (None, "")), None)

    requested = first(MODEL_REQUESTED) or _invocation_model(attributes)
    found: dict[str, Any] = {
        "model_requested": requested,
        "model": first(MODEL_SERVED) or requested,
    }
    for column, keys in TOKENS.items():
        value = first(keys)
        found[column] = None if value is None else int(value)
    if LANGFUSE_USAGE in attributes:
        found.update(_langfuse_tokens(json.loads(attributes[LANGFUSE_USAGE]), found))
    return found


def _invocation_model(attributes: Mapping[str, Any]) -> str | None:
    """The model in OpenInference's request parameters, which are a JSON text."""
    parameters = json.loads(attributes.get("llm.invocation_parameters") or "{}")
    model = parameters.get("model") if isinstance(parameters, dict) else None
    return model if isinstance(model, str) and model else None


def _langfuse_tokens(usage: Mapping[str, int], found: Mapping[str, Any]) -> dict[str, Any]:
    """Langfuse states disjoint buckets: totals are sums over the buckets of one side."""

    def total(*prefixes: str) -> int | None:
        parts = [count for bucket, count in usage.items() if bucket.startswith(prefixes)]
        return sum(parts) if parts else None

    buckets = {
        "input_tokens": total("input", "cache_read_input", "cache_creation_input"),
        "output_tokens": total("output"),
        "cache_read_tokens": total("input_cached", "cache_read_input"),
        "cache_write_tokens": total("input_cache_creation", "cache_creation_input"),
        "reasoning_tokens": total("output_reasoning"),
    }
    return {column: count for column, count in buckets.items() if found[column] is None}


class Kept:
    """The NDJSON file; safe to use from an exporter's thread."""

    def __init__(self, path: Path, client: str, project: str = "default") -> None:
        self.client = client
        self.project = project
        self.spans = 0
        self._lock = threading.Lock()
        self._file = path.open("w", encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Writes one span; `attributes` and `resource` must be in the line."""
        full = {"client": self.client, "project": self.project, **line}
        full["service_name"] = line["resource"].get("service.name")
        full.update(meaning(line["attributes"]))
        with self._lock:
            self._file.write(json.dumps(full, ensure_ascii=False, default=_as_text) + "\n")
            self.spans += 1

    def add_sdk_span(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None:
            raise ValueError("invariant: an ended span has a context")
        parent = span.parent
        self.add(
            {
                "trace_id": f"{context.trace_id:032x}",
                "span_id": f"{context.span_id:016x}",
                "parent_span_id": f"{parent.span_id:016x}" if parent else None,
                "name": span.name,
                "kind": span.kind.name.lower(),
                "start_unix_nano": span.start_time,
                "end_unix_nano": span.end_time,
                "status": span.status.status_code.name.lower(),
                "status_message": span.status.description,
                "attributes": dict(span.attributes or {}),
                "resource": dict(span.resource.attributes),
            }
        )

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _as_text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


class KeepingExporter(SpanExporter):
    """A stock exporter that notes each batch once it was acknowledged."""

    def __init__(self, exporter: SpanExporter, kept: Kept) -> None:
        self._exporter = exporter
        self._kept = kept
        self.failed_batches = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            for span in spans:
                self._kept.add_sdk_span(span)
        else:
            self.failed_batches += 1
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All lines of kept files."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
