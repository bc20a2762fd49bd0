"""Writes a topic as others do: with kafka-python, which shares no code with the server's client.

A program of its own, because `kafka` is also the name of its package. Obeys lines on its standard input,
each answered with the same line: `past` creates the topic and writes what is there before anybody reads;
`go` begins to write, plainly and in transactions of which some are aborted, until `stop`; `grow` gives the
topic another partition. `stop` waits until everything is acknowledged and writes FILE: what was sent, and
how many messages were made unreadable.

    PYTHONPATH=<kafka-python> sales.py BROKER TOPIC FILE
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

SHOPS = ("north", "south", "east")
PARTITIONS = 3
PAST_MESSAGES = 300
PATIENCE = 120


class Sales:
    """The rows sent so far, by what became of them."""

    def __init__(self, broker: str, topic: str) -> None:
        self.broker = broker
        self.topic = topic
        self.lock = threading.Lock()
        self.next_id = 0
        self.sent: list[dict[str, Any]] = []
        self.in_doubt: list[dict[str, Any]] = []
        self.rejected = 0
        self.unreadable = 0
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []

    def rows(self, source: random.Random, count: int) -> list[dict[str, Any]]:
        with self.lock:
            first = self.next_id
            self.next_id += count
        now_us = int(time.time() * 1_000_000)
        return [
            {
                "id": first + number,
                "at": now_us + number,
                "shop": source.choice(SHOPS),
                "amount": source.randrange(1_000_000) / 64,
                "not_declared": {"by": ["the", "stream"]},
            }
            for number in range(count)
        ]

    def body(self, source: random.Random) -> tuple[bytes, list[dict[str, Any]], int, int]:
        """A message, its good rows, and how many of it are rejected or unreadable."""
        kind = source.random()
        if kind < 0.02:
            return b"\xff\xff\xff\xff\x08\x00\x00\x00damaged!", [], 0, 1
        if kind < 0.04:
            return b'{"id": 1, "at"', [], 1, 0
        rows = self.rows(source, source.randrange(1, 6))
        if kind < 0.15:
            return as_arrow(rows), rows, 0, 0
        if kind < 0.25:
            return json.dumps(rows[0], indent=2).encode(), rows[:1], 0, 0
        lines = [json.dumps(row) for row in rows]
        if kind < 0.30:
            lines.insert(len(lines) // 2, '{"id": "none"}')
            return "\n".join(lines).encode(), rows, 1, 0
        return "\n".join(lines).encode(), rows, 0, 0

    def producer(self, **options: Any) -> KafkaProducer:
        return KafkaProducer(
            bootstrap_servers=self.broker,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=PATIENCE * 1000,
            max_block_ms=PATIENCE * 1000,
            request_timeout_ms=5000,
            reconnect_backoff_max_ms=500,
            metadata_max_age_ms=500,
            **options,
        )

    def partition(self, producer: KafkaProducer, source: random.Random) -> int:
        """One of those that the producer knows by now."""
        return source.choice(sorted(producer.partitions_for(self.topic)))

    def note(self, made: list[tuple[bytes, list[dict[str, Any]], int, int]]) -> None:
        with self.lock:
            for _, rows, rejected, unreadable in made:
                self.sent += rows
                self.rejected += rejected
                self.unreadable += unreadable

    def past(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.broker)
        admin.create_topics({self.topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})
        admin.close()
        self.plainly(random.Random(1), PAST_MESSAGES)

    def plainly(self, source: random.Random, messages: int | None) -> None:
        producer = self.producer(linger_ms=5)
        made, futures = [], []
        while (messages is None or len(made) < messages) and not self.stopping.is_set():
            message = self.body(source)
            futures.append(producer.send(self.topic, message[0], partition=self.partition(producer, source)))
            made.append(message)
            if messages is None:
                time.sleep(0.02)
        # Retried until it is acknowledged: an idempotent producer doubles nothing.
        for future in futures:
            future.get(timeout=PATIENCE)
        producer.close()
        self.note(made)

    def in_transactions(self, source: random.Random) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            producer = self.producer(transactional_id=f"sales-{number}", transaction_timeout_ms=20_000)
            try:
                producer.init_transactions()
                while not self.stopping.is_set():
                    self.transaction(producer, source)
                    time.sleep(0.05)
            except KafkaError as error:
                print(f"a transaction failed: {error!r}", file=sys.stderr)
            finally:
                producer.close(timeout=5)

    def transaction(self, producer: KafkaProducer, source: random.Random) -> None:
        made = [self.body(source) for _ in range(source.randrange(1, 8))]
        commits = source.random() > 0.3
        producer.begin_transaction()
        in_doubt = False
        try:
            sent = [
                producer.send(self.topic, message[0], partition=self.partition(producer, source)) for message in made
            ]
            producer.flush(timeout=PATIENCE)
            # A commit does not tell that a message before it was given up.
            for future in sent:
                future.get(timeout=PATIENCE)
            if commits:
                in_doubt = True
                producer.commit_transaction()
                in_doubt = False
                self.note(made)
            else:
                producer.abort_transaction()
        finally:
            if in_doubt:
                with self.lock:
                    self.in_doubt += [row for message in made for row in message[1]]

    def go(self) -> None:
        jobs = [(self.plainly, (random.Random(2), None)), (self.in_transactions, (random.Random(3),))]
        self.threads = [threading.Thread(target=job, args=arguments) for job, arguments in jobs]
        for thread in self.threads:
            thread.start()

    def grow(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.broker)
        admin.create_partitions({self.topic: PARTITIONS + 1})
        admin.close()

    def stop(self, file: Path) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        summary = {
            "sent": self.sent,
            "in_doubt": self.in_doubt,
            "rejected": self.rejected,
            "unreadable": self.unreadable,
        }
        file.write_text(json.dumps(summary))


def as_arrow(rows: list[dict[str, Any]]) -> bytes:
    table = pa.table(
        {
            "amount": pa.array([row["amount"] for row in rows], pa.float64()),
            "shop": pa.array([row["shop"] for row in rows]).dictionary_encode(),
            "at": pa.array([row["at"] for row in rows], pa.timestamp("us")),
            "id": pa.array([row["id"] for row in rows], pa.int64()),
            "not_declared": pa.array(["x"] * len(rows)),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def main() -> None:
    broker, topic, file = sys.argv[1:]
    sales = Sales(broker, topic)
    for line in sys.stdin:
        command = line.strip()
        match command:
            case "past":
                sales.past()
            case "go":
                sales.go()
            case "grow":
                sales.grow()
            case "stop":
                sales.stop(Path(file))
        print(command, flush=True)


if __name__ == "__main__":
    main()
