"""The live end-to-end test: a real server, real clients, an oracle that shares nothing with it.

`tests/support/python tests/e2e/run.py --binary PATH` starts a server on free ports over a
temporary data directory, runs every client of tests/clients against it and checks what they sent
against the store, the traces, the views, the live frames; then monitors, what the documents show, bad input, a restart.
Prints `N passed, N failed`; exit code 0 only if none failed. A missing tool is a printed skip,
and a failure where CI=true.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "oracle")]

import backups  # noqa: E402
import clients  # noqa: E402
import documents  # noqa: E402
import erasures  # noqa: E402
import live  # noqa: E402
import monitors  # noqa: E402
import refusals  # noqa: E402
import streams  # noqa: E402
from runner import Runner, assert_equal  # noqa: E402
from server import Server  # noqa: E402

PROJECT = "acme"


def each_client(runner: Runner, server: Server, scratch: Path, count: int, chosen: list[str]) -> list[clients.Sent]:
    """Every client in turn; returns what was sent to the project `default`."""
    everything = []
    for client in chosen:
        sent: list[clients.Sent] = []

        def acknowledged(client: str = client, sent: list[clients.Sent] = sent) -> None:
            sent.append(clients.send(server, client, count, scratch))

        if not runner.check(f"{client}: everything is acknowledged", acknowledged) or not sent:
            continue
        everything += sent
        runner.check(f"{client}: stored as sent", functools.partial(clients.stored_as_sent, server, sent[0]))
        runner.check(f"{client}: listed as traces", functools.partial(clients.listed_as_traces, server, sent[0]))
        runner.check(f"{client}: counted exactly", functools.partial(clients.counted_exactly, server, sent))
        if client.startswith(clients.SENDS_ALL_SIGNALS):
            runner.check(
                f"{client}: metrics and logs stored",
                functools.partial(clients.other_signals_stored, server, sent[0], count),
            )
    return everything


def another_project(runner: Runner, server: Server, scratch: Path, count: int) -> None:
    sent: list[clients.Sent] = []
    if (
        runner.check(
            "project: everything is acknowledged",
            lambda: sent.append(clients.send(server, "otel-python-http", count, scratch, PROJECT)),
        )
        and sent
    ):
        runner.check("project: stored as sent", lambda: clients.stored_as_sent(server, sent[0]))
        runner.check("project: counted exactly", lambda: clients.counted_exactly(server, sent))
        runner.check("project: not seen by others", lambda: monitors.not_seen_elsewhere(server, sent[0]))


def bad_input(runner: Runner, server: Server, scratch: Path) -> None:
    for name, claim in refusals.otlp_refusals(server):
        runner.check(f"refused: {name}", claim)
    for name, claim in refusals.api_refusals(server):
        runner.check(f"refused: {name}", claim)
    runner.check("refused: nonsense on the socket", lambda: live.refuses_nonsense(server))
    runner.check("refused: a second server on the directory", lambda: refusals.second_server_refused(server))
    runner.check("refused: a port in use", lambda: refusals.port_in_use_refused(server, scratch))
    runner.check("refused: a file as directory", lambda: refusals.unusable_directory_refused(server, scratch))
    for name, claim in refusals.directory_refusals(server, scratch):
        runner.check(f"refused: {name}", claim)
    for name, claim in refusals.bad_settings(server, scratch):
        runner.check(f"refused: {name}", claim)
    runner.check("a relative directory with unusual letters works", lambda: refusals.unusual_paths(server, scratch))
    runner.check("refused: open mode beyond loopback", lambda: refusals.open_mode_elsewhere_refused(server, scratch))


def restart(runner: Runner, server: Server, everything: list[clients.Sent]) -> None:
    def stop() -> None:
        assert_equal(server.stop(), 0, "exit code after SIGTERM")

    if not runner.check("restart: an orderly stop ends with 0", stop):
        return
    if not runner.check("restart: it starts again", server.start):
        return
    for sent in everything:
        runner.check(
            f"restart: {sent.service} stored as sent",
            functools.partial(clients.stored_as_sent, server, sent),
        )
    if everything:
        runner.check("restart: counted exactly", lambda: clients.counted_exactly(server, everything))


def run(options: argparse.Namespace, scratch: Path) -> Runner:
    runner = Runner(options.only)
    server = Server(options.binary.resolve(), scratch / "data", options.server_arg)
    chosen: list[str] = []
    runner.check("the clients are installed", lambda: chosen.extend(clients.names()), always=True)
    chosen = options.clients.split(",") if options.clients else chosen
    try:
        if not runner.check("the server starts and is ready", server.start, always=True) or server.endpoints is None:
            return runner
        runner.check("it is healthy", lambda: monitors.healthy(server))
        everything = each_client(runner, server, scratch, options.count, chosen)
        another_project(runner, server, scratch, options.count)
        runner.check("live: frames add up and resume", lambda: live.frames_add_up(server, scratch, options.count))
        runner.check("live: conditions are looked up", lambda: live.conditions_are_looked_up(server))
        runner.check("the same body twice counts once", lambda: monitors.same_body_counts_once(server))
        runner.check("a monitor lives and dies", lambda: monitors.lives_and_dies(server, everything))
        runner.check("monitors over streams and monitors", lambda: monitors.over_others(server))
        runner.check("a monitor begins in the past", lambda: monitors.begins_in_the_past(server))
        runner.check("monitors get other options", lambda: monitors.altered(server))
        runner.check("monitors tell about themselves", lambda: monitors.tells_about_itself(server))
        runner.check("monitors go with what they read", lambda: monitors.dropped_with_readers(server))
        runner.check("streams: counted as DuckDB counts them", lambda: streams.counted_exactly(server))
        runner.check("streams: rows leave a window of now()", lambda: streams.leave_by_themselves(server))
        runner.check("streams: repeated requests", lambda: streams.repeated_requests(server))
        for name, claim in streams.refusals(server):
            runner.check(f"streams refused: {name}", claim)
        runner.check("metrics are Prometheus'", lambda: refusals.metrics_are_prometheus(server))
        for name, claim in documents.claims(server):
            runner.check(f"documented: {name}", claim)
        bad_input(runner, server, scratch)
        restart(runner, server, everything)
    finally:
        if server.process is not None and server.process.poll() is not None:
            runner.check("the server did not end by itself", lambda: assert_equal(server.log_tail(), "", "its log"))
        server.kill()
    runner.check("no panic in the server's log", lambda: monitors.no_panic(server))
    for topic in (erasures, backups):
        other, claims = topic.claims(options.binary.resolve(), scratch, options.server_arg)
        try:
            for name, claim in claims:
                runner.check(f"{topic.__name__}: {name}", claim)
        finally:
            other.kill()
        runner.check(f"{topic.__name__}: no panic in the server's log", functools.partial(monitors.no_panic, other))
    if runner.failed:
        print(f"the server's log ends:\n{server.log_tail(40)}")
    return runner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    parser.add_argument("--count", type=int, default=60, help="spans (or calls) per client")
    parser.add_argument("--clients", default="", help="comma-separated; default: all")
    parser.add_argument("--only", default=None, help="only checks whose name contains this")
    parser.add_argument("--server-arg", action="append", default=[], help="another argument for `serve`")
    parser.add_argument("--keep", type=Path, default=None, help="keep data, log and senders' files here")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        runner = run(options, options.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="pyflare-e2e-") as scratch:
            runner = run(options, Path(scratch))
    print(runner.closing_line)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
