"""The real OpenTelemetry Collector for tests, built from its Go modules with an OTLP receiver and a Kafka exporter.

Built once into `${PYFLARE_CACHE:-~/.cache/pyflare}/services` (about 80 seconds).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.155.0"
PROVIDERS = "1.61.0"
READY_SECONDS = 30.0
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
CORE = "go.opentelemetry.io/collector"

BUILD = f"""dist: {{name: otelcol, output_path: ./dist}}
receivers:
  - gomod: {CORE}/receiver/otlpreceiver v{VERSION}
processors:
  - gomod: {CORE}/processor/batchprocessor v{VERSION}
exporters:
  - gomod: {CORE}/exporter/debugexporter v{VERSION}
  - gomod: {CORE}/exporter/nopexporter v{VERSION}
  - gomod: {CORE}/exporter/otlpexporter v{VERSION}
  - gomod: {CONTRIB}/exporter/kafkaexporter v{VERSION}
providers:
  - gomod: {CORE}/confmap/provider/fileprovider v{PROVIDERS}
  - gomod: {CORE}/confmap/provider/envprovider v{PROVIDERS}
"""

CONFIG = """receivers:
  otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:{port}, max_recv_msg_size_mib: 64}}}}}}
exporters:
  kafka:
    brokers: [127.0.0.1:{kafka}]
    traces: {{topic: otlp_spans, encoding: {encoding}}}
    logs: {{topic: otlp_logs, encoding: {encoding}}}
    metrics: {{topic: otlp_metrics, encoding: {encoding}}}
    producer: {{required_acks: -1, max_message_bytes: 10000000, compression: {compression}}}
    sending_queue: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [kafka]}}
    logs: {{receivers: [otlp], exporters: [kafka]}}
    metrics: {{receivers: [otlp], exporters: [kafka]}}
"""


class Unavailable(Exception):
    """The Collector cannot be had on this machine."""


def install() -> Path:
    """The program, built from Go modules if it is not there yet."""
    cache = os.environ.get("PYFLARE_CACHE")
    services = Path(cache) / "services" if cache else Path.home() / ".cache" / "pyflare" / "services"
    program = services / f"otelcol-{VERSION}" / "otelcol"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise Unavailable("building the OpenTelemetry Collector needs Go")
    build = program.parent.with_name(f"otelcol-{VERSION}.{os.getpid()}")
    build.mkdir(parents=True, exist_ok=True)
    (build / "build.yaml").write_text(BUILD)
    environment = {**os.environ, "GOBIN": str(build)}
    for command in (
        ["go", "install", f"{CORE}/cmd/builder@v{VERSION}"],
        [str(build / "builder"), "--config", "build.yaml"],
    ):
        done = subprocess.run(command, cwd=build, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(build)
            raise Unavailable(f"the Collector could not be built: {done.stderr.strip()[-300:]}")
    program.parent.mkdir(parents=True, exist_ok=True)
    (build / "dist" / "otelcol").replace(program)
    shutil.rmtree(build)
    return program


@dataclass
class Collector:
    """One Collector that takes OTLP over gRPC on `port` and writes to Kafka."""

    directory: Path
    kafka_port: int
    encoding: str
    compression: str = "none"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        program = install()
        self.directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = self.directory / "collector.yaml"
        config.write_text(
            CONFIG.format(port=self.port, kafka=self.kafka_port, encoding=self.encoding, compression=self.compression)
        )
        with (self.directory / "collector.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", f"file:{config}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self.port
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise Unavailable(f"the Collector did not start: {(self.directory / 'collector.log').read_text()[-600:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        self.process = None


if __name__ == "__main__":
    try:
        print(install())
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        sys.exit(77)
