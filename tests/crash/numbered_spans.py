"""Numbered spans, sent by several threads through crashes, and what became of them.

Models the sender's side of the promise "acknowledged means there, once". A batch is built once
and sent as the very same bytes until it is acknowledged, over OTLP/HTTP (plain or gzip) or
OTLP/gRPC; some batches are sent a single time and may be lost; some acknowledged ones are sent
again and must not count twice.
"""

from __future__ import annotations

import gzip
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from server import Endpoints

SERVICE = "crash-driver"
MODELS = ("atlas-large", "atlas-small", "borealis-7b")
GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
BATCH_SPANS = (1, 100)
SENT_ONCE_SHARE = 0.05
SENT_AGAIN_SHARE = 0.05
ERROR_EVERY = 17
SEND_TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 0.1

EndpointsNow = Callable[[], Endpoints | None]


@dataclass
class Batch:
    """Spans `first … last`, the request body that carries them and whether it was acknowledged."""

    first: int
    last: int
    body: bytes
    lines: list[dict[str, Any]]
    transport: str
    acknowledged: bool = False


def span_id(number: int) -> str:
    return f"{number + 1:016x}"


def build(first: int, last: int, source: random.Random) -> Batch:
    """A request with the spans of these numbers, ending now."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.append(_text("service.name", SERVICE))
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "numbered"
    lines = []
    for number in range(first, last + 1):
        end = time.time_ns()
        start = end - source.randrange(1_000_000, 2_000_000_000)
        model = MODELS[number % len(MODELS)]
        tokens = (1 + number % 997, 1 + number % 101)
        failed = number % ERROR_EVERY == 0
        span = Span(
            trace_id=(number // 10 + 1).to_bytes(16, "big"),
            span_id=bytes.fromhex(span_id(number)),
            name=f"numbered {number}",
            kind=Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=start,
            end_time_unix_nano=end,
        )
        span.status.code = Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET
        span.attributes.extend(
            [
                _text("gen_ai.operation.name", "chat"),
                _text("gen_ai.request.model", model),
                _number("gen_ai.usage.input_tokens", tokens[0]),
                _number("gen_ai.usage.output_tokens", tokens[1]),
            ]
        )
        scope_spans.spans.append(span)
        lines.append(
            {
                "span_id": span_id(number),
                "project": "default",
                "service_name": SERVICE,
                "model": model,
                "status": "error" if failed else "unset",
                "start_unix_nano": start,
                "end_unix_nano": end,
                "input_tokens": tokens[0],
                "output_tokens": tokens[1],
            }
        )
    transport = source.choice(("http", "http-gzip", "grpc"))
    return Batch(first, last, request.SerializeToString(), lines, transport)


def _text(key: str, value: str) -> KeyValue:
    pair = KeyValue(key=key)
    pair.value.string_value = value
    return pair


def _number(key: str, value: int) -> KeyValue:
    pair = KeyValue(key=key)
    pair.value.int_value = value
    return pair


class Senders:
    """Threads that send until told to stop; afterwards `batches` says what became of each."""

    def __init__(self, endpoints: EndpointsNow, seed: int, threads: int, spans_per_second: int) -> None:
        self.batches: list[Batch] = []
        self.sent_again = 0
        self.retries = 0
        self._endpoints = endpoints
        self._spans_per_second = spans_per_second
        self._next_number = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._channels: dict[str, grpc.Channel] = {}
        self._threads = [
            threading.Thread(target=self._send_until_stopped, args=(random.Random(f"{seed}-{index}"),), daemon=True)
            for index in range(threads)
        ]
        self._started = time.monotonic()

    def start(self) -> None:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """No new batches; those under way are retried until acknowledged."""
        self._stopping.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"a batch was not acknowledged within {seconds:.0f} s of the last restart")
        for channel in self._channels.values():
            channel.close()

    def send_again(self, count: int) -> None:
        """Sends the bodies acknowledged last once more, as a client does that lost the answer."""
        with self._lock:
            acknowledged = [batch for batch in self.batches if batch.acknowledged][-count:]
        for batch in acknowledged:
            if self.send(batch):
                with self._lock:
                    self.sent_again += 1

    def _send_until_stopped(self, source: random.Random) -> None:
        while not self._stopping.is_set():
            batch = self._next_batch(source)
            if source.random() < SENT_ONCE_SHARE:
                batch.acknowledged = self.send(batch)
                continue
            while not self.send(batch):
                with self._lock:
                    self.retries += 1
                time.sleep(RETRY_SECONDS)
            batch.acknowledged = True
            if source.random() < SENT_AGAIN_SHARE:
                time.sleep(source.random())
                if self.send(batch):
                    with self._lock:
                        self.sent_again += 1

    def _next_batch(self, source: random.Random) -> Batch:
        """Builds the next batch once the pace allows it."""
        size = source.randint(*BATCH_SPANS)
        with self._lock:
            first = self._next_number
            self._next_number += size
        due = self._started + first / self._spans_per_second
        time.sleep(max(0.0, due - time.monotonic()))
        batch = build(first, first + size - 1, source)
        with self._lock:
            self.batches.append(batch)
        return batch

    def send(self, batch: Batch) -> bool:
        """One attempt; True only if the server acknowledged."""
        endpoints = self._endpoints()
        if endpoints is None:
            return False
        if batch.transport == "grpc":
            return self._send_grpc(endpoints.otlp_grpc, batch.body)
        return self._send_http(endpoints.otlp_http_url, batch.body, batch.transport == "http-gzip")

    def _send_grpc(self, address: str, body: bytes) -> bool:
        with self._lock:
            if address not in self._channels:
                self._channels[address] = grpc.insecure_channel(address)
            channel = self._channels[address]
        call = channel.unary_unary(GRPC_METHOD, request_serializer=None, response_deserializer=None)
        try:
            call(body, timeout=SEND_TIMEOUT_SECONDS)
        except grpc.RpcError:
            return False
        return True

    def _send_http(self, url: str, body: bytes, compressed: bool) -> bool:
        headers = {"content-type": "application/x-protobuf"}
        if compressed:
            body = gzip.compress(body, 1)
            headers["content-encoding"] = "gzip"
        request = urllib.request.Request(f"{url}/v1/traces", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=SEND_TIMEOUT_SECONDS) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
