"""Harm of every kind under load, round after round, until so many kills have been done.

Each round is a data directory of its own: a server, senders with retries, a WebSocket subscriber and commands that come
and go, one kind of harm for a number of kills, then everything is counted: acknowledged spans in store and views
(lost 0, doubled 0), acknowledged commands, and every frame of the subscriber against an undisturbed replay of the
recovered tick log. A round has a seed of its own, printed and reported; `--scenario X --seed N --rounds 1` repeats it.

Prints `N passed, N failed`; exit code 0 only if all passed. A kind that cannot be done here is a printed skip, and a
failure with `CI` or `PYFLARE_REQUIRE_SERVICES` set. `--report FILE` gets a JSON line per round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / folder) for folder in ("support", "support/kafka", "support/objects", "oracle", "e2e")]

import clickhouse  # noqa: E402
import kafka  # noqa: E402
import objects  # noqa: E402
from bed import Bed  # noqa: E402
from harm_outside import clock_environment  # noqa: E402
from report import Report  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402
from server import ServerFailed  # noqa: E402
from small_disk import CannotMount, small_disk  # noqa: E402

CHECKPOINTS = ("--checkpoints-seconds=1", "--store-flush-seconds=1")
ROUND_KILLS = {"fail-points": 46, "random": 40, "stopped": 12, "full-disk": 12, "read-only": 9}
OTHER_ROUND_KILLS = 24


class Unavailable(Exception):
    """This kind of harm cannot be done here."""


@contextmanager
def bed_for(scenario: str, binary: Path, scratch: Path, seed: int, report: Report) -> Iterator[Bed]:
    """A bed with what the scenario needs beside it; everything is stopped at the end."""
    with ExitStack() as stack:
        arguments = list(CHECKPOINTS)
        environment: dict[str, str] = {}
        services: dict[str, object] = {}
        data_dir: Path | None = None
        try:
            match scenario:
                case "full-disk":
                    disk = stack.enter_context(small_disk(scratch / "small-disk"))
                    data_dir = disk / "deep" / "data"
                    data_dir.parent.mkdir()
                    # The server's own log lies beside the data directory and must not fill the disk itself.
                    (disk / "deep" / "data.log").symlink_to(scratch / "data.log")
                    arguments += ["--limits-min-free-gb=0"]
                case "read-only":
                    with small_disk(scratch / "probe"):
                        pass
                case "clock":
                    found = clock_environment(scratch / "clock-offset")
                    if found is None:
                        raise Unavailable("libfaketime is not installed; install the package faketime")
                    environment = found
                case "kafka":
                    broker = kafka.Kafka(scratch / "kafka")
                    broker.start()
                    stack.callback(broker.kill)
                    services["kafka"] = broker
                    arguments += [f"--log-url={broker.url}", "--kafka-partitions=3"]
                case "elsewhere":
                    broker = kafka.Kafka(scratch / "kafka")
                    broker.start()
                    stack.callback(broker.kill)
                    stores = objects.Objects(scratch / "objects")
                    stack.callback(stores.stop)
                    stores.start()
                    services["kafka"] = broker
                    environment = stores.environment()
                    arguments += [f"--log-url={broker.url}", "--kafka-partitions=3", "--ticks-url=kafka"]
                    arguments.append(f"--checkpoints-url=s3://{objects.BUCKET}/crash")
                case "clickhouse":
                    engine = clickhouse.ClickHouse(scratch / "clickhouse")
                    engine.start()
                    stack.callback(engine.kill)
                    services["clickhouse"] = engine
                    arguments += [f"--store-url=clickhouse://127.0.0.1:{engine.port}/crash"]
        except (CannotMount, kafka.Unavailable, clickhouse.Unavailable, objects.Unavailable) as reason:
            raise Unavailable(str(reason)) from reason
        bed = Bed(
            binary,
            scratch,
            report,
            seed,
            arguments,
            data_dir=data_dir,
            services=dict(services),
            forgets_frames=scenario == "clock",
            # Its ticks cannot be read beside it: who opens them takes them over.
            is_replayed=scenario != "elsewhere",
        )
        bed.server.environment.update(environment)
        stack.callback(lambda: bed.subscriber.stop())
        stack.callback(lambda: bed.speaks_to.kill())
        stack.callback(lambda: bed.server.kill())
        yield bed


def one_round(scenario: str, binary: Path, scratch: Path, seed: int, kills: int) -> Report:
    report = Report()
    try:
        with bed_for(scenario, binary, scratch, seed, report) as bed:
            bed.start()
            SCENARIOS[scenario](bed, kills)
            time.sleep(1)
            bed.finish(scenario)
    except (ServerFailed, TimeoutError, AssertionError) as failure:
        report.check(f"{scenario}: the server runs and answers", [str(failure)])
    except Unavailable:
        raise
    except Exception:
        report.check(f"{scenario}: the driver gets through", [traceback.format_exc()])
    return report


def version(binary: Path) -> str:
    return subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()


def several(options: argparse.Namespace) -> int:
    """Runs this program so many times at once; their lines are told apart by a number in front."""
    seeds = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
    share = -(-options.kills // options.jobs)
    command = [sys.executable, "-B", __file__, "--binary", str(options.binary), "--kills", str(share)]
    for name in ("rounds", "round_kills", "report", "keep"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    for scenario in options.scenario or ():
        command += ["--scenario", scenario]
    jobs = []
    for number in range(options.jobs):
        first = number * len(options.scenario or SCENARIOS) // options.jobs
        own = ["--seed", str(seeds.randrange(2**31)), "--begin-with", str(first)]
        jobs.append(subprocess.Popen([*command, *own], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    relays = [threading.Thread(target=relay, args=(number, job)) for number, job in enumerate(jobs)]
    for thread in relays:
        thread.start()
    for thread in relays:
        thread.join()
    failed = sum(job.wait() != 0 for job in jobs)
    print(f"{len(jobs) - failed} jobs passed, {failed} failed")
    return 1 if failed else 0


def relay(number: int, job: subprocess.Popen[str]) -> None:
    for line in job.stdout or ():
        print(f"[{number}] {line}", end="", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--rounds", type=int, default=None, help="end after so many, whatever was killed")
    parser.add_argument("--round-kills", type=int, default=None, help="of one round; default: by its kind")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="default: all of them, in turn")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; default: random, and printed")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at a time, each job with its share of the kills")
    parser.add_argument("--begin-with", type=int, default=0, help="which of the scenarios comes first")
    parser.add_argument("--report", type=Path, default=None, help="a JSON line per round is appended to this file")
    parser.add_argument("--keep", type=Path, default=None, help="folder for what failed rounds leave")
    options = parser.parse_args()
    if options.jobs > 1:
        return several(options)
    binary = options.binary.resolve()
    seeds = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
    must_run = bool(os.environ.get("CI") or os.environ.get("PYFLARE_REQUIRE_SERVICES"))
    scenarios = list(options.scenario or SCENARIOS)
    passed = failed = killed = number = 0
    while scenarios and killed < options.kills and (options.rounds is None or number < options.rounds):
        scenario = scenarios[(options.begin_with + number) % len(scenarios)]
        seed = options.seed if number == 0 and options.seed is not None else seeds.randrange(2**31)
        number += 1
        kills = options.round_kills or ROUND_KILLS.get(scenario, OTHER_ROUND_KILLS)
        began = time.monotonic()
        print(f"round {number}: {scenario}, {min(kills, options.kills - killed)} kills, seed {seed}", flush=True)
        scratch = Path(tempfile.mkdtemp(prefix="pyflare-crash-"))
        try:
            report = one_round(scenario, binary, scratch, seed, min(kills, options.kills - killed))
        except Unavailable as reason:
            print(f"{'FAIL' if must_run else 'skip'} {scenario}: {reason}", flush=True)
            failed += must_run
            scenarios.remove(scenario)
            shutil.rmtree(scratch, ignore_errors=True)
            continue
        passed, failed, killed = passed + report.passed, failed + report.failed, killed + report.kills
        seconds = time.monotonic() - began
        print(f"     {report.kills} kills in {seconds:.0f} s, {killed} in all; {dict(report.done)}", flush=True)
        if options.report is not None:
            line = {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "version": version(binary),
                "scenario": scenario,
                "seed": seed,
                "round_kills": kills,
                "seconds": round(seconds, 1),
                "passed": report.passed,
                "failed": report.failed,
                "failures": report.failures,
                "done": report.done,
                "seen": report.seen,
            }
            with options.report.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if report.failed and (scratch / "data.log").exists():
            print("its log ends:\n" + "\n".join((scratch / "data.log").read_text(errors="replace").splitlines()[-30:]))
        if report.failed and options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copytree(scratch, options.keep / f"{scenario}-{seed}", dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{killed} kills in {number} rounds; {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
