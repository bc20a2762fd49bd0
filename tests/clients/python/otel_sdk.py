"""The OpenTelemetry Python SDK with its stock exporters, over gRPC and HTTP.

Sends the known workload as traces; on request also one of every metric kind and GenAI log
events. `setup_traces` is what the other Python clients build their provider with.
"""

from __future__ import annotations

import time

from opentelemetry import metrics, trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

from client import NotAcknowledged, Run
from kept import KeepingExporter, Kept
from workload import PlannedSpan, traces

EXPORT_TIMEOUT_SECONDS = 30


def resource(run: Run) -> Resource:
    """Says nothing about the machine: no host, process or path detector runs."""
    return Resource.create(
        {
            "service.name": run.service,
            "service.version": "1.4.0",
            "service.instance.id": "instance-1",
            "deployment.environment.name": "test",
        }
    )


def span_exporter(run: Run) -> SpanExporter:
    if run.client.endswith("-grpc"):
        return GrpcSpans(
            endpoint=run.endpoint_grpc,
            insecure=True,
            headers=run.all_headers,
            timeout=EXPORT_TIMEOUT_SECONDS,
        )
    return HttpSpans(
        endpoint=f"{run.endpoint_http}/v1/traces",
        headers=run.all_headers,
        timeout=EXPORT_TIMEOUT_SECONDS,
        compression=_compression(run),
    )


def _compression(run: Run) -> Compression:
    return Compression.Gzip if run.client.endswith("-gzip") else Compression.NoCompression


class Traces:
    """A tracer provider whose acknowledged spans are kept."""

    def __init__(self, run: Run, exporter: SpanExporter | None = None) -> None:
        self.exporter = KeepingExporter(exporter or span_exporter(run), run.kept)
        self.provider = TracerProvider(resource=resource(run))
        self.provider.add_span_processor(
            BatchSpanProcessor(self.exporter, max_queue_size=65_536, schedule_delay_millis=200)
        )

    def finish(self) -> None:
        """Flushes; raises if a batch was not acknowledged."""
        flushed = self.provider.force_flush(60_000)
        self.provider.shutdown()
        check(flushed, self.exporter, self.exporter_kept)

    @property
    def exporter_kept(self) -> Kept:
        return self.exporter._kept


def check(flushed: bool, exporter: KeepingExporter, kept: Kept) -> None:
    if exporter.failed_batches or not flushed:
        raise NotAcknowledged(f"{exporter.failed_batches} batches were not acknowledged, {kept.spans} spans were")


def run(run: Run) -> None:
    if "traces" in run.signals:
        _send_traces(run)
    if "metrics" in run.signals:
        _send_metrics(run)
    if "logs" in run.signals:
        _send_logs(run)


def _send_traces(run: Run) -> None:
    sending = Traces(run)
    tracer = sending.provider.get_tracer("support-agent", "0.3.1")
    previous_root = None
    for planned in traces(run.count, run.seed, run.spread_seconds):
        previous_root = _send_trace(tracer, planned, previous_root)
    sending.finish()


def _send_trace(
    tracer: trace.Tracer, planned: list[PlannedSpan], previous_root: trace.SpanContext | None
) -> trace.SpanContext:
    """Starts every span at its planned time and ends it at its own; returns the root's context."""
    started: list[trace.Span] = []
    for span in planned:
        parent = None if span.parent is None else set_span_in_context(started[span.parent])
        links = [Link(previous_root, {"reason": "follows"})] if span.parent is None and previous_root else None
        opened = tracer.start_span(
            span.name,
            context=parent,
            kind=SpanKind[span.kind.upper()],
            attributes=span.attributes,
            links=links,
            start_time=span.start_unix_nano,
        )
        for name, at, attributes in span.events:
            opened.add_event(name, attributes, timestamp=at)
        if span.error:
            opened.set_status(Status(StatusCode.ERROR, span.error))
        started.append(opened)
    for opened, span in reversed(list(zip(started, planned, strict=True))):
        opened.end(end_time=span.end_unix_nano)
    return started[0].get_span_context()


def _send_metrics(run: Run) -> None:
    exporter = (
        GrpcMetrics(endpoint=run.endpoint_grpc, insecure=True, headers=run.all_headers)
        if run.client.endswith("-grpc")
        else HttpMetrics(
            endpoint=f"{run.endpoint_http}/v1/metrics", headers=run.all_headers, compression=_compression(run)
        )
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    exponential = View(
        instrument_type=Histogram,
        instrument_name="gen_ai.client.operation.duration",
        aggregation=ExponentialBucketHistogramAggregation(),
    )
    provider = MeterProvider(metric_readers=[reader], resource=resource(run), views=[exponential])
    meter = provider.get_meter("support-agent", "0.3.1")
    requests = meter.create_counter("requests", "{request}", "Requests handled")
    active = meter.create_up_down_counter("requests.active", "{request}")
    tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}")
    duration = meter.create_histogram("gen_ai.client.operation.duration", "s")
    gauge = meter.create_gauge("queue.depth", "{item}")
    meter.create_observable_gauge(
        "process.uptime", callbacks=[lambda _: [metrics.Observation(12.5, {"region": "eu"})]], unit="s"
    )
    for number in range(max(run.count, 1)):
        labels = {"gen_ai.request.model": f"model-{number % 3}", "gen_ai.operation.name": "chat"}
        requests.add(1, labels)
        active.add(1 if number % 2 else -1, labels)
        tokens.record(10 + number * 7 % 500, labels | {"gen_ai.token.type": "input"})
        duration.record(0.05 * (1 + number % 40), labels)
        gauge.set(number % 17, {"queue": "inbound"})
    if not provider.force_flush(60_000):
        raise NotAcknowledged("the metrics were not acknowledged")
    provider.shutdown()


def _send_logs(run: Run) -> None:
    exporter = (
        GrpcLogs(endpoint=run.endpoint_grpc, insecure=True, headers=run.all_headers)
        if run.client.endswith("-grpc")
        else HttpLogs(endpoint=f"{run.endpoint_http}/v1/logs", headers=run.all_headers, compression=_compression(run))
    )
    provider = LoggerProvider(resource=resource(run))
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logger = provider.get_logger("support-agent", "0.3.1")
    for number in range(max(run.count, 1)):
        logger.emit(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body={"message": f"handled request {number}", "steps": [1, 2, number]},
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": f"model-{number % 3}",
                "gen_ai.input.messages": [
                    {"role": "user", "parts": [{"type": "text", "content": f"question {number}"}]}
                ],
                "gen_ai.usage.input_tokens": 10 + number,
                "raw": bytes([0, number % 256, 255]),
            },
            event_name="gen_ai.client.inference.operation.details",
        )
    if not provider.force_flush(60_000):
        raise NotAcknowledged("the logs were not acknowledged")
    provider.shutdown()
