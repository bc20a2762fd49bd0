"""Random rows for the streams of tests/slt/clauses, as `rows.json` describes them, and their two encodings.

Event time goes forward in steps; rows come up to eight minutes behind the newest one, which is within the streams'
lateness. Some rows are sent twice: equal rows are legitimate.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from files import FOLDER

Row = dict[str, Any]
MINUTES = 50
BLOCKS = 10
JITTER = timedelta(minutes=3)
TYPES = {
    "calls": {
        "id": pa.int64(),
        "happened": pa.timestamp("us", "UTC"),
        "who": pa.string(),
        "model": pa.string(),
        "ok": pa.bool_(),
        "small": pa.int32(),
        "tokens": pa.int64(),
        "score": pa.float64(),
        "odd": pa.float64(),
        "price": pa.decimal128(38, 12),
        "tags": pa.list_(pa.string()),
        "doc": pa.map_(pa.string(), pa.string()),
    },
    "people": {
        "seen": pa.timestamp("us", "UTC"),
        "who": pa.string(),
        "team": pa.string(),
        "grade": pa.int32(),
        "weight": pa.float64(),
    },
    "labels": {"call": pa.int64(), "label": pa.string(), "stars": pa.int32()},
}


@dataclass(frozen=True)
class Request:
    """Rows of one stream that are sent together."""

    stream: str
    rows: list[Row]
    as_arrow: bool

    @property
    def content_type(self) -> str:
        return "application/vnd.apache.arrow.stream" if self.as_arrow else "application/x-ndjson"

    def body(self, chance: random.Random) -> bytes:
        if not self.as_arrow:
            return "\n".join(json.dumps(_as_json(row)) for row in self.rows).encode()
        table = as_table(self.stream, self.rows)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=chance.choice([3, 7, 100]))
        return sink.getvalue()


def blocks(chance: random.Random, count: int) -> list[list[Request]]:
    """`count` rows in all, in blocks of five minutes; a block's requests are cut and ordered at random."""
    described = json.loads((FOLDER / "rows.json").read_text())
    # Ends a while ago, so that no row is from the future.
    start = datetime.now(UTC) - timedelta(minutes=MINUTES + 8)
    shares = [stream for stream, one in described.items() for _ in range(one["share"])]
    numbers = 0
    made = []
    for block in range(BLOCKS):
        rows: dict[str, list[Row]] = {stream: [] for stream in described}
        for index in range(count // BLOCKS):
            stream = chance.choice(shares)
            if rows[stream] and chance.random() < 0.08:
                rows[stream].append(chance.choice(rows[stream]))
                continue
            moment = start + timedelta(minutes=MINUTES) * ((block + index * BLOCKS / count) / BLOCKS)
            moment -= JITTER * chance.random()
            row: Row = {}
            for column, drawn in described[stream]["columns"].items():
                if drawn == "number":
                    numbers += 1
                    row[column] = numbers
                elif drawn == "earlier number":
                    row[column] = chance.randint(1, max(numbers, 1))
                elif drawn == "moment":
                    row[column] = moment
                else:
                    row[column] = chance.choice(drawn)
            rows[stream].append(row)
        made.append(_cut(rows, chance))
    return made


def _cut(rows: dict[str, list[Row]], chance: random.Random) -> list[Request]:
    requests = []
    for stream, of_stream in rows.items():
        chance.shuffle(of_stream)
        while of_stream:
            size = chance.choice([1, 2, 5, 13, 40])
            requests.append(Request(stream, of_stream[:size], chance.random() < 0.5))
            del of_stream[:size]
    chance.shuffle(requests)
    return requests


def as_table(stream: str, rows: list[Row]) -> pa.Table:
    """In the streams' own types."""
    columns = TYPES[stream]
    values = {name: [_as_value(row[name], data_type) for row in rows] for name, data_type in columns.items()}
    return pa.table({name: pa.array(values[name], data_type) for name, data_type in columns.items()})


def _as_value(value: Any, data_type: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(data_type):
        return float(value)
    if pa.types.is_decimal(data_type):
        return Decimal(value)
    if pa.types.is_map(data_type):
        return [(key, None if one is None else json.dumps(one, ensure_ascii=False)) for key, one in value.items()]
    return value


def _as_json(row: Row) -> Row:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
