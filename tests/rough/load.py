"""A server under the numbered spans of the crash driver, and what must be true of it afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compare import compare
from content import copies_in_store
from numbered_spans import SERVICE, Senders
from server import Server

SETTLE_SECONDS = 60.0


@contextmanager
def under_load(server: Server, seed: int, threads: int = 4, rate: int = 1500) -> Iterator[Senders]:
    """Starts the server and the senders; kills the server at the end, whatever happened."""
    try:
        server.start()
        senders = Senders(lambda: server.endpoints, seed, threads, rate)
        senders.start()
        yield senders
    finally:
        server.kill()


def kept_exactly(server: Server, senders: Senders, scratch: Path, views: bool = True) -> None:
    """Every acknowledged span is in the store once, nothing that was not sent, and the views agree."""
    known = {line["span_id"]: line for batch in senders.batches for line in batch.lines}
    wanted = {line["span_id"] for batch in senders.batches if batch.acknowledged for line in batch.lines}
    assert wanted, "nothing was acknowledged, so nothing is shown"
    last = max(batch.last for batch in senders.batches)
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        copies = copies_in_store(server, last)
        if wanted <= copies.keys() or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    missing, twice = wanted - copies.keys(), {span: count for span, count in copies.items() if count != 1}
    assert not missing, f"{len(missing)} of {len(wanted)} acknowledged spans are missing: {sorted(missing)[:5]}"
    assert not twice, f"{len(twice)} spans are there more than once: {sorted(twice.items())[:5]}"
    assert copies.keys() <= known.keys(), "spans are there that were never sent"
    total = int(server.sql(f"SELECT count(*) FROM history.spans WHERE service_name = '{SERVICE}'")[0][0])
    assert total == len(copies), f"{total} rows, {len(copies)} of them with known ids"
    if views:
        kept = scratch / f"{server.data_dir.name}-kept.ndjson"
        kept.write_text("".join(json.dumps(known[span]) + "\n" for span in copies))
        differences = compare(server.api_url, [kept], wait_seconds=SETTLE_SECONDS)
        assert not differences, "the views differ from DuckDB over what was sent:\n" + "\n".join(differences[:10])


def no_panic(server: Server) -> None:
    text = server.log.read_text(errors="replace")
    at = text.find("panicked")
    assert at < 0, f"a panic: {text[max(0, at - 200) : at + 500]}"
