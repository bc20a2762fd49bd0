"""Sends OTLP requests on byte for byte and keeps the spans that were acknowledged.

For clients that cannot say what they sent (they are separate programs): they send to this relay,
the relay sends the very bytes on to the endpoint under test, and only after its success decodes
them with the official protobuf messages for the sender's file.
"""

from __future__ import annotations

import gzip
import threading
import urllib.error
import urllib.request
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from client import Run
from otlp_server import OtlpServer, Request, Response

STATUS = {
    Status.STATUS_CODE_UNSET: "unset",
    Status.STATUS_CODE_OK: "ok",
    Status.STATUS_CODE_ERROR: "error",
}
TIMEOUT_SECONDS = 30


class WireRelay:
    """The handler of an `OtlpServer` between a program and the endpoint under test."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._channel = grpc.insecure_channel(run.endpoint_grpc)
        self._lock = threading.Lock()
        self.refused: list[str] = []

    def __call__(self, request: Request) -> Response:
        answer = self._over_grpc(request) if request.transport == "grpc" else self._over_http(request)
        acknowledged = answer.status == 200 and answer.grpc_code is grpc.StatusCode.OK
        with self._lock:
            if not acknowledged:
                self.refused.append(f"{request.path}: {answer.status} {answer.grpc_code} {answer.detail}")
            elif request.signal == "traces":
                self._keep(request)
        return answer

    def server(self) -> OtlpServer:
        return OtlpServer(self)

    def _over_grpc(self, request: Request) -> Response:
        call = self._channel.unary_unary(request.path, request_serializer=None, response_deserializer=None)
        headers = tuple((key, value) for key, value in self._run.all_headers.items())
        try:
            return Response(body=call(request.body, timeout=TIMEOUT_SECONDS, metadata=headers))
        except grpc.RpcError as error:
            return Response(grpc_code=error.code(), detail=error.details() or "")

    def _over_http(self, request: Request) -> Response:
        headers = {"content-type": request.content_type, **self._run.all_headers}
        if request.content_encoding:
            headers["content-encoding"] = request.content_encoding
        url = self._run.endpoint_http + request.path
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data=request.body, headers=headers), timeout=TIMEOUT_SECONDS
            ) as answer:
                return Response(status=answer.status, body=answer.read())
        except urllib.error.HTTPError as error:
            return Response(status=error.code, body=error.read(), detail=str(error))

    def _keep(self, request: Request) -> None:
        body = gzip.decompress(request.body) if request.content_encoding == "gzip" else request.body
        for line in spans_of(ExportTraceServiceRequest.FromString(body)):
            self._run.kept.add(line)


def spans_of(message: ExportTraceServiceRequest) -> list[dict[str, Any]]:
    """The spans of a request as lines of the kept file, still without their meaning."""
    return [
        {
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_span_id": span.parent_span_id.hex() or None,
            "name": span.name,
            "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
            "start_unix_nano": span.start_time_unix_nano,
            "end_unix_nano": span.end_time_unix_nano,
            "status": STATUS.get(span.status.code, "unset"),
            "status_message": span.status.message or None,
            "attributes": _attributes(span.attributes),
            "resource": _attributes(resource_spans.resource.attributes),
        }
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _attributes(pairs: list[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
