"""A bare OTLP endpoint: hands every request body over exactly as it arrived.

Models the far end of an OTLP exporter, without decoding anything: gRPC through a generic
handler with identity serializers, HTTP through the standard library. What is done with a
request is a function given by the caller (the recording sink writes it to disk, the relay
sends it on), so the bytes never pass through a message object of ours.

Invariants: listens on loopback only; the handler runs before the sender gets its answer;
a handler that raises makes the request fail, never succeed silently.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

GRPC_METHODS = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
}
HTTP_PATHS = {
    "/v1/traces": "traces",
    "/v1/metrics": "metrics",
    "/v1/logs": "logs",
    "/api/public/otel/v1/traces": "traces",
}


@dataclass(frozen=True)
class Request:
    """One export request as it came over the wire."""

    signal: str
    transport: str
    """`grpc` or `http`."""
    path: str
    content_type: str
    content_encoding: str
    """Of an HTTP body, which is kept compressed; gRPC bodies arrive here decompressed."""
    chunked: bool
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """The answer to a request; the default is what a healthy receiver says."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    grpc_code: grpc.StatusCode = grpc.StatusCode.OK
    detail: str = ""


Handler = Callable[[Request], Response]


class OtlpServer:
    """Both OTLP transports on loopback; use as a context manager."""

    def __init__(self, handler: Handler, grpc_port: int = 0, http_port: int = 0) -> None:
        self._handler = handler
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(max_workers=8),
            options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)],
        )
        self._grpc.add_generic_rpc_handlers((_GenericExport(handler),))
        self.grpc_port = self._grpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
        self._http = _QuietHttpServer(("127.0.0.1", http_port), _http_handler(handler))
        self.http_port = self._http.server_address[1]

    @property
    def grpc_endpoint(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def __enter__(self) -> OtlpServer:
        self._grpc.start()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.stop(grace=1).wait()
        self._http.shutdown()
        self._http.server_close()


class _QuietHttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closes its kept-alive connection abruptly is normal; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _GenericExport(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        signal = GRPC_METHODS.get(call.method)
        if signal is None:
            return None
        headers = {key: str(value) for key, value in call.invocation_metadata or ()}

        def export(body: bytes, context: grpc.ServicerContext) -> bytes:
            answer = self._handler(
                Request(
                    signal=signal,
                    transport="grpc",
                    path=call.method,
                    content_type="application/x-protobuf",
                    content_encoding="",
                    chunked=False,
                    body=body,
                    headers=headers,
                )
            )
            if answer.grpc_code is not grpc.StatusCode.OK:
                context.abort(answer.grpc_code, answer.detail)
            return answer.body

        return grpc.unary_unary_rpc_method_handler(export, request_deserializer=None, response_serializer=None)


def _http_handler(handler: Handler) -> type[BaseHTTPRequestHandler]:
    class Receive(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            signal = HTTP_PATHS.get(self.path)
            chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
            body = self._chunked_body() if chunked else self._sized_body()
            content_type = self.headers.get("content-type", "")
            if signal is None:
                self._answer(Response(status=404), content_type)
                return
            request = Request(
                signal=signal,
                transport="http",
                path=self.path,
                content_type=content_type,
                content_encoding=self.headers.get("content-encoding", "").lower(),
                chunked=chunked,
                body=body,
                headers={key.lower(): value for key, value in self.headers.items()},
            )
            self._answer(handler(request), content_type)

        def _sized_body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("content-length", "0")))

        def _chunked_body(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def _answer(self, answer: Response, content_type: str) -> None:
            is_json = "json" in content_type
            body = answer.body or (b"{}" if is_json else b"")
            self.send_response(answer.status)
            self.send_header("content-type", answer.content_type or content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent: the caller reports what it received."""

    return Receive
