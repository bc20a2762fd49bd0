"""The server on a real Kafka broker: SDKs, the real Collector, kills of the broker and of the server.

Every acknowledged span must be in `history.spans` exactly once and counted once in every built-in
view (DuckDB over what the senders kept), whoever wrote it to the topic: the server's own
receivers, or an OpenTelemetry Collector (`otlp_proto` and `otlp_json`) beside them. A stream over a
topic that kafka-python writes, in transactions too, must have each committed row once. A second
server with an empty data directory then begins with what the topics have and must count the same.

Prints `N passed, N failed`; exit code 0 only if all passed. Where the broker or the Collector
cannot be had it is a printed skip, and a failure with `CI` or `PYFLARE_REQUIRE_SERVICES` set.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [
    str(TESTS / folder)
    for folder in ("support", "support/kafka", "support/collector", "support/objects", "oracle", "crash", "e2e")
]

import clients  # noqa: E402
import collector  # noqa: E402
import elsewhere  # noqa: E402
import kafka  # noqa: E402
import topic_streams  # noqa: E402
from content import check_content  # noqa: E402
from numbered_spans import SERVICE, Batch, Senders, build  # noqa: E402
from report import Report  # noqa: E402
from runner import Skipped  # noqa: E402
from server import Endpoints, Server, ServerFailed  # noqa: E402

SETTLE_SECONDS = 60.0
# Above the numbers that the senders under fire reach, and not far: the store is asked for all numbers in chunks.
COLLECTED_FROM = 300_000
COLLECTED_BATCHES = 40
COMPRESSIONS = ("none", "zstd", "lz4", "snappy", "gzip")


def through_collector(broker: kafka.Kafka, scratch: Path, encoding: str, first: int) -> list[Batch]:
    """Numbered spans that only Collectors take, each of which compresses differently; all of them acknowledged."""
    source = random.Random(encoding)
    firsts = range(first, first + COLLECTED_BATCHES * 100, 100)
    batches = [build(number, number + 99, source) for number in firsts]
    share = COLLECTED_BATCHES // len(COMPRESSIONS)
    for place, compression in enumerate(COMPRESSIONS):
        peer = collector.Collector(scratch / f"{encoding}-{compression}", broker.port, encoding, compression)
        send_all(peer, batches[place * share : (place + 1) * share])
    return batches


def send_all(peer: collector.Collector, batches: list[Batch]) -> None:
    address = f"127.0.0.1:{peer.start()}"
    try:
        sender = Senders(lambda: Endpoints(address, "", ""), 0, 0, 1)
        for batch in batches:
            batch.transport = "grpc"
            while not sender.send(batch):
                time.sleep(0.1)
            batch.acknowledged = True
    finally:
        peer.stop()


def under_fire(broker: kafka.Kafka, server: Server, seed: int, seller: topic_streams.Seller) -> list[Batch]:
    """Traffic with retries while the broker, and then the server, are killed and come back."""
    senders = Senders(lambda: server.endpoints, seed, threads=4, spans_per_second=2_000)
    senders.start()
    seller.tell("go")
    time.sleep(2)
    broker.kill()
    print("the broker is killed", flush=True)
    # Longer than a sender waits for an acknowledgement.
    time.sleep(6)
    broker.start()
    print(f"the broker is back, {senders.retries} retries so far", flush=True)
    time.sleep(1)
    seller.tell("grow")
    time.sleep(2)
    server.kill()
    started = time.monotonic()
    server.start()
    print(f"the server is killed and back after {time.monotonic() - started:.1f} s", flush=True)
    senders.send_again(10)
    time.sleep(1)
    broker.kill()
    server.kill()
    broker.start()
    server.start()
    print("both are killed and back", flush=True)
    time.sleep(2)
    seller.tell("stop")
    senders.stop(SETTLE_SECONDS)
    print(f"{len(senders.batches)} batches, {senders.retries} retries, {senders.sent_again} sent again", flush=True)
    return senders.batches


def after_deletion(report: Report, broker: kafka.Kafka, server: Server) -> None:
    """A history that begins where the broker's retention has left off stays that history, or stops."""

    def content() -> list[int]:
        query = "SELECT count(*), min(_offset) FROM history.spans WHERE _partition = 0"
        counted = "SELECT sum(requests) FROM live.requests"
        return [int(value or 0) for value in server.sql(query)[0] + server.sql(counted)[0]]

    def settled() -> list[int]:
        before: list[int] = []
        now = content()
        while before != now or now[0] == 0:
            time.sleep(2)
            before, now = now, content()
        return now

    broker.delete_records("otlp_spans", 0, 20)
    server.start()
    begun = settled()
    report.check("a new history begins with what is left", [] if begun[1] >= 20 else [f"offset {begun[1]}"])
    server.kill()
    server.start()
    again = settled()
    report.check("and is replayed as it was", [] if again == begun else [f"{again}, was {begun}"])
    server.kill()
    broker.delete_records("otlp_spans", 0, 30)
    report.check(
        "what is deleted from under a history is named",
        refused(server.binary, server.data_dir, server.arguments, "PF-2005: offset 20 of otlp_spans/0"),
    )
    gaps = "SELECT topic, partition, first_offset, next_offset FROM pyflare_internal.gaps"
    missing = ["otlp_spans", 0, 20, 30]
    arguments = list(server.arguments)
    server.arguments += ["--kafka-skip-deleted"]
    server.start()
    deadline = time.monotonic() + SETTLE_SECONDS
    while server.sql(gaps) != [missing] and time.monotonic() < deadline:
        time.sleep(0.2)
    found = server.sql(gaps)
    report.check("with the option it goes on, and the gap is recorded", [] if found == [missing] else [f"{found}"])
    counted = server.sql("SELECT sum(requests) FROM live.requests")
    server.kill()
    server.arguments = arguments
    server.start()
    counted_again = server.sql("SELECT sum(requests) FROM live.requests")
    report.check(
        "and is what a start without the option agrees on",
        [] if counted_again == counted and server.sql(gaps) == [missing] else [f"{counted_again}, was {counted}"],
    )
    server.kill()


def refused(binary: Path, scratch: Path, arguments: list[str], says: str) -> list[str]:
    """A start that must fail, and what its message lacks."""
    command = [str(binary.resolve()), "serve", "--data-dir", str(scratch), *arguments]
    command += [
        part for listener in ("otlp-grpc", "otlp-http", "api") for part in (f"--listen-{listener}", "127.0.0.1:0")
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    problems = [] if ended.returncode != 0 else ["it started"]
    return problems + ([] if says in ended.stderr else [f"no {says} in: {ended.stderr[-500:]}"])


def run(options: argparse.Namespace, scratch: Path) -> Report:
    report = Report()
    broker = kafka.Kafka(scratch / "kafka")
    broker.start()
    on_kafka = ["--log-url", broker.url]
    server = Server(
        options.binary, scratch / "data", [*on_kafka, "--kafka-partitions", "3", "--store-flush-seconds", "1"]
    )
    fresh = Server(options.binary, scratch / "fresh", ["--log-url", broker.url])
    replaying = ["--log-url", broker.url, "--checkpoints-seconds", "0"]
    trimmed = Server(options.binary, scratch / "trimmed", replaying)
    seller = topic_streams.Seller(broker, scratch)
    # It waits for the brokers to come: beside everything else.
    pool = ThreadPoolExecutor()
    address = ["--log-url", "kafka://127.0.0.1:1"]
    nowhere = pool.submit(refused, options.binary, scratch / "nowhere", address, "PF-2009")
    try:
        server.start()
        seller.start()
        seller.tell("past")
        server.sql(topic_streams.STREAM)
        server.sql(topic_streams.MONITOR)
        server.sql(topic_streams.OUTPUT)
        topic_streams.refusals(report, server)
        try:
            sent = clients.send(server, "otel-python-grpc", 500, scratch)
            report.check(
                "an SDK's spans are stored as they were sent", _claim(lambda: clients.stored_as_sent(server, sent))
            )
            report.check(
                "and counted exactly",
                _claim(lambda: clients.counted_exactly(server, [sent])),
            )
        except Skipped as reason:
            print(f"skip the SDK: {reason}")
        batches = through_collector(broker, scratch, "otlp_proto", COLLECTED_FROM)
        batches += through_collector(broker, scratch, "otlp_json", 2 * COLLECTED_FROM)
        check_content(report, server, batches, scratch, "from the Collector", SETTLE_SECONDS)
        batches += under_fire(broker, server, options.seed, seller)
        check_content(report, server, batches, scratch, "after the kills", SETTLE_SECONDS)
        topic_streams.check(report, server, seller, "after the kills", SETTLE_SECONDS)
        topic_streams.check_output(report, server, broker, "after the kills", SETTLE_SECONDS)
        code = server.stop()
        report.check("an orderly stop ends with 0", [] if code == 0 else [f"the exit code was {code}"])
        server.start()
        check_content(report, server, batches, scratch, "after an orderly restart", SETTLE_SECONDS)
        topic_streams.check(report, server, seller, "after an orderly restart", SETTLE_SECONDS)
        topic_streams.check_output(report, server, broker, "after an orderly restart", SETTLE_SECONDS)
        server.stop()
        fresh.start()
        fresh.sql(topic_streams.STREAM)
        fresh.sql(topic_streams.MONITOR)
        check_content(report, fresh, batches, scratch, "in an empty data directory", SETTLE_SECONDS)
        topic_streams.check(report, fresh, seller, "in an empty data directory", SETTLE_SECONDS)
        fresh.stop()
        after_deletion(report, broker, trimmed)
        elsewhere.run(report, broker, options, scratch, SETTLE_SECONDS)
        report.check(
            "another log for a data directory in use is refused",
            refused(options.binary, scratch / "data", [], "PF-6024"),
        )
        report.check("a wrong address is named", nowhere.result())
        report.check(
            "a wrong password is named",
            refused(
                options.binary,
                scratch / "other",
                [
                    *("--log-url", f"kafka://127.0.0.1:{broker.sasl_port}", "--kafka-sasl-mechanism", "plain"),
                    *("--kafka-username", kafka.USER, "--kafka-password", "wrong"),
                ],
                "PF-2010",
            ),
        )
    except (ServerFailed, TimeoutError) as failure:
        report.check("the server runs and answers", [str(failure)])
    finally:
        pool.shutdown()
        seller.end()
        server.kill()
        fresh.kill()
        trimmed.kill()
        broker.kill()
    return report


def _claim(claim: Callable[[], object]) -> list[str]:
    try:
        claim()
    except AssertionError as difference:
        return [str(difference)]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--seed", type=int, default=None, help="default: random, and printed")
    parser.add_argument("--keep", type=Path, default=None, help="keep data and logs in this folder")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**31)
    print(f"seed {options.seed}, service {SERVICE}", flush=True)
    try:
        kafka.install()
        kafka.client_library()
        collector.install()
    except (kafka.Unavailable, collector.Unavailable) as reason:
        print(f"skipped: {reason}")
        return 1 if kafka.required() else 0
    with tempfile.TemporaryDirectory(prefix="pyflare-kafka-") as folder:
        scratch = options.keep or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        report = run(options, scratch)
        for log in (scratch / "data.log", scratch / "fresh.log", scratch / "trimmed.log"):
            if report.failed and log.exists():
                print(f"{log.name} ends:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
