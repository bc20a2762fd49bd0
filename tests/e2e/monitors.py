"""Health, projects, deduplication and a user's monitor, seen from outside."""

from __future__ import annotations

import json
import time
from collections import Counter

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from clients import Sent
from refusals import FIXTURE, request
from runner import assert_equal, eventually
from server import Server, post_json

MONITOR = "spans_by_kind"
MONITOR_SQL = (
    f"CREATE MONITOR {MONITOR} AS SELECT service_name, kind, count(*) AS spans, min(duration_ns) AS fastest, "
    "max(duration_ns) AS slowest FROM spans GROUP BY service_name, kind"
)


def recorded(service: str) -> ExportTraceServiceRequest:
    """The recorded request as if `service` had just sent it: what has been recorded is older than monitors look back."""
    message = ExportTraceServiceRequest.FromString(FIXTURE.read_bytes())
    for attribute in message.resource_spans[0].resource.attributes:
        if attribute.key == "service.name":
            attribute.value.string_value = service
    spans = [span for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans]
    later = time.time_ns() - max(span.end_time_unix_nano for span in spans)
    for span in spans:
        span.start_time_unix_nano += later
        span.end_time_unix_nano += later
        for event in span.events:
            event.time_unix_nano += later
    return message


def healthy(server: Server) -> None:
    """/healthz and /readyz say 200, and the OpenAPI document describes what this test uses."""
    for path in ("/healthz", "/readyz"):
        assert_equal(request(server.api_url + path).status, 200, f"status of {path}")
    document = server.get("/api/openapi.json")
    assert str(document.get("openapi", "")).startswith("3."), f"openapi is {document.get('openapi')!r}"
    for path in ("/api/v1/sql", "/api/v1/views/{name}", "/api/v1/monitors", "/api/v1/traces"):
        assert path in document["paths"], f"{path} is not in the OpenAPI document: {sorted(document['paths'])}"


def not_seen_elsewhere(server: Server, sent: Sent) -> None:
    """Another project's views and spans do not show what this one sent."""
    rows = server.sql(f"SELECT count(*) FROM history.spans WHERE service_name = '{sent.service}'")
    assert_equal(int(rows[0][0]), 0, f"spans of project {sent.project} seen by default")
    answer = server.get("/api/v1/views/requests?limit=100000")
    names = [column["name"] for column in answer["columns"]]
    services = {dict(zip(names, row, strict=True))["service_name"] for row in answer["rows"]}
    assert sent.service not in services, f"the view shows {sent.service} of project {sent.project} to default"


def same_body_counts_once(server: Server) -> None:
    """One body three times, over both transports' front doors: one admission."""
    assert server.endpoints is not None
    message = ExportTraceServiceRequest.FromString(FIXTURE.read_bytes())
    message.resource_spans[0].resource.attributes[0].value.string_value = "sent-thrice"
    for attribute in message.resource_spans[0].resource.attributes:
        if attribute.key == "service.name":
            attribute.value.string_value = "sent-thrice"
    body = message.SerializeToString()
    for _ in range(3):
        assert_equal(request(f"{server.endpoints.otlp_http_url}/v1/traces", body).status, 200, "status")
    wanted = sum(len(scope.spans) for resource in message.resource_spans for scope in resource.scope_spans)

    def claim() -> None:
        rows = server.sql("SELECT count(*) FROM history.spans WHERE service_name = 'sent-thrice'")
        assert_equal(int(rows[0][0]), wanted, "spans in the store")

    eventually(claim)


def lives_and_dies(server: Server, everything: list[Sent]) -> None:
    """Created over SQL, listed, right for what is sent afterwards, dropped, gone."""
    answer = post_json(f"{server.api_url}/api/v1/monitors", {"sql": MONITOR_SQL})
    assert answer, "an empty answer to the creation of a monitor"
    listed = server.get("/api/v1/monitors?limit=1000")["items"]
    assert MONITOR in {item["name"] for item in listed}, f"the monitor is not listed: {listed}"
    message = recorded("monitored")
    spans = message.resource_spans[0].scope_spans[0].spans
    assert server.endpoints is not None
    sent = request(f"{server.endpoints.otlp_http_url}/v1/traces", message.SerializeToString())
    assert_equal(sent.status, 200, "status")
    kinds = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
    wanted = Counter(kinds[span.kind] for span in spans)
    durations = {
        kind: [s.end_time_unix_nano - s.start_time_unix_nano for s in spans if kinds[s.kind] == kind] for kind in wanted
    }

    def claim() -> None:
        rows = server.sql(f"SELECT kind, spans, fastest, slowest FROM live.{MONITOR} WHERE service_name = 'monitored'")
        found = {kind: (int(count), int(low), int(high)) for kind, count, low, high in rows}
        expected = {kind: (wanted[kind], min(durations[kind]), max(durations[kind])) for kind in wanted}
        assert_equal(found, expected, "content of the monitor")

    eventually(claim)
    dropped = request(f"{server.api_url}/api/v1/monitors/{MONITOR}", method="DELETE")
    assert dropped.status in (200, 204), f"DELETE: {dropped.status} {dropped.body[:300]!r}"
    view = f"{server.api_url}/api/v1/views/{MONITOR}"
    eventually(lambda: assert_equal(request(view).status, 404, "status of the dropped view"))


def begins_in_the_past(server: Server) -> None:
    """With `backfill` a monitor has what came before it, stored or not, once; also after a kill; refusals are told."""
    assert server.endpoints is not None
    counted = "SELECT kind, count(*) AS n, sum(duration_ns) AS whole FROM spans WHERE service_name = 'earlier' GROUP BY kind"

    def send() -> None:
        sent = request(f"{server.endpoints.otlp_http_url}/v1/traces", recorded("earlier").SerializeToString())
        assert_equal(sent.status, 200, "status")

    def rows(relation: str) -> list[list[str]]:
        return sorted(server.sql(f"SELECT kind, n, whole FROM {relation}"))

    def stored() -> list[list[str]]:
        return sorted(server.sql(counted.replace("FROM spans", "FROM history.spans")))

    def equal() -> None:
        assert_equal(rows("live.earlier"), stored(), "what the monitor and the history have")

    send()
    eventually(lambda: assert_equal(len(stored()) > 0, True, "the first request is there"))
    time.sleep(11)  # By now it has been flushed.
    send()
    eventually(lambda: assert_equal(int(stored()[0][1]) % 2, 0, "the second request is there"))
    server.sql(f"CREATE MONITOR earlier WITH (backfill = '1 hour') AS {counted}")
    equal()
    assert rows("live.earlier"), "the monitor has rows at once"
    assert_equal(server.sql("SELECT * FROM pyflare_internal.backfills"), [], "nothing is being read any more")
    send()
    eventually(lambda: assert_equal(int(stored()[0][1]) % 3, 0, "the third request is there"))
    eventually(equal)
    for query, hint in (
        ("CREATE MONITOR other WITH (backfill = '1 hour') AS SELECT count(*) AS n FROM earlier", "only views"),
        ("CREATE MONITOR other WITH (backfill = '1 hour', max_rows = 1) AS SELECT span_id FROM spans", "max_rows"),
        ("CREATE MONITOR other WITH (backfill = '1 hour', retention = '360 days') AS SELECT span_id FROM spans", "stores"),
    ):
        body = json.dumps({"query": query}).encode()
        refused = request(f"{server.api_url}/api/v1/sql", body, content_type="application/json")
        told = refused.body.decode()
        assert refused.status == 400 and "PF-3016" in told and hint in told, f"{refused.status} {told}"
    server.sql("DROP MONITOR earlier")


def altered(server: Server) -> None:
    """ALTER keeps the content where rows are kept as before; bad options and readers are refused with their codes."""
    for sql in (
        "CREATE MONITOR per_status WITH (description = 'before') AS SELECT status, count(*) AS n FROM spans GROUP BY 1",
        "CREATE MONITOR states AS SELECT count(*) AS states, sum(n) AS n FROM live.per_status",
    ):
        server.sql(sql)
    assert server.endpoints is not None
    message = recorded("altered")
    sent = request(f"{server.endpoints.otlp_http_url}/v1/traces", message.SerializeToString())
    assert_equal(sent.status, 200, "status")
    wanted = sum(len(scope.spans) for resource in message.resource_spans for scope in resource.scope_spans)

    def counted() -> None:
        assert_equal(int(server.sql("SELECT sum(n) FROM live.per_status")[0][0] or 0), wanted, "spans counted")

    eventually(counted)
    body = json.dumps({"query": "ALTER MONITOR per_status SET (max_rows = 1000)"}).encode()
    refused = request(f"{server.api_url}/api/v1/sql", body, content_type="application/json")
    assert_equal((refused.status, json.loads(refused.body)["code"]), (409, "PF-3011"), "ALTER of what is read")
    server.sql("DROP MONITOR states")
    server.sql("ALTER MONITOR per_status SET (max_rows = 1000, description = 'after')")
    counted()
    listed = {item["name"]: item for item in server.get("/api/v1/monitors?limit=1000")["items"]}
    assert_equal(listed["per_status"]["description"], "after", "description")
    for sql, code in (
        ("ALTER MONITOR per_status SET (colour = 'red')", "PF-4004"),
        ("ALTER MONITOR per_status SET (retention = 'soon')", "PF-4004"),
        ("ALTER MONITOR per_status", "PF-4001"),
        ("ALTER MONITOR nobody SET (max_rows = 1000)", "PF-5013"),
        ("ALTER MONITOR requests SET (max_rows = 1000)", "PF-3003"),
    ):
        answer = request(
            f"{server.api_url}/api/v1/sql", json.dumps({"query": sql}).encode(), content_type="application/json"
        )
        assert_equal(json.loads(answer.body).get("code"), code, sql)
    server.sql("ALTER MONITOR IF EXISTS nobody RESET (retention)")
    server.sql("DROP MONITOR per_status")


def over_others(server: Server) -> None:
    """A view joined with the stream, one over it, and one that begins with what is there; drops go from the top."""
    create = [
        "CREATE MONITOR per_kind AS SELECT kind, count(*) AS spans, max(duration_ns) AS slowest FROM spans "
        "WHERE service_name = 'joined-up' GROUP BY kind",
        "CREATE MONITOR slowest_of_kind AS SELECT s.span_id, s.kind FROM spans AS s JOIN per_kind AS k "
        "ON s.kind = k.kind AND s.duration_ns = k.slowest WHERE s.service_name = 'joined-up'",
        "CREATE MONITOR kinds AS SELECT count(*) AS kinds, sum(spans) AS spans FROM live.per_kind",
    ]
    for sql in create:
        post_json(f"{server.api_url}/api/v1/monitors", {"sql": sql})
    message = recorded("joined-up")
    spans = message.resource_spans[0].scope_spans[0].spans
    assert server.endpoints is not None
    sent = request(f"{server.endpoints.otlp_http_url}/v1/traces", message.SerializeToString())
    assert_equal(sent.status, 200, "status")
    longest: dict[int, int] = {}
    for span in spans:
        longest[span.kind] = max(longest.get(span.kind, 0), span.end_time_unix_nano - span.start_time_unix_nano)
    slowest = {s.span_id.hex() for s in spans if s.end_time_unix_nano - s.start_time_unix_nano == longest[s.kind]}

    def claim() -> None:
        found = {row[0] for row in server.sql("SELECT span_id FROM live.slowest_of_kind")}
        assert_equal(found, slowest, "the slowest spans")
        totals = [[int(value) for value in row] for row in server.sql("SELECT kinds, spans FROM live.kinds")]
        assert_equal(totals, [[len(longest), len(spans)]], "totals over the view")

    eventually(claim)
    post_json(
        f"{server.api_url}/api/v1/monitors",
        {"sql": "CREATE MONITOR afterwards AS SELECT kind, slowest FROM per_kind WHERE spans > 0"},
    )
    rows = server.sql("SELECT count(*) FROM live.afterwards")
    assert_equal(int(rows[0][0]), len(longest), "what a new view over a view shows at once")
    refused = request(f"{server.api_url}/api/v1/monitors/per_kind", method="DELETE")
    assert refused.status == 409 and b"PF-3011" in refused.body, f"{refused.status} {refused.body[:300]!r}"
    for name in ("afterwards", "kinds", "slowest_of_kind", "per_kind"):
        dropped = request(f"{server.api_url}/api/v1/monitors/{name}", method="DELETE")
        assert dropped.status in (200, 204), f"DELETE {name}: {dropped.status} {dropped.body[:300]!r}"


def tells_about_itself(server: Server) -> None:
    """pyflare_internal, EXPLAIN and EXPLAIN ANALYZE say what runs; a monitor beyond its limit is stopped, with a reason."""
    spans = "(SELECT * FROM spans WHERE service_name = 'introspected')"
    create = {
        "kept": f"CREATE MONITOR kept AS SELECT kind, count(*) AS n, max(duration_ns) AS m FROM {spans} GROUP BY kind",
        "kept_too": f"CREATE MONITOR kept_too AS SELECT kind, count(*) + 1 AS n FROM {spans} GROUP BY kind",
        "paired": f"CREATE MONITOR paired AS SELECT a.kind, a.n, b.m FROM (SELECT kind, count(*) AS n FROM {spans} "
        f"GROUP BY kind) AS a JOIN (SELECT kind, max(duration_ns) AS m FROM {spans} GROUP BY kind) AS b ON a.kind = b.kind",
        "product": f"CREATE MONITOR product WITH (max_tick_rows = '2') AS SELECT a.span_id, b.span_id AS other "
        f"FROM {spans} AS a JOIN {spans} AS b ON a.service_name = b.service_name",
    }
    for sql in create.values():
        post_json(f"{server.api_url}/api/v1/monitors", {"sql": sql})
    message = recorded("introspected")
    sent_spans = message.resource_spans[0].scope_spans[0].spans
    kinds = len({span.kind for span in sent_spans})
    assert server.endpoints is not None
    sent = request(f"{server.endpoints.otlp_http_url}/v1/traces", message.SerializeToString())
    assert_equal(sent.status, 200, "status")

    def claim() -> None:
        rows = server.sql("SELECT name, state, reason, rows, state_rows FROM pyflare_internal.monitors")
        found = {row[0]: row[1:] for row in rows}
        assert found["product"][0] == "stopped", f"{found['product']}"
        assert "PF-3013" in found["product"][1] and "max_tick_rows = 2 " in found["product"][1], f"{found['product']}"
        assert_equal(int(found["product"][2]), 0, "rows of the stopped monitor")
        for name in ("kept", "kept_too", "paired"):
            assert_equal((found[name][:2], int(found[name][2])), (["running", None], kinds), name)
            assert int(found[name][3]) >= kinds, f"{name} keeps {found[name][3]} rows"

    eventually(claim)
    assert {row[0] for row in server.sql("SELECT kind FROM pyflare_internal.monitors")} == {"builtin", "monitor"}
    bases = server.sql("SELECT DISTINCT views FROM pyflare_internal.arrangements WHERE kind = 'base'")
    assert any({"kept", "kept_too", "paired"} <= set(row[0].replace("default/", "").split(",")) for row in bases), bases

    def joined() -> None:
        """Figures are told a moment after the tick."""
        joins = server.sql(
            "SELECT sum(rows_out) FROM pyflare_internal.operators WHERE monitor = 'paired' AND operator = 'join'"
        )
        assert_equal(int(joins[0][0]), kinds, "rows that the join gave")

    eventually(joined)
    streams = server.sql("SELECT admitted_rows FROM pyflare_internal.streams WHERE stream = 'spans' AND mark IS NOT NULL")
    assert int(streams[0][0]) >= len(sent_spans), streams
    errors = server.sql("SELECT monitor, errors FROM pyflare_internal.errors WHERE error LIKE 'PF-3013%'")
    assert_equal([[row[0], int(row[1])] for row in errors], [["product", 1]], "errors of the stopped monitor")
    assert server.sql("SELECT count(*) FROM pyflare_internal.late_rows")
    # Another project sees the built-in views only.
    stranger = {"x-pyflare-project": "stranger"}
    rows = server.sql("SELECT DISTINCT project FROM pyflare_internal.monitors", headers=stranger)
    assert_equal(rows, [[None]], "projects of the monitors that a stranger sees")
    assert_equal(server.sql("SELECT * FROM pyflare_internal.errors", headers=stranger), [], "errors a stranger sees")
    views = server.sql("SELECT views FROM pyflare_internal.arrangements", headers=stranger)
    assert not any("kept" in row[0] for row in views), views
    wrong = request(
        f"{server.api_url}/api/v1/sql",
        b'{"query": "SELECT nothing FROM pyflare_internal.monitors"}',
        content_type="application/json",
    )
    assert wrong.status == 400 and b"nothing" in wrong.body, f"{wrong.status} {wrong.body[:300]!r}"

    explained = post_json(f"{server.api_url}/api/v1/monitors/explain", {"sql": create["kept"].replace("kept", "kept_3")})
    assert_equal(len(explained["nodes"]), len(explained["plan"].splitlines()), "nodes and lines of the plan")
    assert_equal([node["node"] for node in explained["nodes"]], list(range(len(explained["nodes"]))), "numbers")
    for node, line in zip(explained["nodes"], explained["plan"].splitlines(), strict=True):
        assert line.strip().startswith(node["title"]) and line.strip().endswith(node["detail"]), (node, line)
    readers = {name for node in explained["nodes"] for name in node["shared_with"]}
    assert_equal(readers, {"kept", "kept_too", "paired"}, "who shares")
    analyzed = server.get("/api/v1/monitors/paired/explain?analyze=true")
    by_node = {figures["node"]: figures for figures in analyzed["analyze"]}
    for node in analyzed["nodes"]:
        if node["title"] == "Join":
            assert_equal(by_node[node["node"]]["rows_out"], kinds, "rows that the join gave")
            assert by_node[node["node"]]["state_rows"] >= 2 * kinds, by_node
            assert by_node[node["node"]]["state_bytes"] > 0, by_node
    assert any(figures["busy_us"] > 0 for figures in by_node.values()), by_node
    told = server.sql("EXPLAIN ANALYZE MONITOR paired")
    assert sum(row[0] == "analyze" for row in told) == len(by_node), told
    for name in create:
        dropped = request(f"{server.api_url}/api/v1/monitors/{name}", method="DELETE")
        assert dropped.status in (200, 204), f"DELETE {name}: {dropped.status} {dropped.body[:300]!r}"


def no_panic(server: Server) -> None:
    text = server.log.read_text(errors="replace") if server.log.exists() else ""
    panics = [line for line in text.splitlines() if "panicked" in line]
    assert not panics, "\n".join(panics[:10])


def dropped_with_readers(server: Server) -> None:
    """DROP MONITOR is refused while another one reads it; CASCADE drops those first."""
    server.sql("CREATE MONITOR lowest AS SELECT name, count(*) AS n FROM spans GROUP BY name")
    server.sql("CREATE MONITOR middle AS SELECT n, count(*) AS names FROM lowest GROUP BY n")
    server.sql("CREATE MONITOR highest AS SELECT max(names) AS most FROM middle")
    refused = request(
        f"{server.api_url}/api/v1/sql", b'{"query": "DROP MONITOR lowest RESTRICT"}', content_type="application/json"
    )
    assert_equal((refused.status, b"PF-3011" in refused.body), (409, True), "a drop of what is read")
    assert_equal(server.sql("DROP MONITOR lowest CASCADE"), [["lowest", "dropped"]], "outcome")
    left = {row[0] for row in server.sql("SHOW MONITORS")} & {"lowest", "middle", "highest"}
    assert_equal(left, set(), "monitors that are left")
