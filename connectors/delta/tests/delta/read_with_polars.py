"""Reads a table with delta-rs and Polars and prints what it holds, one JSON document."""

import json
import sys

import polars
from deltalake import DeltaTable

path = sys.argv[1]
table = DeltaTable(path)
rows = []
for row in polars.read_delta(path).sort("_offset").iter_rows(named=True):
    attributes = row["attributes"]
    if isinstance(attributes, list):
        attributes = {entry["key"]: entry["value"] for entry in attributes}
    rows.append(
        {
            "trace_id": row["trace_id"],
            "event_time": row["event_time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "error": row["error"],
            "count": row["count"],
            "temperature": row["temperature"],
            "cost": None if row["cost"] is None else f"{row['cost']:.12f}",
            "labels": row["labels"],
            "attributes": attributes,
            "tick": row["_tick"],
            "offset": row["_offset"],
        }
    )
schema = {field.name: json.loads(field.type.to_json()) for field in table.schema().fields}
print(json.dumps({"cut": table.transaction_version("pyflare.flush"), "rows": rows, "schema": schema}))
