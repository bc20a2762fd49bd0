"""What every client's driver is given, and how it says that it could not do it."""

from __future__ import annotations

from dataclasses import dataclass

from kept import Kept

EXIT_FAILED = 1
EXIT_MISSING_TOOL = 77


class MissingTool(Exception):
    """A tool that the client needs is not installed; the text says how to get it."""


class NotAcknowledged(Exception):
    """The endpoint did not acknowledge everything that was sent."""


@dataclass
class Run:
    """What a client is asked to do."""

    client: str
    endpoint_grpc: str
    endpoint_http: str
    count: int
    kept: Kept
    seed: int
    spread_seconds: float
    service: str
    project: str | None
    headers: dict[str, str]
    signals: frozenset[str]
    errors: bool

    @property
    def all_headers(self) -> dict[str, str]:
        project = {"x-pyflare-project": self.project} if self.project else {}
        return project | self.headers
