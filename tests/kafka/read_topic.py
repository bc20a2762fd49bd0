"""Prints the committed messages of a topic as JSON lines, partition by partition, read with kafka-python.

PYTHONPATH=<kafka-python> read_topic.py BROKER TOPIC
"""

from __future__ import annotations

import json
import sys

from kafka import KafkaConsumer, TopicPartition


def main() -> None:
    broker, topic = sys.argv[1:]
    consumer = KafkaConsumer(
        bootstrap_servers=broker,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        consumer_timeout_ms=5000,
    )
    numbers = consumer.partitions_for_topic(topic) or set()
    partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for partition, messages in consumer.poll(timeout_ms=1000).items():
            for message in messages:
                key = message.key.decode() if message.key is not None else None
                line = {"partition": partition.partition, "key": key, "value": json.loads(message.value)}
                print(json.dumps(line))
    consumer.close()


if __name__ == "__main__":
    main()
