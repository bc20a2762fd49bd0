"""Erasures as a user asks for them: sent by OpenTelemetry's SDK, taken back, and killed in between."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from refusals import request
from runner import assert_equal, eventually
from server import Server, post_json

USERS = [f"user-{number}" for number in range(5)]
MONITORS = {
    "calls_by_user": "SELECT user_id, window_start, count(*) AS calls, max(duration_ns) AS worst "
    "FROM TUMBLE(spans, event_time, INTERVAL '1 second') GROUP BY user_id, window_start",
    "calls_by_model": "SELECT model, count(*) AS calls, sum(input_tokens) AS tokens FROM spans WHERE model IS NOT NULL GROUP BY model",
    "calls_and_users": "SELECT c.span_id, p.user_id FROM spans AS c JOIN spans AS p ON c.parent_span_id = p.span_id",
}
# The first has panes that end while the test runs.
OPTIONS = {"calls_by_user": "WITH (retention = '2 seconds', lateness = '1 second')"}
TRACES = 200


def _send(server: Server, first: int) -> list[dict[str, Any]]:
    """Traces of a user's request and two calls of models, which do not say whose they are; what was sent."""
    assert server.endpoints is not None
    provider = TracerProvider(resource=Resource.create({"service.name": "chat"}))
    exporter = OTLPSpanExporter(f"{server.endpoints.otlp_http_url}/v1/traces", timeout=30)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=10_000))
    tracer = provider.get_tracer("erasures")
    chance = random.Random(first)
    sent = []
    for number in range(first, first + TRACES):
        user = chance.choice(USERS)
        with tracer.start_as_current_span("request", attributes={"user.id": user}) as root:
            trace = f"{root.get_span_context().trace_id:032x}"
            sent.append({"trace": trace, "user": user, "model": None, "tokens": 0})
            for _ in range(2):
                model, tokens = chance.choice(["a", "ü"]), chance.randint(1, 999)
                attributes = {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.request.model": model,
                    "gen_ai.usage.input_tokens": tokens,
                    "gen_ai.prompt": f"words of {user}, {number}",
                }
                with tracer.start_as_current_span("chat", attributes=attributes):
                    pass
                sent.append({"trace": trace, "user": user, "model": model, "tokens": tokens})
    provider.shutdown()
    return sent


def _erase(server: Server, wish: dict[str, Any]) -> list[int]:
    answer = post_json(f"{server.api_url}/api/v1/erasures", wish)
    return [item["id"] for item in answer["items"]]


def _wait_for(server: Server, ids: list[int], stages: set[str], seconds: float = 60) -> None:
    def claim() -> None:
        for number in ids:
            item = server.get(f"/api/v1/erasures/{number}")
            assert item["stage"] in stages, item

    eventually(claim, seconds)


def _assert_shown(server: Server, sent: list[dict[str, Any]]) -> None:
    """Views and history show what is left of what was sent, and nothing else."""

    def claim() -> None:
        models: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for call in sent:
            if call["model"] is not None:
                models[call["model"]] += 1
                tokens[call["model"]] += call["tokens"]
        wanted = sorted([model, calls, tokens[model]] for model, calls in models.items())
        found = server.sql("SELECT model, calls, tokens FROM live.calls_by_model ORDER BY model")
        assert_equal(sorted(found), wanted, "calls_by_model")
        found = server.sql("SELECT count(*), count(DISTINCT trace_id), count(user_id) FROM history.spans")
        roots = sum(call["model"] is None for call in sent)
        assert_equal(found, [[len(sent), len({call["trace"] for call in sent}), roots]], "history.spans")
        users = Counter(call["user"] for call in sent if call["model"] is None)
        found = server.sql("SELECT user_id, sum(calls) FROM history.calls_by_user WHERE user_id IS NOT NULL GROUP BY user_id")
        assert_equal(dict(map(tuple, found)), dict(users), "what is stored of calls_by_user, ended panes too")
        found = server.sql("SELECT user_id, count(*) FROM live.calls_and_users GROUP BY user_id")
        assert_equal(dict(map(tuple, found)), {user: 2 * roots for user, roots in users.items()}, "the join")

    eventually(claim, 30)


def taken_back(server: Server) -> None:
    """Rows of users leave views and history, over kills at once after the answer, and are removed."""
    for name, select in MONITORS.items():
        post_json(f"{server.api_url}/api/v1/sql", {"query": f"CREATE MONITOR {name} {OPTIONS.get(name, '')} AS {select}"})
    sent = _send(server, 0)
    _assert_shown(server, sent)
    # Panes of the first seconds end.
    time.sleep(4)
    sent += _send(server, TRACES)
    # With the whole traces.
    ids = _erase(server, {"users": [USERS[0], "nobody"]})
    assert_equal(len(ids), 2, "one for the user, one for the traces")
    _wait_for(server, ids, {"retracted", "removed"})
    sent = [call for call in sent if call["user"] != USERS[0]]
    _assert_shown(server, sent)
    # A kill at once after the answer.
    ids += _erase(server, {"users": [USERS[1]]})
    server.kill()
    server.start()
    _wait_for(server, ids, {"retracted", "removed"})
    sent = [call for call in sent if call["user"] != USERS[1]]
    _assert_shown(server, sent)
    # Without the other rows of the traces, and what comes later counts.
    alone = _erase(server, {"users": [USERS[2]], "whole_traces": False})
    _wait_for(server, alone, {"retracted", "removed"})
    left = server.sql(f"SELECT count(*) FROM history.spans WHERE user_id = '{USERS[2]}'")
    assert_equal(left, [[0]], "rows that name the user")
    traces = sorted({call["trace"] for call in sent if call["user"] == USERS[2]})
    by_trace: list[int] = []
    for first in range(0, len(traces), 1_000):
        by_trace += _erase(server, {"traces": traces[first : first + 1_000]})
    _wait_for(server, alone + by_trace, {"retracted", "removed"})
    sent = [call for call in sent if call["user"] != USERS[2]]
    sent += _send(server, 2 * TRACES)
    _assert_shown(server, sent)
    _wait_for(server, ids + alone + by_trace, {"removed"})
    internal = server.sql("SELECT count(*), sum(rows) FROM pyflare_internal.erasures WHERE stage = 'removed' AND named = 0")
    items = server.get("/api/v1/erasures?limit=100")["items"]
    assert_equal(internal, [[len(items), sum(item["rows"] for item in items)]], "pyflare_internal.erasures")
    assert server.sql("SELECT tick FROM pyflare_internal.checkpoints WHERE failure IS NULL", headers={"x-pyflare-project": "*"})
    for item in server.get("/api/v1/erasures?limit=100")["items"]:
        assert_equal(item["values"], [], "what is known of whose rows they were")
    server.kill()
    server.start()
    _assert_shown(server, sent)


def project_erased(server: Server) -> None:
    """A project as a whole, and no other one."""
    before = server.sql("SELECT count(*) FROM history.spans")
    headers = {"x-pyflare-project": "leaving"}
    assert server.endpoints is not None
    exporter = OTLPSpanExporter(f"{server.endpoints.otlp_http_url}/v1/traces", headers=headers, timeout=30)
    provider = TracerProvider(resource=Resource.create({"service.name": "chat"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    for _ in range(50):
        with provider.get_tracer("erasures").start_as_current_span("request"):
            pass
    provider.shutdown()

    def counted(wanted: int) -> Callable[[], None]:
        def claim() -> None:
            found = server.sql("SELECT count(*) FROM history.spans", headers=headers)
            assert_equal(found, [[wanted]], "spans of the project")
            rows = server.sql("SELECT coalesce(sum(requests), 0) FROM live.requests", headers=headers)
            assert_equal(int(rows[0][0]), wanted, "the view requests")

        return claim

    eventually(counted(50), 20)
    answer = post_json(f"{server.api_url}/api/v1/erasures", {"project": True}, headers)
    number = answer["items"][0]["id"]

    def claim() -> None:
        item = server.get(f"/api/v1/erasures/{number}", headers)
        assert item["stage"] != "reading", item
        assert_equal(item["rows"], 50, "rows found")

    eventually(claim, 30)
    eventually(counted(0), 10)
    # Nothing of another project is in it, nor told of it.
    assert_equal(server.sql("SELECT count(*) FROM history.spans"), before, "rows of the default project")
    other = {"x-pyflare-project": "somebody"}
    assert_equal(server.get("/api/v1/erasures", other)["items"], [], "erasures that another project sees")


def refused(server: Server) -> None:
    """What is not clear is refused, with a code and a way out."""
    url = f"{server.api_url}/api/v1/erasures"
    for body, code in (
        (b"{}", "PF-5034"),
        (b'{"users": ["a"], "project": true}', "PF-5034"),
        (b'{"users": [""]}', "PF-5034"),
        (b'{"traces": ["a"], "whole_traces": true}', "PF-5034"),
        (b'{"users": "a"}', "PF-5004"),
        (b'{"user": ["a"]}', "PF-5004"),
        (b"nonsense", "PF-5004"),
    ):
        answer = request(url, body, "application/json")
        assert_equal(answer.status, 400, f"status of {body!r}")
        assert code in answer.body.decode(), f"{body!r}: {answer.body!r}"
    assert_equal(request(f"{url}/424242").status, 404, "an erasure that is not there")


def claims(binary: Path, scratch: Path, arguments: list[str]) -> tuple[Server, list[tuple[str, Callable[[], object]]]]:
    """A server of its own, with a checkpoint a second."""
    server = Server(binary, scratch / "erasures", ["--checkpoints-seconds", "1", *arguments])
    return server, [
        ("the server starts", server.start),
        ("rows leave views, history and store", lambda: taken_back(server)),
        ("a project as a whole", lambda: project_erased(server)),
        ("what is unclear is refused", lambda: refused(server)),
    ]
