"""Users' streams: declared in SQL, sent as NDJSON and by pyarrow, counted by monitors; DuckDB says what is right."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import requests

from runner import assert_equal, eventually
from server import Server

NDJSON = {"content-type": "application/x-ndjson"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
DECLARATION = (
    "CREATE STREAM predictions (id BIGINT NOT NULL, happened TIMESTAMP, model TEXT, score DOUBLE, price DECIMAL(38, 12), "
    "tags TEXT[], features JSON) WITH (event_time = 'happened', lateness = '1 minute', description = 'What the model said')"
)
OUTCOMES = "CREATE STREAM outcomes (id BIGINT NOT NULL, label BOOLEAN)"
MONITORS = {
    "predictions_by_minute": "SELECT window_start, model, count(*) AS n, sum(price) AS price, min(score) AS least, "
    "max(id) AS newest FROM TUMBLE(predictions, happened, INTERVAL '1 minute') GROUP BY window_start, model",
    "labelled": "SELECT p.model, o.label, count(*) AS n, avg(p.score) AS mean FROM predictions p "
    "JOIN outcomes o ON p.id = o.id GROUP BY p.model, o.label",
    "unlabelled": "SELECT p.id FROM predictions p WHERE NOT EXISTS (SELECT 1 FROM outcomes o WHERE o.id = p.id) "
    "AND p.id % 10 = 0",
}
ORACLE = {
    "predictions_by_minute": "SELECT date_trunc('minute', happened AT TIME ZONE 'UTC'), model, count(*), sum(price), "
    "min(score), max(id) FROM predictions GROUP BY ALL",
    "labelled": "SELECT model, label, count(*), avg(score) FROM predictions JOIN outcomes USING (id) GROUP BY ALL",
    "unlabelled": "SELECT id FROM predictions WHERE id NOT IN (SELECT id FROM outcomes) AND id % 10 = 0",
}


def _rows(first: int, count: int, start: datetime) -> list[dict[str, Any]]:
    chance = random.Random(first)
    return [
        {
            "id": number,
            "happened": start + timedelta(seconds=chance.uniform(0, 100)),
            "model": chance.choice(["größe-1", "b", None]),
            "score": chance.choice([chance.random(), float(chance.randint(0, 3)), None]),
            "price": f"{chance.randint(0, 10**9)}.{chance.randint(0, 10**12 - 1):012d}",
            "tags": chance.choice([[], ["a", "ü"], None]),
            "features": {"age": chance.randint(0, 99), "name": None},
        }
        for number in range(first, first + count)
    ]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, default=lambda at: at.isoformat()) for row in rows).encode()


def _arrow(rows: list[dict[str, Any]]) -> bytes:
    """As a data frame would come: dictionaries, nanoseconds, several batches."""
    columns = {
        "model": pa.array([row["model"] for row in rows]).dictionary_encode(),
        "id": pa.array([row["id"] for row in rows], pa.int32()),
        "happened": pa.array([row["happened"] for row in rows], pa.timestamp("ns", "UTC")),
        "score": pa.array([row["score"] for row in rows], pa.float64()),
        "price": pa.array([pa.scalar(row["price"]).cast(pa.decimal128(38, 12)) for row in rows]),
        "tags": pa.array([row["tags"] for row in rows], pa.list_(pa.string())),
    }
    table = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=97)
    return sink.getvalue()


def _post(server: Server, stream: str, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(f"{server.api_url}/api/v1/streams/{stream}", data=body, headers=headers, timeout=30)


def _accepted(answer: requests.Response, rows: int) -> None:
    assert_equal(answer.status_code, 200, f"status ({answer.text[:300]})")
    assert_equal((answer.json()["accepted"], answer.json()["rejected"]), (rows, []), "accepted rows")


def counted_exactly(server: Server) -> None:
    """A thousand predictions by both encodings, outcomes for most; three monitors equal DuckDB."""
    for declaration in (DECLARATION, OUTCOMES):
        server.sql(declaration)
    for name, select in MONITORS.items():
        server.sql(f"CREATE MONITOR {name} AS {select}")
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=3)
    everything: list[dict[str, Any]] = []
    for part in range(10):
        rows = _rows(part * 100, 100, start)
        everything += rows
        body, headers = (_arrow(rows), ARROW) if part % 2 else (_lines(rows), NDJSON)
        _accepted(_post(server, "predictions", body, headers), 100)
    outcomes = [{"id": number, "label": number % 3 == 0} for number in range(0, 1100) if number % 7]
    _accepted(_post(server, "outcomes", _lines(outcomes), NDJSON), len(outcomes))

    oracle = duckdb.connect()
    oracle.execute("SET TimeZone = 'UTC'")
    oracle.execute(
        "CREATE TABLE predictions (id BIGINT, happened TIMESTAMPTZ, model TEXT, score DOUBLE, price DECIMAL(38, 12))"
    )
    oracle.executemany(
        "INSERT INTO predictions VALUES (?, ?, ?, ?, ?)",
        [[row[column] for column in ("id", "happened", "model", "score", "price")] for row in everything],
    )
    oracle.execute("CREATE TABLE outcomes (id BIGINT, label BOOLEAN)")
    oracle.executemany("INSERT INTO outcomes VALUES (?, ?)", [[row["id"], row["label"]] for row in outcomes])
    for name, query in ORACLE.items():
        wanted = sorted(map(_comparable, oracle.execute(query).fetchall()))

        def claim(name: str = name, wanted: list[str] = wanted) -> None:
            shown = sorted(map(_comparable, server.sql(f"SELECT * FROM live.{name}")))
            assert_equal(shown, wanted, name)

        eventually(claim)
    stored = server.sql("SELECT count(*), count(DISTINCT id) FROM history.predictions")
    assert_equal([int(value) for value in stored[0]], [1000, 1000], "stored rows")


def leave_by_themselves(server: Server) -> None:
    """A window that slides by now(): rows of the last seconds are in it, and leave it while nothing comes."""
    server.sql("CREATE STREAM moments (id BIGINT, happened TIMESTAMP) WITH (event_time = 'happened')")
    server.sql(
        "CREATE MONITOR recent AS SELECT count(*) AS n FROM moments WHERE happened > now() - INTERVAL '4 seconds'"
    )
    now = datetime.now(UTC)
    rows = [{"id": number, "happened": now} for number in range(5)]
    rows.append({"id": 5, "happened": now - timedelta(minutes=1)})
    _accepted(_post(server, "moments", _lines(rows), NDJSON), len(rows))
    eventually(lambda: assert_equal(int(server.sql("SELECT n FROM live.recent")[0][0]), 5, "rows of the last seconds"))
    eventually(lambda: assert_equal(int(server.sql("SELECT n FROM live.recent")[0][0]), 0, "rows after they have left"))
    server.sql("DROP MONITOR recent")
    server.sql("DROP STREAM moments")


def _comparable(row: Any) -> str:
    def text(value: Any) -> str:
        if isinstance(value, str) and value.endswith("Z"):
            return datetime.fromisoformat(value).strftime("%Y-%m-%dT%H:%M")
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%dT%H:%M")
        return f"{value:.9g}" if isinstance(value, float) else str(value)

    return " | ".join(map(text, row))


def repeated_requests(server: Server) -> None:
    """The same rows twice are two rows; with the same Idempotency-Key they are one."""
    server.sql("CREATE STREAM repeated (x BIGINT)")
    server.sql("CREATE MONITOR repeats AS SELECT count(*) AS n FROM repeated")
    body = _lines([{"x": 1}])
    for headers in (NDJSON, NDJSON, {**NDJSON, "Idempotency-Key": "k1"}, {**NDJSON, "Idempotency-Key": "k1"}):
        _accepted(_post(server, "repeated", body, headers), 1)
    eventually(lambda: assert_equal(server.sql("SELECT n FROM live.repeats"), [[3]], "rows"))
    time.sleep(0.5)
    assert_equal(server.sql("SELECT n FROM live.repeats"), [[3]], "rows")
    answer = requests.delete(f"{server.api_url}/api/v1/streams/repeated", timeout=10)
    assert_equal((answer.status_code, answer.json()["code"]), (409, "PF-3011"), "drop of a stream that is read")
    server.sql("DROP MONITOR repeats")
    answer = requests.delete(f"{server.api_url}/api/v1/streams/repeated", timeout=10)
    assert_equal(answer.status_code, 204, "drop")
    listed = requests.get(f"{server.api_url}/api/v1/streams", timeout=10).json()["items"]
    assert "repeated" not in {item["name"] for item in listed}, "a dropped stream is listed"


def refusals(server: Server) -> list[tuple[str, Callable[[], None]]]:
    """Bad rows, bodies, names and declarations: a code each, and nothing is lost beside them."""

    def some_rows() -> None:
        good = _rows(5000, 2, datetime.now(UTC))
        body = b"\n".join([b"nonsense", _lines(good[:1]), b'{"id": 1, "colour": 2}', b"", b'{"happened": 5}', _lines(good[1:])])
        answer = _post(server, "predictions", body, NDJSON)
        assert_equal(answer.status_code, 200, "status")
        told = [(row["row"], row["code"]) for row in answer.json()["rejected"]]
        assert_equal((answer.json()["accepted"], told), (2, [(0, "PF-1210"), (2, "PF-1211"), (3, "PF-1213")]), "answer")

    def refused(
        body: bytes, headers: dict[str, str], status: int, code: str, stream: str = "predictions"
    ) -> Callable[[], None]:
        def claim() -> None:
            answer = _post(server, stream, body, headers)
            assert_equal((answer.status_code, answer.json()["code"]), (status, code), answer.text[:300])

        return claim

    def statement(sql: str, code: str) -> Callable[[], None]:
        def claim() -> None:
            answer = requests.post(f"{server.api_url}/api/v1/sql", json={"query": sql}, timeout=10)
            assert_equal(answer.json().get("code"), code, answer.text[:300])

        return claim

    strange = io.BytesIO()
    table = pa.table({"id": pa.array([1.5])})
    with pa.ipc.new_stream(strange, table.schema) as writer:
        writer.write_table(table)
    return [
        ("rows that do not fit, beside rows that do", some_rows),
        ("no row fits", refused(b'{"id": "x"}', NDJSON, 400, "PF-1212")),
        ("nonsense as Arrow", refused(b"\xff\xff\xff\xff\x10\x00\x00\x00nonsense", ARROW, 400, "PF-1201")),
        ("Arrow of other types", refused(strange.getvalue(), ARROW, 400, "PF-1202")),
        ("Arrow cut short", refused(_arrow(_rows(0, 5, datetime.now(UTC)))[:-600], ARROW, 400, "PF-1201")),
        ("rows without a type", refused(b"{}", {"content-type": "text/plain"}, 415, "PF-5006")),
        ("compressed rows", refused(b"x", {**NDJSON, "content-encoding": "gzip"}, 415, "PF-5006")),
        ("an endless key", refused(b"{}", {**NDJSON, "Idempotency-Key": "k" * 300}, 400, "PF-5008")),
        ("rows of no stream", refused(b"{}", NDJSON, 404, "PF-3015", stream="nowhere")),
        ("a stream of OpenTelemetry", refused(b"{}", NDJSON, 404, "PF-3015", stream="spans")),
        ("a stream declared twice", statement(DECLARATION, "PF-3014")),
        ("a stream named spans", statement("CREATE STREAM spans (x BIGINT)", "PF-4003")),
        ("a type there is not", statement("CREATE STREAM s (x BLOB)", "PF-4005")),
        ("an event time that is text", statement("CREATE STREAM s (x TEXT) WITH (event_time = 'x')", "PF-4004")),
        ("a column that is there anyway", statement("CREATE STREAM s (_tick BIGINT)", "PF-4003")),
        ("a primary key", statement("CREATE STREAM s (x BIGINT PRIMARY KEY)", "PF-4006")),
    ]
