"""A real Apache Kafka broker for tests, from Maven Central's jars, with its own Java process.

Installs the pinned jars once into `${PYFLARE_CACHE:-~/.cache/pyflare}/services` and runs one broker (KRaft) over
one data directory, across restarts, on free loopback ports. As a program: `kafka.py install` prints where the jars
are; `kafka.py run DIRECTORY` starts the broker, prints `ready PLAINTEXT_PORT SASL_PORT TLS_PORT` once it answers,
obeys the lines `kill`, `start`, `deny TOPIC` and `allow TOPIC` (the user may or may not read it) on its standard input,
each answered with a line that begins with it, and ends at `end` or when its input is closed. Exit code 77: it cannot be
had here.

The user `pyflare` has the password `tell-nobody`, by PLAIN and by SCRAM-SHA-256. The certificate of the TLS listener is
made for each directory: `DIRECTORY/ca.pem`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

VERSION = "4.1.1"
LOG4J = "2.24.3"
CLIENT = "3.0.12"
UNAVAILABLE = 77
READY_SECONDS = 60.0
USER = "pyflare"
PASSWORD = "tell-nobody"
PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pyflare</groupId><artifactId>kafka-broker</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J}</version></dependency>
  </dependencies>
</project>
"""

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl.plain.sasl.jaas.config={plain_module} required user_{user}="{password}";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tls.ssl.keystore.type=PEM
listener.name.tls.ssl.keystore.location={directory}/server.pem
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS
log.retention.check.interval.ms=2000
"""


class Unavailable(Exception):
    """The broker cannot be had on this machine."""


def services() -> Path:
    """Where installed services are kept."""
    cache = os.environ.get("PYFLARE_CACHE")
    return Path(cache) / "services" if cache else Path.home() / ".cache" / "pyflare" / "services"


def install() -> Path:
    """The folder of the jars, fetched from Maven Central if they are not there yet."""
    for program in ("java", "openssl"):
        if shutil.which(program) is None:
            raise Unavailable(f"the Kafka broker needs {program} (Java 17 or newer)")
    jars = services() / f"kafka-{VERSION}" / "lib"
    if jars.exists():
        return jars
    if shutil.which("mvn") is None:
        raise Unavailable("fetching the Kafka broker's jars needs mvn (Debian: maven)")
    build = jars.parent.with_name(f"kafka-{VERSION}.{os.getpid()}")
    build.mkdir(parents=True, exist_ok=True)
    (build / "pom.xml").write_text(POM)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib"]
    fetched = subprocess.run(["mvn", "-q", "-B", *goal], cwd=build, capture_output=True, text=True)
    if fetched.returncode != 0:
        shutil.rmtree(build)
        raise Unavailable(f"mvn could not fetch Kafka {VERSION}: {fetched.stdout.strip()[-300:]}")
    try:
        build.rename(jars.parent)
    except OSError:
        # Somebody else was faster.
        shutil.rmtree(build)
    return jars


def client_library() -> Path:
    """The folder of kafka-python, a client that shares no code with the server's; for PYTHONPATH."""
    folder = services() / f"kafka-python-{CLIENT}"
    if not folder.exists():
        build = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        fetched = subprocess.run(
            [*pip, "--target", str(build), f"kafka-python=={CLIENT}"], capture_output=True, text=True
        )
        if fetched.returncode != 0:
            raise Unavailable(f"pip could not fetch kafka-python {CLIENT}: {fetched.stderr.strip()[-300:]}")
        try:
            build.rename(folder)
        except OSError:
            # Somebody else was faster.
            shutil.rmtree(build)
    return folder


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@dataclass
class Kafka:
    """One broker over `directory`, on the same ports after `kill` and `start`."""

    directory: Path
    port: int = 0
    sasl_port: int = 0
    tls_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    jars: Path = field(default_factory=Path)

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def start(self) -> int:
        """Returns the port without encryption once the broker answers there."""
        if self.port == 0:
            self._prepare()
        with (self.directory / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.directory / "server.properties"), heap="512m"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Unavailable(f"Kafka ended with {self.process.returncode}: {self._log_tail()}")
            if self._answers():
                return self.port
            time.sleep(0.05)
        self.kill()
        raise Unavailable(f"Kafka was not ready within {READY_SECONDS:.0f} s: {self._log_tail()}")

    def kill(self) -> None:
        """SIGKILL: the broker gets no chance to write anything more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def command(self, tool: str, *arguments: str) -> str:
        """Runs one of Kafka's own command-line tools."""
        done = subprocess.run(
            self._java(f"org.apache.kafka.tools.{tool}", *arguments), capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise RuntimeError(f"{tool}: {done.stdout} {done.stderr}")
        return done.stdout

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """What the broker's retention does, at once."""
        wanted = {"version": 1, "partitions": [{"topic": topic, "partition": partition, "offset": before}]}
        file = self.directory / "delete.json"
        file.write_text(json.dumps(wanted))
        broker = f"127.0.0.1:{self.port}"
        self.command("DeleteRecordsCommand", "--bootstrap-server", broker, "--offset-json-file", str(file))

    def deny_reading(self, topic: str, *, denied: bool) -> None:
        """Whether the user may read a topic."""
        # Where a topic has a rule, what no rule allows is refused.
        change = ["--add" if denied else "--remove", "--force", "--allow-principal", f"User:{USER}"]
        broker = f"127.0.0.1:{self.port}"
        what = ["--operation", "Describe", "--topic", topic]
        self.command("AclCommand", "--bootstrap-server", broker, *change, *what)

    def _prepare(self) -> None:
        self.jars = install()
        self.directory.mkdir(parents=True, exist_ok=True)
        directory = self.directory.resolve()
        certificate = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]
        certificate += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"]
        subprocess.run(certificate, cwd=directory, check=True, capture_output=True)
        (directory / "server.pem").write_text((directory / "key.pem").read_text() + (directory / "ca.pem").read_text())
        self.port, self.sasl_port, self.tls_port, controller = free_ports(4)
        properties = directory / "server.properties"
        properties.write_text(
            PROPERTIES.format(
                plain=self.port,
                sasl=self.sasl_port,
                tls=self.tls_port,
                controller=controller,
                directory=directory,
                plain_module=PLAIN_MODULE,
                user=USER,
                password=PASSWORD,
            )
        )
        storage = "kafka.tools.StorageTool"
        cluster = subprocess.run(self._java(storage, "random-uuid"), check=True, capture_output=True, text=True)
        scram = f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"
        subprocess.run(
            self._java(
                storage,
                *("format", "-t", cluster.stdout.strip(), "-c", str(properties)),
                *("--ignore-formatted", "--add-scram", scram),
            ),
            check=True,
            capture_output=True,
        )

    def _java(self, main: str, *arguments: str, heap: str = "256m") -> list[str]:
        return ["java", "-cp", f"{self.jars}/*", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", main, *arguments]

    def _answers(self) -> bool:
        """Whether the broker serves: it opens its listeners only once it is registered and unfenced."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                # ApiVersions, version 0, correlation 1, no client id.
                connection.sendall(bytes([0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 255, 255]))
                return len(connection.recv(8)) > 0
        except OSError:
            return False

    def _log_tail(self) -> str:
        log = self.directory / "broker.log"
        return log.read_text(errors="replace")[-600:] if log.exists() else ""


def required() -> bool:
    """Whether a service that cannot be had is a failure."""
    return bool(os.environ.get("CI") or os.environ.get("PYFLARE_REQUIRE_SERVICES"))


def main() -> int:
    try:
        if sys.argv[1:2] == ["install"]:
            print(install())
            return 0
        if sys.argv[1:2] != ["run"] or len(sys.argv) != 3:
            print(__doc__, file=sys.stderr)
            return 2
        broker = Kafka(Path(sys.argv[2]))
        try:
            broker.start()
            print(f"ready {broker.port} {broker.sasl_port} {broker.tls_port}", flush=True)
            for line in sys.stdin:
                match line.strip():
                    case "kill":
                        broker.kill()
                        print("killed", flush=True)
                    case "start":
                        broker.start()
                        print("started", flush=True)
                    case "end":
                        break
                    case command if command.startswith(("deny ", "allow ")):
                        word, topic = command.split()
                        broker.deny_reading(topic, denied=word == "deny")
                        print(command, flush=True)
        finally:
            broker.kill()
        return 0
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
