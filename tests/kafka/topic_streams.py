"""Streams over Kafka topics: what `sales.py` has written must be there once, and exactly in a monitor over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kafka
from report import Report
from server import Server, ServerFailed

TOPIC = "shop.sales"
STREAM = """CREATE STREAM sales (id BIGINT NOT NULL, at TIMESTAMP, shop TEXT, amount DOUBLE)
WITH (event_time = 'at', lateness = '5 minutes') FROM KAFKA TOPIC 'shop.sales'"""
MONITOR = """CREATE MONITOR by_shop WITH (backfill = '1 hour') AS
SELECT shop, count(*) AS n, sum(amount) AS amount, min(id) AS first, max(id) AS last FROM sales GROUP BY shop"""
WRITTEN = "shop.by_shop"
OUTPUT = MONITOR.replace("by_shop", "written").replace("WITH (", f"WITH (kafka_topic = '{WRITTEN}', ")
VIEW = "SELECT shop, n, amount, first, last FROM live.by_shop ORDER BY shop"


@dataclass
class Seller:
    """`sales.py` as a process, and what it says it has sent."""

    broker: kafka.Kafka
    scratch: Path
    process: subprocess.Popen[str] | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        program = Path(__file__).with_name("sales.py")
        arguments = [f"127.0.0.1:{self.broker.port}", TOPIC, str(self.scratch / "sales.json")]
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(kafka.client_library())},
        )

    def tell(self, command: str) -> None:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(command + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        if answer != command:
            raise ServerFailed(f"the seller did not {command}: {answer!r}")
        if command == "stop":
            self.summary = json.loads((self.scratch / "sales.json").read_text())

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in self.summary["sent"]}


def expected_view(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Amounts are multiples of 1/64, so any order of adding gives the same."""
    shops = sorted({row["shop"] for row in rows})
    view: list[list[Any]] = []
    for shop in shops:
        of_shop = [row for row in rows if row["shop"] == shop]
        ids = [row["id"] for row in of_shop]
        view.append([shop, len(of_shop), sum(row["amount"] for row in of_shop), min(ids), max(ids)])
    return view


def check(report: Report, server: Server, seller: Seller, when: str, settle_seconds: float) -> None:
    """Every committed row once in the stored stream and in the monitor; every bad one counted."""
    rows = seller.rows
    doubtful = {row["id"]: row for row in seller.summary["in_doubt"]}

    def state() -> dict[str, Any]:
        return dict(server.get("/api/v1/streams/sales"))

    deadline = time.monotonic() + settle_seconds
    now = state()
    while time.monotonic() < deadline and (now["rows"] < len(rows) or now["waiting_messages"] > 0):
        time.sleep(0.3)
        now = state()
    stored = server.sql("SELECT id, shop, amount, _partition, _offset, _row FROM history.sales", limit=1_000_000)
    copies: dict[int, int] = {}
    for row in stored:
        copies[row[0]] = copies.get(row[0], 0) + 1
    report.check(
        f"{when}: every one of {len(rows)} committed rows is in the stream",
        [f"{number} is missing" for number in sorted(rows.keys() - copies.keys())] + trouble(now),
    )
    report.check(
        f"{when}: once, and nothing that was not committed",
        [f"{number} is there {count} times" for number, count in sorted(copies.items()) if count != 1]
        + [f"{number} was aborted or never sent" for number in sorted(copies.keys() - rows.keys() - doubtful.keys())],
    )
    names = {(row[3], row[4], row[5]) for row in stored}
    report.check(
        f"{when}: each with a partition, an offset and a number of its own",
        [] if len(names) == len(stored) else [f"{len(names)} names of {len(stored)} rows"],
    )
    there = [rows.get(number) or doubtful[number] for number in copies if number in rows or number in doubtful]
    wanted = expected_view(there)
    view = server.sql(VIEW)
    report.check(f"{when}: a monitor over it is exact", [] if view == wanted else [f"{view}, not {wanted}"])
    bad = (now["rejected_rows"], now["unreadable_messages"])
    sent = (seller.summary["rejected"], seller.summary["unreadable"])
    report.check(
        f"{when}: what could not be read is counted", [] if doubtful or bad == sent else [f"{bad}, {sent} were sent"]
    )
    codes = {row[0] for row in server.sql("SELECT DISTINCT code FROM pyflare_internal.stream_errors")}
    report.check(f"{when}: and shown", [] if codes <= {"PF-1201", "PF-1210", "PF-1212"} else [f"{codes}"])


def check_output(report: Report, server: Server, broker: kafka.Kafka, when: str, settle_seconds: float) -> None:
    """The changes in the topic add up to the view, and none is there twice."""
    deadline = time.monotonic() + settle_seconds
    problems = ["nothing was read"]
    while problems and time.monotonic() < deadline:
        messages = read_topic(broker, WRITTEN)
        content: dict[str, int] = {}
        seen: dict[str, int] = {}
        last: dict[int, int] = {}
        problems = []
        for message in messages:
            row = dict(message["value"])
            tick, diff = row.pop("_tick"), row.pop("_diff")
            text = json.dumps(row, sort_keys=True)
            content[text] = content.get(text, 0) + diff
            seen[f"{tick} {text}"] = seen.get(f"{tick} {text}", 0) + 1
            if tick < last.get(message["partition"], 0):
                problems.append(f"tick {tick} comes after {last[message['partition']]}")
            last[message["partition"]] = tick
            if message["key"] != json.dumps([row["shop"]]):
                problems.append(f"the key {message['key']} of {row}")
        problems += [f"{row} is there {count} times" for row, count in seen.items() if count != 1]
        found = sorted(text for text, count in content.items() for _ in range(count))
        problems += [f"{text}: {count}" for text, count in content.items() if count not in (0, 1)]
        names = ("shop", "n", "amount", "first", "last")
        view = server.sql(VIEW.replace("by_shop", "written"))
        wanted = sorted(json.dumps(dict(zip(names, row, strict=True)), sort_keys=True) for row in view)
        problems += [] if found == wanted else [f"{found}, the view has {wanted}"]
        if problems:
            time.sleep(1)
    report.check(f"{when}: what a monitor wrote to its topic adds up to it, each change once", problems)


def read_topic(broker: kafka.Kafka, topic: str) -> list[dict[str, Any]]:
    program = Path(__file__).with_name("read_topic.py")
    done = subprocess.run(
        [sys.executable, "-B", str(program), f"127.0.0.1:{broker.port}", topic],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(kafka.client_library())},
    )
    if done.returncode != 0:
        raise ServerFailed(f"{topic} could not be read: {done.stderr[-500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def trouble(state: dict[str, Any]) -> list[str]:
    return [f"trouble: {state['trouble']}"] if state["trouble"] else []


def refusals(report: Report, server: Server) -> None:
    """What is wrong with a topic is said when the stream is declared."""
    for topic, code in (("no.such.topic", "PF-2012"), ("otlp_spans", "PF-2017")):
        try:
            server.sql(f"CREATE STREAM wrong (x INT) FROM KAFKA TOPIC '{topic}'")
            problems = ["it was created"]
        except ServerFailed as refused:
            problems = [] if code in str(refused) else [str(refused)]
        report.check(f"a stream over {topic} is refused with {code}", problems)
