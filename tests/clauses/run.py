"""The language of monitors, clause by clause, on a real server: every view equals DuckDB over the rows that were sent.

`tests/support/python tests/clauses/run.py --binary PATH` creates all monitors of tests/slt/clauses on servers with one,
two and four workers, sends random rows in shuffled cuts, as NDJSON and Arrow, and compares whenever nothing is on its
way. What the files say is refused must be refused. `--seed` repeats a run, `--only` takes files whose name contains it.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import requests

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "e2e")]

import files  # noqa: E402
import rows  # noqa: E402
from compare import difference  # noqa: E402
from dialect import Oracle  # noqa: E402
from files import Record  # noqa: E402
from runner import Runner, assert_equal, eventually  # noqa: E402
from server import Server  # noqa: E402

ROWS = 700
OF_STREAMS = "FROM pyflare_internal.streams WHERE partition IS NULL"
# Blocks of rows after which everything is compared.
POINTS = (4, rows.BLOCKS)


class Bed:
    """A server, and DuckDB with the same rows."""

    def __init__(self, server: Server, records: list[Record], seed: int) -> None:
        self.server = server
        self.records = [record for record in records if record.refusal is None]
        self.oracle = Oracle(records)
        self.chance = random.Random(seed)
        self.sent = 0
        self.session = requests.Session()
        # Not asked for proxies in the environment at every request.
        self.session.trust_env = False

    def declare(self) -> None:
        for statement in files.statements():
            self.server.sql(statement)

    def create(self) -> None:
        """All monitors, views before those that read them; says all that are refused, not only the first."""
        refused = []
        for record in self.records:
            answer = self._ask(record.statement)
            if not answer.ok:
                told = answer.json()
                refused.append(f"{record.place}: {record.name}: {told.get('code')} {told.get('detail')}")
        assert not refused, "\n".join(refused)

    def send(self, blocks: list[list[rows.Request]]) -> None:
        for request in (request for block in blocks for request in block):
            answer = self.session.post(
                f"{self.server.api_url}/api/v1/streams/{request.stream}",
                data=request.body(self.chance),
                headers={"content-type": request.content_type},
                timeout=30,
            )
            assert_equal(answer.status_code, 200, answer.text[:300])
            told = answer.json()
            assert_equal((told["accepted"], told["rejected"]), (len(request.rows), []), "accepted rows")
            self.oracle.add(request.stream, request.rows)
            self.sent += len(request.rows)

    def quiet(self) -> None:
        """All rows are admitted."""
        listed = f"SELECT sum(admitted_rows) {OF_STREAMS} AND stream IN ('calls', 'people', 'labels')"
        eventually(lambda: assert_equal(int(self.server.sql(listed)[0][0]), self.sent, "admitted rows"))

    def mark(self) -> datetime | None:
        found = self.server.sql(f"SELECT mark {OF_STREAMS} AND stream = 'calls'")
        return datetime.fromisoformat(found[0][0]).replace(tzinfo=None) if found and found[0][0] else None

    def compare(self, at_end: bool) -> None:
        wrong: list[str] = []
        for record in self.records:
            try:
                eventually(functools.partial(self._same, record, at_end), seconds=3 if not wrong else 0)
            except AssertionError as error:
                wrong.append(f"{record.place}: {record.name}: {error}")
        assert not wrong, "\n".join(wrong)

    def _same(self, record: Record, at_end: bool) -> None:
        found = self._view(record.name)
        if at_end:
            assert_equal(len(found) == 0, "shows nothing in the end" in record.sections, "whether it shows nothing")
        if record.for_duckdb is None:
            return
        mark = self.mark() if record.is_final else None
        differs = difference(found, self.oracle.view(record, mark))
        assert differs is None, differs

    def left_out(self) -> None:
        """Nothing is late, and in error are exactly the rows and groups that the file says."""
        errors = dict(self.server.sql("SELECT monitor, sum(errors) FROM pyflare_internal.errors GROUP BY monitor"))
        late = self.server.sql("SELECT monitor, late_rows FROM pyflare_internal.late_rows")
        assert_equal(late, [], "late rows")
        wrong = []
        for record in self.records:
            found, wanted = int(errors.get(record.name, 0)), self.oracle.errors(record)
            if found != wanted:
                wrong.append(f"{record.place}: {record.name}: {found} errors, must be {wanted}")
        assert not wrong, "\n".join(wrong)

    def _ask(self, query: str, **more: object) -> requests.Response:
        return self.session.post(f"{self.server.api_url}/api/v1/sql", json={"query": query, **more}, timeout=60)

    def _view(self, name: str) -> list[tuple[object, ...]]:
        answer = self._ask(f"SELECT * FROM live.{name}", format="arrow", limit=100_000)
        assert answer.ok, answer.text[:300]
        with pa.ipc.open_stream(answer.content) as reader:
            table = reader.read_all()
        columns = [column.to_pylist() for column in table.columns]
        return list(zip(*columns, strict=True))


def refused(server: Server, records: list[Record]) -> None:
    wrong = []
    for record in (record for record in records if record.refusal is not None):
        query = f"EXPLAIN MONITOR {record.statement}"
        answer = requests.post(f"{server.api_url}/api/v1/sql", json={"query": query}, timeout=30)
        told = answer.json() if not answer.ok else {}
        if told.get("code") != record.refusal:
            wrong.append(f"{record.place}: {told.get('code')} {told.get('detail')}, must be {record.refusal}")
    assert not wrong, "\n".join(wrong)


def on_workers(
    runner: Runner, workers: int, records: list[Record], seed: int, options: argparse.Namespace, scratch: Path
) -> None:
    server = Server(options.binary.resolve(), scratch / f"data-{workers}", ["--workers", str(workers)])
    what = f"{workers} workers" if workers > 1 else "1 worker"

    def check(name: str, claim: Callable[[], object]) -> bool:
        return runner.check(f"{what}: {name}", claim)

    try:
        if not check("the server starts", server.start):
            return
        bed = Bed(server, records, seed)
        check("the streams are declared", bed.declare)
        check(f"{len(bed.records)} monitors are created", bed.create)
        blocks = rows.blocks(random.Random(seed), options.rows)
        for begun, end in zip((0, *POINTS), POINTS, strict=False):
            sent = check(f"blocks {begun + 1} to {end} are sent", functools.partial(bed.send, blocks[begun:end]))
            if not sent or not check("everything is admitted", bed.quiet):
                return
            compare = functools.partial(bed.compare, end == rows.BLOCKS)
            check(f"{bed.sent} rows: all views equal DuckDB", compare)
        check("what is left out", lambda: eventually(bed.left_out, seconds=5))
        if workers == 1:
            check("what is refused", functools.partial(refused, server, records))
    finally:
        if server.process is not None and server.process.poll() is not None:
            check("the server did not end by itself", lambda: assert_equal(server.log_tail(), "", "its log"))
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--seed", type=int, default=None, help="default: another one every time")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--only", default=None, help="only files whose name contains this")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    records = files.records(options.only)
    runner = Runner()
    with tempfile.TemporaryDirectory(prefix="pyflare-clauses-") as scratch:
        for workers in map(int, options.workers.split(",")):
            on_workers(runner, workers, records, seed + workers, options, Path(scratch))
    print(f"seed {seed}, {len(records)} records, {time.monotonic() - started:.1f} s: {runner.closing_line}")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
