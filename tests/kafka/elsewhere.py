"""A server that keeps only catalog and tables: log and ticks in Kafka, checkpoints in an object store.

Kills of the broker and of the server under traffic, a backup taken meanwhile and a start from it; and what is refused:
ticks and checkpoints of another data directory, other settings than before, wrong credentials.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

import kafka
import objects
from content import check_content
from numbered_spans import Senders
from report import Report
from server import Server

KILLS = 4
PREFIX = "elsewhere."
PLACE = f"s3://{objects.BUCKET}/pyflare"


def run(report: Report, broker: kafka.Kafka, options: argparse.Namespace, scratch: Path, settle_seconds: float) -> None:
    stores = objects.Objects(scratch / "objects")
    try:
        stores.start()
    except objects.Unavailable as reason:
        if kafka.required():
            report.check("the object stores run", [str(reason)])
        else:
            print(f"skip log, ticks and checkpoints elsewhere: {reason}")
        return
    arguments = ["--log-url", broker.url, "--kafka-topic-prefix", PREFIX, "--store-flush-seconds", "1"]
    ticks = ["--ticks-url", "kafka"]
    checkpoints = ["--checkpoints-seconds", "2", "--checkpoints-url"]
    server = Server(
        options.binary, scratch / "elsewhere", [*arguments, *ticks, *checkpoints, PLACE], stores.environment()
    )
    restored = Server(
        options.binary, scratch / "restored", [*arguments, *ticks, *checkpoints, f"{PLACE}-2"], stores.environment()
    )
    try:
        server.start()
        senders = Senders(lambda: server.endpoints, options.seed, threads=3, spans_per_second=1_500)
        senders.start()
        for kill in range(KILLS):
            time.sleep(2.5)
            if kill % 2:
                broker.kill()
                time.sleep(1)
                broker.start()
                time.sleep(1)
            server.kill()
            server.start()
        senders.send_again(5)
        time.sleep(3)
        senders.stop(settle_seconds)
        check_content(report, server, senders.batches, scratch, "with ticks and checkpoints elsewhere", settle_seconds)
        manifests = list((scratch / "objects" / "s3" / objects.BUCKET / "pyflare" / "manifests").glob("*.json"))
        local = [
            str(path) for path in (scratch / "elsewhere").glob("*/*") if path.parent.name in ("ticks", "checkpoints")
        ]
        report.check(
            "neither ticks nor checkpoints are in the data directory",
            ([] if manifests else ["the bucket has no checkpoint"])
            + [f"{path} is there" for path in local if path.endswith((".journal", "manifests", "state"))],
        )
        report.check("a backup has them", backup(server, scratch))
        server.kill()
        report.check(
            "and is restored", server.command("restore", "--from", scratch / "backup", "--data-dir", restored.data_dir)
        )
        restored.start()
        check_content(report, restored, senders.batches, scratch, "from a backup", settle_seconds)
        restored.kill()
        refusals(report, server, arguments, ticks, checkpoints, scratch)
    finally:
        server.kill()
        restored.kill()
        stores.stop()


def backup(server: Server, scratch: Path) -> list[str]:
    target = scratch / "backup"
    problems = server.command("backup", "--data-dir", server.data_dir, "--to", target)
    problems += server.command("verify", target)
    manifests = list((target / "data" / "checkpoints" / "manifests").glob("*.json"))
    return problems + ([] if manifests else ["no checkpoint was copied"])


def refusals(
    report: Report, server: Server, arguments: list[str], ticks: list[str], checkpoints: list[str], scratch: Path
) -> None:
    def refused(
        what: str, folder: Path, arguments: list[str], says: str, environment: dict[str, str] | None = None
    ) -> None:
        call = [str(server.binary.resolve()), "serve", "--data-dir", str(folder), *arguments]
        for listener in ("otlp-grpc", "otlp-http", "api"):
            call += [f"--listen-{listener}", "127.0.0.1:0"]
        around = os.environ | server.environment | (environment or {})
        ended = subprocess.run(call, env=around, capture_output=True, text=True, timeout=120)
        problems = [] if ended.returncode != 0 else ["it started"]
        problems += [] if says in ended.stderr else [f"no {says} in: {ended.stderr[-400:]}"]
        problems += ["it tells the password"] if objects.PASSWORD in ended.stderr else []
        report.check(what, problems)

    refused("ticks of another data directory are refused", scratch / "none-1", [*arguments, *ticks], "PF-2107")
    refused("and other settings than before", server.data_dir, arguments, "PF-6024")
    apart = ["--log-url", arguments[1], "--kafka-topic-prefix", "apart."]
    refused(
        "checkpoints of another data directory are refused",
        scratch / "none-2",
        [*apart, *checkpoints, PLACE],
        "PF-2405",
    )
    refused(
        "wrong credentials of the object store are named",
        scratch / "none-3",
        [*apart, *checkpoints, PLACE],
        "PF-2404",
        {"AWS_SECRET_ACCESS_KEY": "another"},
    )
    refused("ticks in Kafka without a log there are refused", scratch / "none-4", ["--ticks-url", "kafka"], "PF-6005")
