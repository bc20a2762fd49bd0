"""What the README and the book show is true: their examples run, and answers look as printed.

Models the documents as fenced blocks. Commands that talk to a server are run as a reader would type
them, against a server on other ports; commands that install or build are not. A statement with `…`
in it is a pattern, not an example.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from refusals import request
from runner import assert_equal, eventually
from server import Server, post_json

ROOT = Path(__file__).resolve().parent.parent.parent
BOOK = ROOT / "docs" / "src"
README, TUTORIAL = ROOT / "README.md", BOOK / "tutorial.md"
HTTP, SOCKET, MONITORS = (BOOK / "reference" / f"{name}.md" for name in ("http", "websocket", "monitors"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROUTE = re.compile(r"^\| ((?:`[A-Z]+`, )*`[A-Z]+ /\S+`) \|", re.MULTILINE)
TALKS_TO_A_SERVER = ("curl", "pyflare")


@dataclass(frozen=True)
class Block:
    """One fenced block; `place` is what a failure names."""

    language: str
    text: str
    place: str


def blocks(path: Path, language: str) -> list[Block]:
    text = path.read_text()
    found = [
        Block(match[1], match[2], f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}")
        for match in FENCE.finditer(text)
    ]
    chosen = [block for block in found if block.language == language]
    assert chosen, f"{path} has no block in {language} any more: this test looks at nothing"
    return chosen


def commands(path: Path) -> Iterator[list[str]]:
    """The words of each shell command that talks to a server, in order, backslashes and quotes resolved."""
    for block in blocks(path, "sh"):
        # A comment would take the end of its line along.
        text = re.sub(r"[ \t]+#.*$", "", block.text.replace("\\\n", " "), flags=re.MULTILINE)
        lexer = shlex.shlex(text, posix=True, punctuation_chars="\n;|")
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
        words: list[str] = []
        for token in [*lexer, "\n"]:
            if token.strip("\n;|"):
                words.append(token)
            elif words:
                if words[0] in TALKS_TO_A_SERVER:
                    yield words
                words = []


def run(server: Server, words: list[str], more: list[str] | None = None) -> str:
    """Runs a command as a reader would, against this server; it must end well."""
    typed = [word.replace("http://127.0.0.1:4319", server.api_url) for word in words]
    if typed[0] == "pyflare":
        typed[0] = str(server.binary)
    else:
        typed += ["--show-error", "--fail-with-body"]
    environment = {**os.environ, "PYFLARE_API": server.api_url}
    done = subprocess.run([*typed, *(more or [])], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, f"{shlex.join(words)}\nended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def without_monitors(server: Server, claim: Callable[[], None]) -> None:
    """Runs a claim and drops the monitors that it made."""

    def names() -> set[str]:
        return {item["name"] for item in server.get("/api/v1/monitors?limit=1000")["items"]}

    before = names()
    try:
        claim()
    finally:
        for name in names() - before:
            request(f"{server.api_url}/api/v1/monitors/{name}", method="DELETE")


def readme(server: Server) -> None:
    """Every command of the README that talks to a server."""

    def claim() -> None:
        ran = [run(server, words, ["--frames", "1"] if words[1] == "tail" else []) for words in commands(README)]
        assert_equal(len(ran), 3, "commands of the README that talk to a server")

    without_monitors(server, claim)


def tutorial(server: Server) -> None:
    """The tutorial from its first span on: what it asks for is there."""

    def claim() -> None:
        assert server.endpoints is not None
        exports = dict(re.findall(r"^export (\w+)=(\S+)$", TUTORIAL.read_text(), re.MULTILINE))
        assert_equal(exports["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://127.0.0.1:4318", "the tutorial's endpoint")
        exports["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.endpoints.otlp_http_url
        environment = {**os.environ, **exports}
        program = blocks(TUTORIAL, "python")[0].text
        steps = list(commands(TUTORIAL))

        def send() -> None:
            subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)

        def answered(words: list[str]) -> None:
            rows = json.loads(run(server, words, ["--format", "json"]))["rows"]
            assert rows, f"no rows: {shlex.join(words)}"

        send()
        asked = [words for words in steps if words[1] == "sql"]
        assert_equal(len(asked), 2, "queries of the tutorial")
        for words in asked:
            eventually(functools.partial(answered, words))
        created, tailed = (next(words for words in steps if words[1] == action) for action in ("monitor", "tail"))
        run(server, created)
        send()
        assert "gpt-4o-mini" in run(server, tailed, ["--frames", "1"]) or "gpt-4o-mini" in run(
            server, tailed, ["--frames", "2"]
        ), "the tutorial's monitor does not show its model"
        assert "tutorial_tokens" in TUTORIAL.read_text() and run(server, ["pyflare", "monitor", "explain", tailed[2]])

    without_monitors(server, claim)


def monitors(server: Server) -> None:
    """Every SELECT of the language reference is a monitor that can be planned."""
    examples = [block for block in blocks(MONITORS, "sql") if "…" not in block.text]
    assert examples, "no examples without … any more"
    for block in examples:
        answer = post_json(f"{server.api_url}/api/v1/monitors/explain", {"sql": block.text})
        assert answer["operators"], f"{block.place}: {answer}"


def http(server: Server) -> None:
    """Every request of the HTTP page works, and its answers have the printed fields."""

    def claim() -> None:
        answers = [json.loads(run(server, words)) for words in commands(HTTP)]
        answer, refusal = (json.loads(block.text) for block in blocks(HTTP, "json"))
        assert_equal(sorted(answers[0]), sorted(answer), "fields of the answer to a query")
        assert_equal(answers[0]["columns"], answer["columns"], "columns of the answer to a query")
        wrong = json.loads(request(f"{server.api_url}/api/v1/views/reqests").body)
        assert_equal({**wrong, "hint": ""}, {**refusal, "hint": ""}, "a refusal")
        assert set(refusal["hint"].removeprefix("there are: ").split(", ")) <= set(
            wrong["hint"].removeprefix("there are: ").split(", ")
        ), f"the hint is {wrong['hint']!r}"
        monitor = answers[1]
        fields = re.search(r"Each monitor has (.*?)\.\n", HTTP.read_text(), re.DOTALL)
        assert fields is not None
        documented = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", fields[1])))
        assert_equal(documented, set(monitor), "fields of a monitor")

    without_monitors(server, claim)


def routes(server: Server) -> None:
    """The table of routes is that of the OpenAPI document."""
    documented = set()
    for cell in ROUTE.findall(HTTP.read_text()):
        *methods, last = re.findall(r"`([^`]*)`", cell)
        method, path = last.split(" ")
        documented |= {(each, path) for each in [*methods, method]}
    served = {
        (method.upper(), path)
        for path, operations in server.get("/api/openapi.json")["paths"].items()
        for method in operations
    }
    assert_equal(sorted(documented), sorted(served), "routes of the HTTP page")


def socket(server: Server) -> None:
    """What the page shows a client to send is accepted; what the server sends has the printed fields."""
    sent, received = ([json.loads(line) for line in block.text.splitlines()] for block in blocks(SOCKET, "json"))
    found = asyncio.run(_messages(server, [*sent, {"type": "subscribe", "id": "a", "view": "x"}]))
    for printed in received:
        kind = printed["type"]
        assert kind in found, f"the server sent no {kind}; it sent {sorted(found)}"
        assert_equal(sorted(found[kind]), sorted(printed), f"fields of a {kind}")
    assert_equal(found["end"]["reason"], "unsubscribed", "the reason of an end")
    assert_equal(found["error"]["code"], "PF-5013", "the code of an error")


async def _messages(server: Server, to_send: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The first answer of each type; each message is sent when the one before has been answered."""
    assert server.endpoints is not None
    found: dict[str, dict[str, Any]] = {}
    async with connect(server.endpoints.live_url, max_size=None) as connection:
        for message in to_send:
            await connection.send(json.dumps(message))
            answered = {"error", "frame" if message["type"] == "subscribe" else "end"}
            kind = ""
            while kind not in answered:
                answer = json.loads(await asyncio.wait_for(connection.recv(), 20))
                kind = answer["type"]
                found.setdefault(kind, answer)
    return found


def claims(server: Server) -> list[tuple[str, Callable[[], None]]]:
    everything = (readme, tutorial, monitors, http, routes, socket)
    return [(claim.__name__, functools.partial(claim, server)) for claim in everything]
