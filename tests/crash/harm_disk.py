"""Disks that are full, and folders that cannot be written any more."""

from __future__ import annotations

import time

from bed import Bed, says
from runner import eventually
from server import ServerFailed
from small_disk import fill, read_only

NEARLY_FULL_KB = 2_000
# Of the log, of admission, of the tick log, of the store and of checkpoints.
FULL_CODES = ("PF-2002", "PF-1015", "PF-2104", "No space left on device")
SAYS_SECONDS = 15.0


def full_disk(bed: Bed, kills: int) -> None:
    """The disk fills up under load; the server is killed, fails to start or waits, and goes on once there is room."""
    ballast = bed.server.data_dir.parent.parent / "ballast"
    while bed.report.kills < kills:
        time.sleep(bed.source.uniform(0.5, 1.5))
        before = bed.server.log_size
        until = time.monotonic() + bed.source.uniform(2.0, 4.0)
        while time.monotonic() < until:
            fill(ballast, bed.source.choice((0, 0, NEARLY_FULL_KB)))
            time.sleep(0.1)
        process = bed.server.process
        assert process is not None
        problems = [] if process.poll() is None else [f"it ended with {process.returncode}: {bed.server.log_tail(5)}"]
        bed.report.check("on a full disk the server stays", problems)
        deadline = time.monotonic() + SAYS_SECONDS
        while not any(code in bed.server.log_since(before) for code in FULL_CODES) and time.monotonic() < deadline:
            fill(ballast, 0)
            time.sleep(0.1)
        text = bed.server.log_since(before)
        said = any(code in text for code in FULL_CODES)
        bed.report.check("and says that the disk is full", [] if said else [f"none of {FULL_CODES} in {text[-600:]!r}"])
        bed.report.done["disk filled"] += 1
        kill_it = bed.source.random() < 0.7
        if kill_it:
            bed.kill("kill -9 on a full disk")
            before = bed.server.log_size
            fill(ballast, 0)
            bed.server.launch()
            code = bed.server.wait_for_end(bed.source.uniform(1.0, 4.0))
            if code is not None:
                text = bed.server.log_since(before)
                missing = [] if code != 0 else ["its exit code is 0"]
                bed.report.check("a start on a full disk says what is wrong", missing + says(text, "PF-"))
                bed.report.done["start refused on a full disk"] += 1
        ballast.unlink()
        if bed.server.process is None or bed.server.process.poll() is not None:
            bed.restart()
        else:
            bed.server.wait_until_ready()
        bed.report.check("it is ready by itself once there is room", _ready_again(bed))
        bed.kill_and_restart()


def read_only_disk(bed: Bed, kills: int) -> None:
    """Checkpoints that cannot be written, and a data directory that cannot be opened."""
    folder = bed.server.data_dir
    while bed.report.kills < kills:
        before = bed.server.log_size
        with read_only(folder / "checkpoints"):
            bed.report.check("a checkpoint that cannot be written is shown", _eventually(lambda: failing(bed, 1)))
            text = bed.server.log_since(before)
            bed.report.check("and named", says(text, "PF-2401", str(folder / "checkpoints")))
            bed.kill("kill -9 while checkpoints cannot be written")
            bed.restart()
            time.sleep(1)
            bed.report.done["checkpoints read-only"] += 1
        bed.report.check("checkpoints go on once they can be written", _eventually(lambda: failing(bed, 0)))
        bed.kill()
        before = bed.server.log_size
        with read_only(folder):
            bed.server.launch()
            code = bed.server.wait_for_end(20)
            problems = [] if code not in (None, 0) else [f"its exit code is {code}"]
            text = bed.server.log_since(before)
            bed.report.check(
                "a data directory that cannot be written is refused", problems + says(text, "PF-6011", str(folder))
            )
            bed.report.done["data directory read-only"] += 1
        bed.restart()
        bed.kill_and_restart()


def failing(bed: Bed, wanted: int) -> None:
    value = bed.metric("pyflare_checkpoint_failing")
    assert value == wanted, f"pyflare_checkpoint_failing is {value}, must be {wanted}"


def _ready_again(bed: Bed) -> list[str]:
    def ready() -> None:
        said = bed.readiness()
        assert said == "", f"/readyz says {said}"

    return _eventually(ready)


def _eventually(claim: object) -> list[str]:
    try:
        eventually(claim, 30)  # type: ignore[arg-type]
    except (AssertionError, ServerFailed) as difference:
        return [str(difference)]
    return []
