"""A server whose history is in a real ClickHouse, through everything that may happen to either.

`tests/support/python tests/clickhouse/run.py --binary PATH` compares what history and views answer with a server on
Delta tables that was sent the same bytes, kills server and ClickHouse under load and counts what they kept, takes
ClickHouse away and gives it back, reaches it over TLS, and checks what a wrong password, a wrong address, a certificate
that nobody trusts and a newer schema are told.
Prints `N passed, N failed`; exit code 0 only if none failed. Without the engine: a printed skip, a failure where
CI=true or PYFLARE_REQUIRE_SERVICES=1.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "oracle"), str(TESTS / "e2e"), str(TESTS / "crash")]

import clickhouse  # noqa: E402
from clickhouse import ClickHouse, Unavailable  # noqa: E402
from content import check_content  # noqa: E402
from numbered_spans import SEND_TIMEOUT_SECONDS, Senders, build  # noqa: E402
from report import Report  # noqa: E402
from runner import Runner, assert_equal, eventually  # noqa: E402
from server import Server, ServerFailed  # noqa: E402
from tls import TlsFront  # noqa: E402

THREADS = 4
RATE = 2000
SETTLE_SECONDS = 60.0
LARGE_BYTES = 1 << 20
LARGE_SPANS = 700
# Four times the bytes at which a flush is due.
KEPT_BYTES = 512 << 20

QUERIES = (
    "SELECT count(*), count(DISTINCT trace_id), sum(input_tokens), min(event_time), max(end_time) FROM history.spans",
    "SELECT model, status, count(*), sum(output_tokens), avg(duration_ns) FROM history.spans GROUP BY 1, 2"
    " ORDER BY 1, 2",
    "SELECT span_id, name, attributes, resource, events, links FROM history.spans ORDER BY span_id LIMIT 40",
    "SELECT span_id, name FROM history.spans WHERE trace_id = '0000000000000000000000000000000b' ORDER BY span_id",
    "SELECT span_id FROM history.spans WHERE model IN ('atlas-small', 'none') AND status = 'error' ORDER BY 1",
    "SELECT span_id FROM history.spans WHERE user_id IS NULL AND input_tokens > 900 ORDER BY 1",
    "SELECT span_id FROM history.spans WHERE name LIKE '%7' AND NOT (output_tokens < 50 OR status = 'error')"
    " ORDER BY 1",
    "SELECT span_id FROM history.spans WHERE event_time > TIMESTAMP '2020-01-01T00:00:00Z'"
    " ORDER BY event_time DESC, span_id LIMIT 9",
    "SELECT * FROM history.spans WHERE status <> 'error' ORDER BY start_time, span_id LIMIT 11",
    "SELECT model, user_id, count(*), count(user_id), max(name), min(start_time) FROM history.spans"
    " WHERE input_tokens BETWEEN 10 AND 700 GROUP BY model, user_id ORDER BY model",
    "SELECT DISTINCT status, span_class FROM history.spans ORDER BY 1, 2",
    "SELECT count(*) FROM history.spans WHERE event_time < TIMESTAMP '2020-01-01T00:00:00Z'",
    "SELECT span_class, approx_percentile_cont(duration_ns, 0.5) IS NULL, count(*) FROM history.spans GROUP BY 1"
    " ORDER BY 1",
    "SELECT l.model, count(*) FROM history.spans l JOIN history.spans r USING (span_id) GROUP BY 1 ORDER BY 1",
    "SELECT service_name, model, sum(requests) FROM history.requests GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT service_name, model, sum(requests) FROM live.requests GROUP BY 1, 2 ORDER BY 1, 2",
)


def post(server: Server, body: bytes) -> None:
    if server.endpoints is None:
        raise ServerFailed("the server is not ready")
    request = urllib.request.Request(
        f"{server.endpoints.otlp_http_url}/v1/traces", data=body, headers={"content-type": "application/x-protobuf"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert_equal(answer.status, 200, "the status of an export")


def readiness(server: Server) -> str:
    """Empty if the server is ready, else why it is not."""
    try:
        with urllib.request.urlopen(f"{server.api_url}/readyz", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return str(error.read().decode(errors="replace"))


def stored_spans(engine: ClickHouse, database: str) -> list[int]:
    """Rows and distinct spans in the store's table, as ClickHouse itself counts them."""
    return [int(number) for number in engine.query(f"SELECT count(), uniqExact(span_id) FROM {database}.spans").split()]


def same_answers(runner: Runner, one: Server, other: Server) -> None:
    """Half of the spans in the store, half in memory: the seam between them is in every answer."""
    source = random.Random(7)
    bodies = [build(first, first + 199, source).body for first in range(0, 2000, 200)]
    for body in bodies[:5]:
        for server in (one, other):
            post(server, body)
    for server in (one, other):
        eventually(functools.partial(flushed, server, 1000))
    for body in bodies[5:]:
        for server in (one, other):
            post(server, body)
    for server in (one, other):
        eventually(functools.partial(counted, server, 2000))
    for query in QUERIES:
        runner.check(f"as on Delta: {query}", functools.partial(answers_equal, one, other, query))
    for server in (one, other):
        eventually(functools.partial(flushed, server, 2000))
    for query in QUERIES:
        runner.check(f"as on Delta, all stored: {query}", functools.partial(answers_equal, one, other, query))
    runner.check("ClickHouse aggregates what it holds", functools.partial(aggregates_there, one))


def answers_equal(one: Server, other: Server, query: str) -> None:
    assert_equal(one.sql(query), other.sql(query), "the rows")


def aggregates_there(server: Server) -> None:
    plan = server.sql("EXPLAIN SELECT model, count(*), sum(input_tokens) FROM history.spans GROUP BY model")
    text = "\n".join(str(row[1]) for row in plan)
    assert_equal("ClickHouseScan: SELECT" in text and "GROUP BY `model`" in text, True, f"the plan says so:\n{text}")


def current_content(server: Server, engine: ClickHouse, database: str) -> None:
    """The view as anybody reads it in ClickHouse is the view as the server has it."""
    name = engine.query(
        f"SELECT name FROM system.tables WHERE database = '{database}' AND engine = 'ReplacingMergeTree'"
        " AND startsWith(name, 'requests@')"
    ).strip()
    there = engine.query(
        f"SELECT model, toString(sum(requests)) FROM {database}.`{name}` FINAL GROUP BY 1 ORDER BY 1 FORMAT TSV"
    )
    rows = [line.split("\t") for line in there.splitlines()]
    live = server.sql("SELECT model, sum(requests) FROM live.requests GROUP BY 1 ORDER BY 1")
    assert_equal(rows, [[model, str(requests)] for model, requests in live], "the view in ClickHouse")


def counted(server: Server, spans: int) -> None:
    assert_equal(server.sql("SELECT count(*) FROM history.spans")[0][0], spans, "spans in history")


def flushed(server: Server, rows: int) -> None:
    assert_equal(metric(server, "pyflare_stored_rows_total") >= rows, True, f"at least {rows} rows are stored")


def away_and_back(runner: Runner, server: Server, engine: ClickHouse, database: str) -> None:
    """ClickHouse goes while spans come."""
    source = random.Random(11)
    before = int(server.sql("SELECT count(*) FROM history.spans")[0][0])
    live = "SELECT coalesce(sum(requests), 0) FROM live.requests"
    seen = int(server.sql(live)[0][0])
    engine.kill()
    for first in range(10_000, 11_000, 100):
        post(server, build(first, first + 99, source).body)

    def views_go_on() -> None:
        assert_equal(int(server.sql(live)[0][0]), seen + 1000, "spans in the live view")

    def says_why() -> None:
        assert_equal("PF-2305" in readiness(server), True, f"/readyz says why: {readiness(server)}")

    def history_says_why() -> None:
        try:
            server.sql("SELECT count(*) FROM history.spans")
        except ServerFailed as failure:
            assert_equal("PF-2305" in str(failure), True, f"the answer says why: {failure}")
            return
        raise AssertionError("history answers without its store")

    runner.check("away: views go on", lambda: eventually(views_go_on))
    runner.check("away: /readyz says why", lambda: eventually(says_why))
    runner.check("away: a query of history says why", history_says_why)
    engine.start()
    runner.check("back: ready again", lambda: eventually(lambda: assert_equal(readiness(server), "", "/readyz"), 30))
    runner.check("back: nothing is missing", lambda: eventually(lambda: counted(server, before + 1000), 30))
    runner.check(
        "back: all of it is stored, once",
        lambda: eventually(
            lambda: assert_equal(stored_spans(engine, database), [before + 1000] * 2, "rows and spans in ClickHouse"),
            30,
        ),
    )


def away_for_long(runner: Runner, server: Server, engine: ClickHouse, database: str) -> None:
    """More comes than memory keeps for a store that is away: the rest waits in the log."""
    source = random.Random(13)
    before = int(server.sql("SELECT count(*) FROM history.spans")[0][0])
    engine.kill()
    sent = 0
    for number in range(LARGE_SPANS):
        try:
            post(server, large(20_000 + number, source))
        except urllib.error.HTTPError as refusal:
            # Told to wait, which is an answer too.
            if refusal.code not in (429, 503):
                raise
            break
        sent += 1

    def memory_is_bounded() -> None:
        waiting = metric(server, "pyflare_tail_bytes")
        assert_equal(KEPT_BYTES <= waiting <= 1.5 * KEPT_BYTES, True, f"bytes in memory, {waiting}, are at the limit")

    runner.check(f"away for long: memory is bounded ({sent} spans of 1 MB)", lambda: eventually(memory_is_bounded, 30))
    engine.start()
    everything = [before + sent] * 2
    runner.check(
        "back after long: all of it is stored, once",
        lambda: eventually(lambda: assert_equal(stored_spans(engine, database), everything, "rows, spans"), 60),
    )
    runner.check("back after long: ready again", lambda: eventually(lambda: assert_equal(readiness(server), "", "")))


def large(number: int, source: random.Random) -> bytes:
    """A request with one span of a megabyte."""
    request = ExportTraceServiceRequest()
    request.ParseFromString(build(number, number, source).body)
    attribute = request.resource_spans[0].scope_spans[0].spans[0].attributes.add()
    attribute.key = "note"
    attribute.value.string_value = "all work and no play " * (LARGE_BYTES // 21)
    return bytes(request.SerializeToString())


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"{server.api_url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def killed_under_load(
    server: Server, engine: ClickHouse, scratch: Path, kills: int, seconds: float, seed: int
) -> Report:
    """The server, ClickHouse, or both, at random moments."""
    report = Report()
    source = random.Random(seed)
    senders = Senders(lambda: server.endpoints, seed, THREADS, RATE)
    senders.start()
    pause = seconds / (kills + 1)
    for number in range(1, kills + 1):
        time.sleep(source.uniform(0.3 * pause, 1.7 * pause))
        victim = ("server", "clickhouse", "both")[number % 3]
        print(f"kill {number}/{kills}: {victim}", flush=True)
        if victim != "server":
            engine.kill()
        if victim != "clickhouse":
            server.kill()
            server.launch()
        if victim != "server":
            time.sleep(source.uniform(0.0, 1.0))
            engine.start()
        if victim != "clickhouse":
            server.wait_until_ready()
        senders.send_again(5)
    time.sleep(pause)
    senders.stop(max(SETTLE_SECONDS, SEND_TIMEOUT_SECONDS))
    check_content(report, server, senders.batches, scratch, "after the kills", SETTLE_SECONDS)
    code = server.stop()
    report.check("an orderly stop ends with 0", [] if code == 0 else [f"the exit code was {code}"])
    rows, spans = stored_spans(engine, "killed")
    report.check(
        "in ClickHouse itself no span is there twice",
        [] if rows == spans else [f"{rows} rows of {spans} spans"],
    )
    server.start()
    check_content(report, server, senders.batches, scratch, "after an orderly restart", SETTLE_SECONDS)
    return report


def over_tls(runner: Runner, server: Server, engine: ClickHouse, scratch: Path) -> None:
    """The same history over TLS, and no word to a server that nobody vouches for."""
    before = stored_spans(engine, "same")[0]
    server.kill()
    front = TlsFront(scratch / "tls", engine.port).start()
    url = f"clickhouse://{clickhouse.USER}@127.0.0.1:{front.port}/same?secure=true"
    in_the_clear = server.arguments
    server.arguments = ["--store-url", url, "--store-flush-seconds", "1"]
    server.environment = {"SSL_CERT_FILE": str(front.authority)}
    try:
        server.start()
        post(server, build(30_000, 30_099, random.Random(17)).body)
        everything = [before + 100] * 2
        runner.check("TLS: history is there", lambda: eventually(lambda: counted(server, before + 100)))
        runner.check(
            "TLS: all of it is stored, once",
            lambda: eventually(lambda: assert_equal(stored_spans(engine, "same"), everything, "rows, spans"), 30),
        )
        runner.check("TLS: that is how it came", lambda: assert_equal(front.connections > 0, True, "connections"))
        runner.check(
            "refused: a certificate of nobody's",
            lambda: refused(
                server.binary, scratch, "untrusted", url, "PF-2305", "certificate", f"127.0.0.1:{front.port}"
            ),
        )
    finally:
        server.kill()
        server.arguments, server.environment = in_the_clear, {}
        front.stop()


def refused(binary: Path, scratch: Path, name: str, url: str, *parts: str) -> None:
    """The server does not start, and says why without the password."""
    server = Server(binary, scratch / name, ["--store-url", url])
    server.launch()
    if server.process is None:
        raise AssertionError("the server was not launched")
    try:
        code = server.process.wait(40)
    finally:
        server.kill()
    text = server.log.read_text(errors="replace")
    assert_equal(code != 0, True, "it ends with a failure")
    for part in parts:
        assert_equal(part in text, True, f"{part!r} is in what it says: {text[-1500:]}")
    assert_equal(clickhouse.PASSWORD in text or "a-guess" in text, False, "the password is in what it says")


def run(options: argparse.Namespace, scratch: Path) -> tuple[int, int]:
    runner = Runner(options.only)
    binary = options.binary.resolve()
    engine = ClickHouse(scratch / "clickhouse")
    engine.start()
    os.environ["PYFLARE_STORE_PASSWORD"] = clickhouse.PASSWORD

    def at(database: str) -> list[str]:
        url = f"clickhouse://{clickhouse.USER}@127.0.0.1:{engine.port}/{database}"
        return ["--store-url", url, "--store-flush-seconds", "1"]

    server = Server(binary, scratch / "data", at("same"))
    delta = Server(binary, scratch / "delta", ["--store-flush-seconds", "1"])
    killed = Server(binary, scratch / "killed", at("killed"))
    failed_before = 0
    passed_before = 0
    try:
        server.start()
        delta.start()
        same_answers(runner, server, delta)
        current = functools.partial(current_content, server, engine, "same")
        runner.check("a view's content in ClickHouse is the view", lambda: eventually(current))
        delta.kill()
        away_and_back(runner, server, engine, "same")
        away_for_long(runner, server, engine, "same")
        over_tls(runner, server, engine, scratch)
        os.environ["PYFLARE_STORE_PASSWORD"] = "a-guess"
        url = at("same")[1]
        runner.check(
            "refused: a wrong password",
            lambda: refused(binary, scratch, "password", url, "PF-2306", "store.password", f"127.0.0.1:{engine.port}"),
        )
        os.environ["PYFLARE_STORE_PASSWORD"] = clickhouse.PASSWORD
        engine.query("INSERT INTO same._pyflare_schema (version, written_by) VALUES (77, 'a later version')")
        runner.check(
            "refused: a newer schema", lambda: refused(binary, scratch, "newer", url, "PF-2307", "version 77", "same")
        )
        runner.check(
            "refused: a password in the address",
            lambda: refused(
                binary, scratch, "inline", url.replace("@", f":{clickhouse.PASSWORD}@"), "PF-2308", "store.password"
            ),
        )
        nowhere = f"clickhouse://127.0.0.1:{clickhouse.free_port()}/x"
        runner.check(
            "refused: nobody listens", lambda: refused(binary, scratch, "nowhere", nowhere, "PF-2305", nowhere[13:-2])
        )
        if not options.only or "kill" in options.only:
            seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
            print(f"seed {seed} (repeat with --seed {seed})", flush=True)
            killed.start()
            report = killed_under_load(killed, engine, scratch, options.kills, options.seconds, seed)
            passed_before, failed_before = report.passed, report.failed
    finally:
        for one in (server, delta, killed):
            one.kill()
        engine.kill()
    if runner.failed or failed_before:
        for one in (server, killed):
            print(f"the log of {one.data_dir.name} ends:\n{one.log_tail(40)}")
    return runner.passed + passed_before, runner.failed + failed_before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--kills", type=int, default=6, help="of the server, of ClickHouse, of both, in turn")
    parser.add_argument("--seconds", type=float, default=25.0, help="of load, over which the kills are spread")
    parser.add_argument("--seed", type=int, default=None, help="default: random, and printed")
    parser.add_argument("--only", default=None, help="only checks whose name contains this")
    parser.add_argument("--keep", type=Path, default=None, help="keep data and logs in this folder")
    options = parser.parse_args()
    try:
        clickhouse.install()
    except Unavailable as reason:
        required = os.environ.get("CI") or os.environ.get("PYFLARE_REQUIRE_SERVICES")
        print(f"{'FAIL' if required else 'skip'} ClickHouse: {reason}")
        return 1 if required else 0
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        passed, failed = run(options, options.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="pyflare-clickhouse-") as scratch:
            passed, failed = run(options, Path(scratch))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
