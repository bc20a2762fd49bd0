"""Each real client against the server: what it sent is stored faithfully and counted exactly."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import compare
from runner import Skipped, assert_equal, eventually
from server import Server

TESTS = Path(__file__).resolve().parent.parent
RUN = TESTS / "clients" / "run"
EXIT_MISSING_TOOL = 77
CLIENT_TIMEOUT_SECONDS = 180
TRACES_LOOKED_AT = 5
SENDS_ALL_SIGNALS = ("otel-", "collector", "telemetrygen-")

# Columns of `spans` that must say exactly what the sender kept.
FAITHFUL = (
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "kind",
    "status",
    "status_message",
    "project",
    "service_name",
    "model",
    "start_unix_nano",
    "duration_ns",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


@dataclass(frozen=True)
class Sent:
    """What one run of a client kept."""

    service: str
    project: str
    file: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.project == "default" else {"x-pyflare-project": self.project}


def names() -> list[str]:
    listed = subprocess.run([RUN, "list"], capture_output=True, text=True, check=False)
    if listed.returncode == EXIT_MISSING_TOOL:
        raise Skipped(listed.stderr.strip())
    return [line.split("\t")[0] for line in listed.stdout.splitlines()]


def send(
    server: Server,
    client: str,
    count: int,
    scratch: Path,
    project: str = "default",
    seed: int = 1,
    prefix: str = "",
) -> Sent:
    """Runs a client; raises if not everything was acknowledged. The prefix keeps its service apart from others."""
    assert server.endpoints is not None
    service = prefix + (client if project == "default" else f"{client}-{project}")
    sent = Sent(service, project, scratch / f"{service}-{seed}.ndjson")
    command = [str(RUN), client, "--endpoint-grpc", server.endpoints.otlp_grpc]
    command += ["--endpoint-http", server.endpoints.otlp_http_url, "--count", str(count)]
    command += ["--out", str(sent.file), "--service", service, "--seed", str(seed)]
    command += ["--signals", "traces,metrics,logs"]
    command += [] if project == "default" else ["--project", project]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_SECONDS)
    if finished.returncode == EXIT_MISSING_TOOL:
        raise Skipped(finished.stderr.strip())
    assert finished.returncode == 0, f"the client ended with {finished.returncode}:\n{finished.stderr[-3000:]}"
    return sent


def stored_as_sent(server: Server, sent: Sent) -> None:
    """Every span once in `history.spans`, field by field what the sender kept."""
    wanted = {line["span_id"]: _faithful(line) for line in sent.lines}

    def claim() -> None:
        rows = server.sql(
            f"SELECT {', '.join(FAITHFUL)} FROM history.spans WHERE service_name = '{sent.service}'",
            headers=sent.headers,
        )
        found = [dict(zip(FAITHFUL, row, strict=True)) for row in rows]
        assert_equal(len(found), len(wanted), "number of spans")
        for row in found:
            row["parent_span_id"] = row["parent_span_id"] or None
            row["status_message"] = row["status_message"] or None
            line = wanted.get(row["span_id"])
            assert line is not None, f"span {row['span_id']} was not sent"
            differing = {key: (row[key], line[key]) for key in FAITHFUL if row[key] != line[key]}
            assert not differing, f"span {row['span_id']} {line['name']!r}: (stored, sent) differ: {differing}"

    eventually(claim)


def _faithful(line: dict[str, Any]) -> dict[str, Any]:
    line = {**line, "duration_ns": line["end_unix_nano"] - line["start_unix_nano"]}
    line["parent_span_id"] = line["parent_span_id"] or None
    line["status_message"] = line["status_message"] or None
    return {key: line[key] for key in FAITHFUL}


def listed_as_traces(server: Server, sent: Sent) -> None:
    """Each trace is in the list of its service, and one trace has exactly its spans."""
    spans_of: dict[str, set[str]] = {}
    for line in sent.lines:
        spans_of.setdefault(line["trace_id"], set()).add(line["span_id"])

    def claim() -> None:
        query = urllib.parse.urlencode({"service": sent.service, "limit": 1000})
        answer = server.get(f"/api/v1/traces?{query}", headers=sent.headers)
        listed = {item["trace_id"] for item in answer["items"]}
        missing = spans_of.keys() - listed
        assert not missing, f"{len(missing)} of {len(spans_of)} traces are not listed, first {min(missing)}"
        assert_equal(sorted(listed - spans_of.keys()), [], "traces listed that the service did not send")
        for trace_id in sorted(spans_of)[:TRACES_LOOKED_AT]:
            trace = server.get(f"/api/v1/traces/{trace_id}", headers=sent.headers)
            found = {span["span_id"] for span in trace["spans"]}
            assert_equal(found, spans_of[trace_id], f"spans of trace {trace_id}")

    eventually(claim)


def other_signals_stored(server: Server, sent: Sent, count: int) -> None:
    """Clients that send metrics and logs too: a row per log record, and the data points."""

    def rows(stream: str) -> int:
        query = f"SELECT count(*) FROM history.{stream} WHERE service_name = '{sent.service}'"
        return int(server.sql(query, headers=sent.headers)[0][0])

    def claim() -> None:
        assert_equal(rows("logs"), count, "log records")
        assert rows("metrics") > 0, "no data point is stored"

    eventually(claim)


def counted_exactly(server: Server, sent: list[Sent]) -> None:
    """The built-in views are what DuckDB computes from the senders' files."""
    differences = compare(server.api_url, [one.file for one in sent], headers=sent[0].headers, wait_seconds=15.0)
    assert not differences, "\n".join(differences[:20])
