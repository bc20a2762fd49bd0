"""TLS in front of a service that has none: what comes over it on `port` goes on in the clear to `target`.

`TlsFront(DIRECTORY, TARGET).start()` makes a certificate for 127.0.0.1 in the directory (`ca.pem`: clients are told of
it in `SSL_CERT_FILE`); `stop()` ends it. Needs `openssl`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 16


@dataclass
class TlsFront:
    """One listener on 127.0.0.1, a thread for each direction of each connection."""

    directory: Path
    target: int
    port: int = 0
    connections: int = 0
    listener: socket.socket | None = None
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    @property
    def authority(self) -> Path:
        """What a client has to trust."""
        return self.directory / "ca.pem"

    def start(self) -> TlsFront:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        for extension in ("subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"):
            command += ["-addext", extension]
        command += ["-keyout", "key.pem", "-out", self.authority.name]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)
        self.context.load_cert_chain(self.authority, self.directory / "key.pem")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self.listener is not None:
            self.listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), self.context.wrap_socket(client, server_side=True) as secure:
            self.connections += 1
            with socket.create_connection(("127.0.0.1", self.target)) as plain:
                threading.Thread(target=pump, args=(plain, secure), daemon=True).start()
                pump(secure, plain)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Hands on what comes until one side is closed, and says so to the other."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
