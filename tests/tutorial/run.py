"""Runs the commands of the tutorial and the README as they stand, and checks what they promise.

The fenced blocks are taken from the documents; nothing is retyped here. A block may be changed in
one way only: the standard ports become free ones, so that a server of yours is left alone. `make`
and `pip` are recognised and not run: the binary is built and the SDK is among the test's clients.
Prints `N passed, N failed`; exit code 0 only if none failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "e2e")]

from runner import Runner, assert_equal, eventually  # noqa: E402
from server import Server  # noqa: E402

TUTORIAL = TESTS.parent / "docs" / "src" / "tutorial.md"
README = TESTS.parent / "README.md"
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"^(make|pip) ")
FOLLOWS = re.compile(r"^pyflare tail ")


def blocks(document: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(document.read_text()) if found == language]


def commands(block: str) -> list[str]:
    """The block's commands; one goes on while a quotation mark is open."""
    found: list[str] = []
    for line in block.splitlines():
        if found and found[-1].count('"') % 2 == 1:
            found[-1] += "\n" + line
        elif line.strip():
            found.append(line)
    return found


class Reader:
    """Somebody with a shell who follows a document; what is exported stays."""

    def __init__(self, server: Server, folder: Path) -> None:
        assert server.endpoints is not None
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYFLARE_API": server.api_url,
        }
        self.ports = {
            "127.0.0.1:4317": server.endpoints.otlp_grpc,
            "127.0.0.1:4318": server.endpoints.otlp_http,
            "127.0.0.1:4319": server.endpoints.api,
        }
        (folder / "bin").mkdir()
        (folder / "bin" / "pyflare").symlink_to(server.binary)

    def with_free_ports(self, text: str) -> str:
        for standard, free in self.ports.items():
            text = text.replace(standard, free)
        return text

    def run(self, command: str, seconds: float = 60.0) -> str:
        """One command in the shell; its output. A failure is the document's mistake."""
        text = self.with_free_ports(command)
        exported = re.match(r"^export (\w+)=([^\s#]+)", text)
        if exported:
            self.environment[exported[1]] = exported[2]
            return ""
        done = subprocess.run(
            ["bash", "-c", text], env=self.environment, cwd=self.folder, capture_output=True, timeout=seconds
        )
        assert done.returncode == 0, f"{command}\nended with {done.returncode}: {done.stderr.decode()[-1000:]}"
        return done.stdout.decode()

    def program(self, text: str) -> None:
        script = self.folder / "program.py"
        script.write_text(self.with_free_ports(text))
        done = subprocess.run([sys.executable, str(script)], env=self.environment, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert not done.stderr.strip(), f"it complained: {done.stderr.decode()[-2000:]}"

    def follow(self, command: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A command that goes on; what it prints is in the file."""
        output = self.folder / f"followed-{time.monotonic_ns()}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.with_free_ports(command)}"],
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return process, output


def tutorial(runner: Runner, reader: Reader) -> None:
    shell = [commands(block) for block in blocks(TUTORIAL, "sh")]
    programs = blocks(TUTORIAL, "python")
    runner.check("tutorial: it has its blocks", lambda: assert_equal((len(shell), len(programs)), (4, 1), "blocks"))
    runner.check("tutorial: it begins with make run", lambda: assert_equal(shell[0], ["make run"], "first block"))
    for command in shell[1]:
        if not LEFT_OUT.match(command):
            runner.check(f"tutorial: {command}", lambda command=command: reader.run(command))  # type: ignore[misc]
    runner.check("tutorial: the program sends its span", lambda: reader.program(programs[0]))

    def tokens_are_there() -> None:
        assert re.search(r"tutorial\W+gpt-4o-mini\W+120\b", reader.run(shell[2][0])), reader.run(shell[2][0])

    runner.check("tutorial: live.tokens has the span", lambda: eventually(tokens_are_there, 10))
    runner.check(
        "tutorial: history.spans has it",
        lambda: assert_equal("chat gpt-4o-mini" in reader.run(shell[2][1]), True, "the span's name in the answer"),
    )
    runner.check("tutorial: the monitor is created", lambda: reader.run(shell[3][0]))
    assert FOLLOWS.match(shell[3][1]), shell[3]
    process, output = reader.follow(shell[3][1])
    try:
        time.sleep(1.5)
        more_tokens = programs[0].replace('output_tokens", 40', 'output_tokens", 41')
        assert more_tokens != programs[0], "the program says no number of tokens that could be changed"
        runner.check("tutorial: sent again with other tokens", lambda: reader.program(more_tokens))

        def plus_comes() -> None:
            text = output.read_text()
            assert re.search(r"^\W*\+1\b.*gpt-4o-mini.*\b(41|81)\b", text, re.MULTILINE), f"no +1 row in:\n{text}"

        runner.check("tutorial: tail shows the new row", lambda: eventually(plus_comes, 10))
        more = programs[0].replace('output_tokens", 40', 'output_tokens", 42')
        runner.check("tutorial: and once more", lambda: reader.program(more))

        def minus_comes() -> None:
            text = output.read_text()
            assert re.search(r"^\W*-1\b.*gpt-4o-mini", text, re.MULTILINE), f"no -1 row in:\n{text}"

        # At the turn of a minute the second span opens a window of its own: send until both share one.
        def again_until_minus() -> None:
            reader.program(more.replace("42", str(43 + int(time.monotonic()) % 50)))
            eventually(minus_comes, 3)

        runner.check("tutorial: the old row goes with -1", lambda: eventually(again_until_minus, 20))
    finally:
        process.terminate()
        process.wait(10)
    runner.check(
        "tutorial: explain says how it is computed",
        lambda: assert_equal(bool(reader.run("pyflare monitor explain tutorial_tokens").strip()), True, "output"),
    )
    for quoted in re.findall(r"`(pyflare [a-z ]+[a-z_]+)`", TUTORIAL.read_text()):
        if quoted != "pyflare serve":
            runner.check(f"tutorial: {quoted}", lambda quoted=quoted: reader.run(quoted))  # type: ignore[misc]


def readme(runner: Runner, reader: Reader) -> None:
    for block in blocks(README, "sh"):
        for command in commands(block):
            if LEFT_OUT.match(command):
                continue
            if FOLLOWS.match(command):
                runner.check(f"README: {command}", lambda command=command: shows_rows(reader, command))  # type: ignore[misc]
            else:
                runner.check(f"README: {command}", lambda command=command: reader.run(command))  # type: ignore[misc]
    linked = re.findall(r"\]\((docs/[^)#]+)\)", README.read_text())
    missing = [path for path in linked if not (TESTS.parent / path).exists()]
    runner.check("README: what it links to is there", lambda: assert_equal(missing, [], "missing"))
    targets = set(re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE))
    known = set(re.findall(r"^([a-z0-9-]+):", (TESTS.parent / "Makefile").read_text(), re.MULTILINE))
    runner.check("README: its make targets are there", lambda: assert_equal(targets - known, set(), "unknown"))


def shows_rows(reader: Reader, command: str) -> None:
    process, output = reader.follow(command.split("#")[0])
    try:
        eventually(lambda: assert_equal("tutorial" in output.read_text(), True, "a row in the output"), 10)
    finally:
        process.terminate()
        process.wait(10)


def demo_without_a_server(binary: Path) -> None:
    """It gives up after a few seconds and says how to start a server."""
    began = time.monotonic()
    demo = subprocess.run(
        [str(binary), "demo", "--seconds", "1", "--endpoint", "http://127.0.0.1:9"], capture_output=True, timeout=30
    )
    text = demo.stderr.decode()
    assert demo.returncode == 1, f"it ended with {demo.returncode}: {text}"
    assert "PF-6034" in text and "pyflare serve" in text, text
    assert time.monotonic() - began < 15, "it took too long"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the pyflare binary")
    options = parser.parse_args()
    runner = Runner()
    folder = Path(tempfile.mkdtemp(prefix="pyflare-tutorial-"))
    server = Server(options.binary.resolve(), folder / "data")
    try:
        if runner.check("the server starts and is ready", server.start):
            reader = Reader(server, folder)
            tutorial(runner, reader)
            readme(runner, reader)
        runner.check("demo without a server ends with advice", lambda: demo_without_a_server(options.binary.resolve()))
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
    print(runner.closing_line)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
