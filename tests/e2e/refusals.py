"""Bad input and bad surroundings: each a coded refusal or a counted rejection, never a crash."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from runner import Skipped, assert_equal, eventually
from server import Server

TESTS = Path(__file__).resolve().parent.parent
FIXTURE = TESTS / "fixtures" / "otlp" / "otel-python-http-traces-1.pb"
JSON_FIXTURE = TESTS / "fixtures" / "otlp" / "otel-js-json-traces-1.json"
GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF = "application/x-protobuf"
CODE = re.compile(rb"PF-\d{4}")


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes


def request(
    url: str, body: bytes | None = None, content_type: str = PROTOBUF, encoding: str = "", method: str | None = None
) -> Answer:
    headers = {"content-type": content_type} if body is not None else {}
    if encoding:
        headers["content-encoding"] = encoding
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data=body, headers=headers, method=method), timeout=60
        ) as answer:
            return Answer(answer.status, answer.headers.get("content-type", ""), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers.get("content-type", ""), error.read())
    except (BrokenPipeError, ConnectionError, urllib.error.URLError) as error:
        raise AssertionError(f"the connection broke before an answer came: {error}") from error


def _refused(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, f"status {answer.status}, must be one of {statuses}: {answer.body[:300]!r}"
    assert CODE.search(answer.body), f"no code in the answer: {answer.body[:300]!r}"


def otlp_refusals(server: Server) -> list[tuple[str, Callable[[], None]]]:
    """Requests that the receivers must refuse, by name."""
    assert server.endpoints is not None
    traces = f"{server.endpoints.otlp_http_url}/v1/traces"
    good = FIXTURE.read_bytes()
    bomb = gzip.compress(bytes(512 * 1024 * 1024), 1)
    return [
        ("truncated protobuf", lambda: _refused(request(traces, good[:-7]), 400)),
        ("garbage", lambda: _refused(request(traces, b"\xff" * 1000), 400)),
        ("broken JSON", lambda: _refused(request(traces, b'{"resourceSpans": [', "application/json"), 400)),
        ("JSON of another shape", lambda: _refused(request(traces, b'{"resourceSpans": 7}', "application/json"), 400)),
        ("wrong content type", lambda: _refused(request(traces, good, "text/plain"), 415)),
        ("unknown encoding", lambda: _refused(request(traces, good, encoding="rot13"), 400, 415)),
        ("broken gzip", lambda: _refused(request(traces, good, encoding="gzip"), 400)),
        ("gzip bomb", lambda: _refused(request(traces, bomb, encoding="gzip"), 413)),
        ("100 MB body", lambda: _refused(request(traces, bytes(100_000_000)), 413)),
        ("GET", lambda: assert_equal(request(traces).status, 405, "status of GET")),
        ("gRPC garbage", lambda: _grpc_refused(server, b"\xff" * 100, grpc.StatusCode.INVALID_ARGUMENT)),
        ("gRPC truncated", lambda: _grpc_refused(server, good[:-7], grpc.StatusCode.INVALID_ARGUMENT)),
        (
            "gRPC 100 MB",
            lambda: _grpc_refused(
                server, bytes(100_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE
            ),
        ),
        ("zero trace id is a counted rejection", lambda: _partial_success(server)),
        ("zero trace id in JSON is a counted rejection", lambda: _partial_success_json(server)),
    ]


def _grpc_refused(server: Server, body: bytes, *codes: grpc.StatusCode) -> None:
    assert server.endpoints is not None
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.endpoints.otlp_grpc, options=options) as channel:
        call = channel.unary_unary(GRPC_METHOD, request_serializer=None, response_deserializer=None)
        try:
            call(body, timeout=60)
        except grpc.RpcError as error:
            assert error.code() in codes, f"code {error.code()}, must be one of {codes}: {error.details()}"
            # A message over the transport's own limit is refused by the transport, which knows no codes.
            if grpc.StatusCode.RESOURCE_EXHAUSTED not in codes:
                assert CODE.search(str(error.details()).encode()), f"no code in: {error.details()}"
            return
    raise AssertionError("the call was acknowledged")


def _with_a_zero_id() -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    message.ParseFromString(FIXTURE.read_bytes())
    del message.resource_spans[0].scope_spans[0].spans[2:]
    message.resource_spans[0].resource.attributes[0].value.string_value = "partial"
    message.resource_spans[0].scope_spans[0].spans[0].trace_id = bytes(16)
    return message


def _partial_success(server: Server) -> None:
    assert server.endpoints is not None
    answer = request(f"{server.endpoints.otlp_http_url}/v1/traces", _with_a_zero_id().SerializeToString())
    assert_equal(answer.status, 200, "status")
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert_equal(partial.rejected_spans, 1, "rejected spans")
    assert partial.error_message, "a partial success must say why"


def _partial_success_json(server: Server) -> None:
    assert server.endpoints is not None
    message = json.loads(JSON_FIXTURE.read_text())
    spans = message["resourceSpans"][0]["scopeSpans"][0]["spans"]
    del spans[2:]
    spans[0]["traceId"] = "0" * 32
    answer = request(f"{server.endpoints.otlp_http_url}/v1/traces", json.dumps(message).encode(), "application/json")
    assert_equal(answer.status, 200, "status")
    partial = json.loads(answer.body).get("partialSuccess", {})
    assert_equal(int(partial.get("rejectedSpans", 0)), 1, "rejected spans")


def api_refusals(server: Server) -> list[tuple[str, Callable[[], None]]]:
    """Requests that the API must refuse with a problem document."""
    api = f"{server.api_url}/api/v1"

    def problem(answer: Answer, *statuses: int) -> None:
        _refused(answer, *statuses)
        assert_equal(answer.content_type.split(";")[0], "application/problem+json", "content type")
        document = json.loads(answer.body)
        missing = {"type", "title", "status", "detail", "code"} - document.keys()
        assert not missing, f"the problem document lacks {missing}: {document}"
        assert_equal(document["status"], answer.status, "status in the document")

    def post(path: str, value: object) -> Answer:
        return request(f"{api}/{path}", json.dumps(value).encode(), "application/json")

    refused_monitor = (
        "CREATE MONITOR sorted AS SELECT service_name, count(*) AS n FROM spans GROUP BY service_name ORDER BY n"
    )
    return [
        ("SQL with a mistake", lambda: problem(post("sql", {"query": "SELEC 1"}), 400)),
        ("SQL on an unknown table", lambda: problem(post("sql", {"query": "SELECT * FROM nowhere"}), 400, 404)),
        ("SQL that is no JSON", lambda: problem(request(f"{api}/sql", b"{", "application/json"), 400)),
        ("unknown view", lambda: problem(request(f"{api}/views/nowhere"), 404)),
        ("unknown trace", lambda: problem(request(f"{api}/traces/{'1' * 32}"), 404)),
        ("malformed trace id", lambda: problem(request(f"{api}/traces/xyz"), 400, 404)),
        ("unknown path", lambda: problem(request(f"{api}/no/such/thing"), 404)),
        ("monitor that cannot be maintained", lambda: problem(post("monitors", {"sql": refused_monitor}), 400, 422)),
    ]


def metrics_are_prometheus(server: Server) -> None:
    """`promtool check metrics` accepts /metrics."""
    promtool = shutil.which("promtool")
    if promtool is None:
        raise Skipped("promtool is not installed; install the package prometheus")
    answer = request(f"{server.api_url}/metrics")
    assert_equal(answer.status, 200, "status of /metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=answer.body, capture_output=True, timeout=60)
    assert checked.returncode == 0, (checked.stdout + checked.stderr).decode()
    assert b'pyflare_rows_admitted_total{stream="user_streams"}' in answer.body, "rows of users' streams"
    names = set(re.findall(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)", answer.body, re.MULTILINE))
    foreign = sorted(name for name in names if not name.startswith((b"pyflare_", b"process_")))
    assert not foreign, f"metrics that are not named pyflare_*: {foreign}"


def second_server_refused(server: Server) -> None:
    """Two servers on one directory: the second says so with a code, the first goes on."""
    _must_end_with_code([str(server.binary), "serve", "--data-dir", str(server.data_dir), *_free_listeners()])
    assert_equal(request(f"{server.api_url}/healthz").status, 200, "health of the first server")


def port_in_use_refused(server: Server, scratch: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        _must_end_with_code(
            [str(server.binary), "serve", "--data-dir", str(scratch / "port-in-use"), *_free_listeners(api=address)]
        )


def unusable_directory_refused(server: Server, scratch: Path) -> None:
    file = scratch / "a-file"
    file.write_text("not a directory")
    _must_end_with_code([str(server.binary), "serve", "--data-dir", str(file), *_free_listeners()])


def open_mode_elsewhere_refused(server: Server, scratch: Path) -> None:
    """Listening beyond loopback without keys needs --insecure-open."""
    elsewhere = _free_listeners(api="0.0.0.0:0")
    _must_end_with_code([str(server.binary), "serve", "--data-dir", str(scratch / "elsewhere"), *elsewhere])


def directory_refusals(server: Server, scratch: Path) -> list[tuple[str, Callable[[], None]]]:
    """Data directories that cannot be used, by name."""

    def refused(name: str, prepare: Callable[[Path], object]) -> None:
        data = scratch / name
        data.mkdir()
        prepare(data)
        _must_end_with_code([str(server.binary), "serve", "--data-dir", str(data), *_free_listeners()])

    def forbidden(mode: int) -> None:
        """Permissions bind everyone but root, and the build may lie where only root may look."""
        with tempfile.TemporaryDirectory(prefix="pyflare-forbidden-") as folder:
            Path(folder).chmod(0o755)
            binary = shutil.copy(server.binary, folder)
            data = Path(folder) / "data"
            data.mkdir(mode)
            command = [binary, "serve", "--data-dir", str(data), *_free_listeners()]
            _must_end_with_code(command, as_nobody=True)

    def foreign(data: Path) -> None:
        (data / "thesis.tex").write_text("not ours")

    def newer(data: Path) -> None:
        (data / "VERSION").write_text("99\n")

    return [
        ("a directory of a newer format", lambda: refused("newer", newer)),
        ("a garbled format", lambda: refused("garbled", lambda data: (data / "VERSION").write_text("?"))),
        ("a directory with other files", lambda: refused("foreign", foreign)),
        ("a directory with a percent sign", lambda: refused("100%20", lambda _: None)),
        ("a read-only directory", lambda: forbidden(0o555)),
        ("an unreadable directory", lambda: forbidden(0o000)),
    ]


# One bad value of every setting that can have one.
BAD_SETTINGS = (
    ("workers", "many"),
    ("workers", "257"),
    ("workers", "-1"),
    ("listen-otlp-grpc", "here"),
    ("listen-otlp-http", "127.0.0.1"),
    ("listen-api", "127.0.0.1:99999"),
    ("auth-keys", "without-a-project"),
    ("auth-keys", "short=acme"),
    ("log-url", "kafka://nowhere"),
    ("store-url", "mysql://nowhere"),
    ("store-flush-seconds", "soon"),
    ("store-flush-seconds", "0"),
    ("limits-request-mb", "x"),
    ("limits-request-mb", "0"),
    ("limits-log-gb", "1.5"),
    ("limits-log-gb", "99999999999999999999"),
    ("limits-min-free-gb", "none"),
    ("limits-query-seconds", "0"),
    ("limits-query-memory-mb", "lots"),
    ("limits-live-connections", "?"),
    ("retention-streams-days", "99999999999999999"),
    ("logging-format", "xml"),
    ("logging-level", "louder=!"),
)


def bad_settings(server: Server, scratch: Path) -> list[tuple[str, Callable[[], None]]]:
    """Every bad value is refused with a code and the name of the setting, as a flag and from the environment."""

    def flag(name: str, value: str) -> None:
        data = scratch / "bad-setting"
        listeners = [part for part in _free_listeners() if not name.startswith("listen-")]
        command = [str(server.binary), "serve", "--data-dir", str(data), *listeners, f"--{name}={value}"]
        said = _must_end_with_code(command)
        named = name.replace("-", "_").encode()
        # A key's message names its project instead, so that nothing of the key is in it.
        about_a_key = name == "auth-keys" and b"acme" in said
        assert about_a_key or named in re.sub(rb"[.-]", b"_", said), (
            f"it does not name the setting: {said.decode()[-300:]}"
        )

    def file(content: str) -> None:
        path = scratch / "bad.toml"
        path.write_text(content)
        command = [str(server.binary), "serve", "--data-dir", str(scratch / "bad-setting"), *_free_listeners()]
        _must_end_with_code([*command, "--config", str(path)])

    def missing_file() -> None:
        _must_end_with_code([str(server.binary), "serve", "--config", str(scratch / "nowhere.toml")])

    return [
        *((f"--{name}={value}", lambda name=name, value=value: flag(name, value)) for name, value in BAD_SETTINGS),
        ("a file that is no TOML", lambda: file("workers = = 3")),
        ("a file with an unknown key", lambda: file("[limits]\nunheard_of = 3\n")),
        ("a file with a value of another type", lambda: file("workers = [1, 2]\n")),
        ("a file that is not there", missing_file),
    ]


def unusual_paths(server: Server, scratch: Path) -> None:
    """A relative path with spaces and letters of several scripts is a data directory like any other."""
    folder = scratch / "Daten — données 数据"
    folder.mkdir()
    relative = "il y a/東京 #1 ?"
    process = subprocess.Popen(
        [str(server.binary), "serve", "--data-dir", relative, "--store-flush-seconds", "1", *_free_listeners()],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=(scratch / "unusual.log").open("wb"),
    )
    try:
        endpoints = folder / relative / "endpoints.json"

        def announced() -> None:
            assert process.poll() is None, (scratch / "unusual.log").read_text()[-500:]
            assert endpoints.exists(), "it does not say where it listens"

        eventually(announced, 30)
        addresses = json.loads(endpoints.read_text())
        assert_equal(request(f"http://{addresses['otlp_http']}/v1/traces", FIXTURE.read_bytes()).status, 200, "status")
        query = json.dumps({"query": "SELECT count(*) FROM history.spans"}).encode()

        def counted() -> None:
            answer = request(f"http://{addresses['api']}/api/v1/sql", query, "application/json")
            assert_equal(answer.status, 200, f"status: {answer.body[:300]!r}")
            assert json.loads(answer.body)["rows"][0][0] > 0, "no rows"

        eventually(counted, 10)
        eventually(lambda: assert_equal(any((folder / relative / "tables").rglob("*.parquet")), True, "stored"), 15)
        eventually(counted, 10)
    finally:
        process.terminate()
        assert_equal(process.wait(30), 0, "exit code")


def _free_listeners(api: str = "127.0.0.1:0") -> list[str]:
    listen = {"otlp-grpc": "127.0.0.1:0", "otlp-http": "127.0.0.1:0", "api": api}
    return [part for name, address in listen.items() for part in (f"--listen-{name}", address)]


def _must_end_with_code(command: list[str], *, as_nobody: bool = False) -> bytes:
    """What it said when it refused to start; as a user whom permissions bind where that matters."""
    user: dict[str, int] = {"user": 65534, "group": 65534} if as_nobody and os.geteuid() == 0 else {}
    process = subprocess.Popen(  # type: ignore[call-overload]
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **user
    )
    try:
        output, _ = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"it runs though it must refuse to start:\n{output.decode()[-1000:]}") from None
    assert process.returncode != 0, "it ended with 0 though it must refuse to start"
    assert CODE.search(output), f"no code in what it said:\n{output.decode()[-1000:]}"
    assert b"panicked" not in output, output.decode()[-2000:]
    return bytes(output)
