"""Reads `tests/slt/clauses/*.slt`: per clause of the language monitors that must be right, and what is refused.

A file begins with comment lines: a title, and what the clause means. Records follow, separated by empty lines; comment
lines before a record say what is to be seen. A record is `monitor NAME [WITH (…)]` or `refused CODE`, and below it the
SELECT. Sections that begin with `---- ` follow where they are needed:

- `---- duckdb`: the SELECT in DuckDB's words; `---- duckdb none: reason` where it has none;
- `---- datafusion`, `---- datafusion none: reason`: the same for the oracle of tests/engine_oracle/clauses.rs;
- `---- errors`: a query for the number of rows and groups in error; without it there must be none;
- `---- shows nothing in the end`: the view is empty once all rows are in; without it, it must not be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "slt" / "clauses"
EMIT = re.compile(r"\s+EMIT\s+(CHANGES|FINAL)\s*$")
SECTIONS = ("duckdb", "duckdb none", "datafusion", "datafusion none", "errors", "shows nothing in the end")
DEFAULT_LATENESS = "10 minutes"


@dataclass
class Record:
    """One monitor, or one statement that is refused."""

    place: str
    name: str
    options: str
    select: str
    refusal: str | None = None
    sections: dict[str, str] = field(default_factory=dict)

    @property
    def statement(self) -> str:
        return f"CREATE MONITOR {self.name or 'refused'} {self.options} AS\n{self.select}"

    @property
    def is_final(self) -> bool:
        return self.select.rstrip().endswith("EMIT FINAL")

    @property
    def lateness(self) -> str:
        found = re.search(r"lateness = '([^']+)'", self.options)
        return found[1] if found else DEFAULT_LATENESS

    @property
    def for_duckdb(self) -> str | None:
        """None where DuckDB cannot say it."""
        if "duckdb none" in self.sections:
            return None
        return EMIT.sub("", self.sections.get("duckdb", self.select))


def statements() -> list[str]:
    """The streams' declarations."""
    lines = (FOLDER / "streams.sql").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def records(only: str | None = None) -> list[Record]:
    """Of all files, in an order in which views stand behind those they read."""
    found: list[Record] = []
    for path in sorted(FOLDER.glob("*.slt")):
        if only is None or only in path.stem:
            found += _read(path)
    names = [record.name for record in found if record.name]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"names must differ over all files: {twice}"
    return found


def _read(path: Path) -> list[Record]:
    found = []
    number = 1
    for block in path.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            found.append(_record(lines, f"{path.name}:{number + len(block.splitlines()) - len(lines)}"))
        number += len(block.splitlines()) + 1
    return found


def _record(lines: list[str], place: str) -> Record:
    header, *rest = lines
    sections: dict[str, list[str]] = {"": []}
    section = ""
    for line in rest:
        if line.startswith("---- "):
            section = line.removeprefix("---- ").partition(":")[0]
            assert section in SECTIONS, f"{place}: {line} is no section"
            sections[section] = []
        else:
            sections[section].append(line)
    texts = {name: "\n".join(text) for name, text in sections.items()}
    select = texts.pop("")
    kind, _, words = header.partition(" ")
    if kind == "refused":
        return Record(place, "", "", select, refusal=words, sections=texts)
    assert kind == "monitor", f"{place}: {header} is no record"
    name, _, options = words.partition(" ")
    return Record(place, name, options, select, sections=texts)
