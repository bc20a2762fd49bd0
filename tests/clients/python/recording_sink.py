"""Writes OTLP request bodies to files, unchanged.

Models the recording of fixtures: one file per request, named `<client>-<signal>-<n>` with
`.pb`, `.json`, and `.gz` behind it where the HTTP body was compressed. The clients are told
apart by the time at which they run (`client` is set by whoever drives them), not by anything
in the bytes.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from otlp_server import OtlpServer, Request, Response


class RecordingSink:
    """Handler for `OtlpServer`; remembers what it wrote in `recorded`."""

    def __init__(self, folder: Path, client: str = "unknown") -> None:
        self.folder = folder
        self.client = client
        self.recorded: list[dict[str, object]] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, request: Request) -> Response:
        kind = ".json" if "json" in request.content_type else ".pb"
        with self._lock:
            key = (self.client, request.signal)
            number = self._counts[key] = self._counts.get(key, 0) + 1
            name = f"{self.client}-{request.signal}-{number}{kind}"
            if request.content_encoding == "gzip":
                name += ".gz"
            (self.folder / name).write_bytes(request.body)
            self.recorded.append(
                {
                    "file": name,
                    "client": self.client,
                    "signal": request.signal,
                    "transport": request.transport,
                    "path": request.path,
                    "content_type": request.content_type,
                    "content_encoding": request.content_encoding,
                    "chunked": request.chunked,
                    "bytes": len(request.body),
                }
            )
        return Response()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="folder for the request bodies")
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--client", default="unknown", help="leading part of the file names")
    options = parser.parse_args()
    sink = RecordingSink(options.dir, options.client)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with OtlpServer(sink, options.grpc_port, options.http_port) as server:
        print(json.dumps({"otlp_grpc": server.grpc_endpoint, "otlp_http": server.http_endpoint}), flush=True)
        stop.wait()
    print(json.dumps({"recorded": len(sink.recorded)}), flush=True)


if __name__ == "__main__":
    main()
