#!/usr/bin/env bash
# Crates depend in one direction only (operators ← connectors ← dataflows ← query ← pyflare), heavy libraries stay
# in their rooms, and there is one arrow in the tree.
set -euo pipefail
python3 - <<'PYTHON'
import json, subprocess, sys

meta = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--no-deps"]))
level = {"pyflare-operators": 0, "pyflare-connectors": 1, "pyflare-log": 1, "pyflare-otlp": 1, "pyflare-delta": 1,
         "pyflare-clickhouse": 1, "pyflare-kafka": 1, "pyflare-objects": 1,
         "pyflare-dataflows": 2, "pyflare-sql": 3, "pyflare-history": 3, "pyflare-live": 3, "pyflare-rest": 3, "pyflare": 4}
only = {"timely": {"pyflare-dataflows"}, "differential-dataflow": {"pyflare-dataflows"},
        "deltalake": {"pyflare-delta"}, "rdkafka": {"pyflare-kafka"}, "object_store": {"pyflare-delta", "pyflare-objects"},
        "datafusion": {"pyflare-dataflows", "pyflare-delta", "pyflare-clickhouse", "pyflare-sql", "pyflare-history", "pyflare-rest", "pyflare"},
        "tokio": {name for name in level if name != "pyflare-operators"}}
wrong = []
for package in meta["packages"]:
    name = package["name"]
    if name not in level:
        wrong.append(f"{name} has no room: add it to tools/check-arrows.sh")
        continue
    for dependency in package["dependencies"]:
        if dependency["kind"] == "dev":
            continue
        target = dependency["name"]
        if target in level and level[target] > level[name]:
            wrong.append(f"{name} must not depend on {target}")
        if target in only and name not in only[target]:
            wrong.append(f"{name} must not depend on {target}: it stays in {', '.join(sorted(only[target]))}")
for crate in ("arrow", "arrow-array", "parquet", "datafusion", "timely"):
    tree = subprocess.run(["cargo", "tree", "--workspace", "-i", crate, "--depth", "0", "--prefix", "none"],
                          capture_output=True, text=True)
    if tree.returncode != 0 or "multiple" in tree.stderr:
        wrong.append(f"there is more than one {crate} in the tree: {tree.stderr.strip().splitlines()[0]}")
print("\n".join(wrong) or "arrows hold, one arrow in the tree")
sys.exit(bool(wrong))
PYTHON
