"""The known set of spans that the plain SDK clients send.

Models a small fleet: chat, retrieval, tool, embedding and agent spans of two services, with
prompts, answers, errors, events and links, explicit start and end times. A function of the
seed and the moment of the run alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MODELS = ("atlas-large", "atlas-small", "borealis-7b", "cirrus-embed")
WORDS = (
    "refund order invoice délai Zürich 配送 shipping status account password reset policy warranty",
    "device firmware network outage region latency quota upgrade contract renewal",
)
VOCABULARY = [word for line in WORDS for word in line.split(" ")]
ERROR_SHARE = 0.1


@dataclass
class PlannedSpan:
    """One span to send; `parent` is an index into the same trace, None for its root."""

    name: str
    kind: str
    parent: int | None
    start_unix_nano: int
    end_unix_nano: int
    attributes: dict[str, Any]
    error: str | None = None
    events: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)


def sentence(random_source: random.Random, words: int) -> str:
    return " ".join(random_source.choice(VOCABULARY) for _ in range(words))


def traces(count: int, seed: int, spread_seconds: float) -> Iterator[list[PlannedSpan]]:
    """Traces with `count` spans in all, ending within the last `spread_seconds`."""
    source = random.Random(seed)
    now = time.time_ns()
    left = count
    while left > 0:
        end = now - int(source.random() * spread_seconds * 1e9)
        trace = _agent_trace(source, end)[:left]
        left -= len(trace)
        yield trace


def _agent_trace(source: random.Random, end: int) -> list[PlannedSpan]:
    """An agent's run: the root ends last, its children one after another inside it."""
    duration = int(source.lognormvariate(-0.5, 0.8) * 1e9)
    start = end - duration
    session = f"session-{source.randrange(50)}"
    root = PlannedSpan(
        name="invoke_agent support",
        kind="internal",
        parent=None,
        start_unix_nano=start,
        end_unix_nano=end,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "support",
            "gen_ai.conversation.id": session,
            "user.id": f"user-{source.randrange(200)}",
            "session.id": session,
        },
    )
    makers = [_chat, source.choice((_tool, _embedding, _retrieval)), _chat]
    step = duration // (len(makers) + 1)
    spans = [root]
    for position, make in enumerate(makers):
        begin = start + position * step
        spans.append(make(source, begin, begin + source.randrange(1, max(step, 2))))
    if any(span.error for span in spans):
        root.error = "a step failed"
    return spans


def _chat(source: random.Random, start: int, end: int) -> PlannedSpan:
    model = source.choice(MODELS[:3])
    prompt_tokens = source.randrange(50, 4000)
    answer_tokens = source.randrange(5, 800)
    span = PlannedSpan(
        name=f"chat {model}",
        kind="client",
        parent=0,
        start_unix_nano=start,
        end_unix_nano=end,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.request.temperature": source.choice((0.0, 0.2, 0.7)),
            "gen_ai.request.max_tokens": 1024,
            "gen_ai.request.stop_sequences": ["\n\n", "END"],
            "server.address": "api.example.com",
            "server.port": 443,
            "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"'
            + sentence(source, 20)
            + '"}]}]',
        },
    )
    if source.random() < ERROR_SHARE:
        span.error = "Rate limit reached, try again later"
        span.attributes["error.type"] = "rate_limit_exceeded"
        span.events.append(
            (
                "exception",
                end - 1,
                {"exception.type": "openai.RateLimitError", "exception.message": span.error},
            )
        )
        return span
    span.attributes |= {
        "gen_ai.response.model": f"{model}-2026-01-01",
        "gen_ai.response.id": f"chatcmpl-{source.getrandbits(48):012x}",
        "gen_ai.response.finish_reasons": [source.choice(("stop", "length", "tool_calls"))],
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": answer_tokens,
        "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"'
        + sentence(source, 40)
        + '"}],"finish_reason":"stop"}]',
    }
    if source.random() < 0.5:
        span.attributes["gen_ai.usage.cache_read.input_tokens"] = source.randrange(prompt_tokens)
    if source.random() < 0.2:
        span.attributes["gen_ai.usage.cache_creation.input_tokens"] = 0
    if source.random() < 0.3:
        span.attributes["gen_ai.usage.reasoning.output_tokens"] = source.randrange(answer_tokens)
    return span


def _tool(source: random.Random, start: int, end: int) -> PlannedSpan:
    tool = source.choice(("lookup_order", "weather", "send_mail"))
    return PlannedSpan(
        name=f"execute_tool {tool}",
        kind="internal",
        parent=0,
        start_unix_nano=start,
        end_unix_nano=end,
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.call.id": f"call_{source.getrandbits(24):06x}",
            "gen_ai.tool.type": "function",
            "cached": source.random() < 0.5,
        },
    )


def _embedding(source: random.Random, start: int, end: int) -> PlannedSpan:
    return PlannedSpan(
        name=f"embeddings {MODELS[3]}",
        kind="client",
        parent=0,
        start_unix_nano=start,
        end_unix_nano=end,
        attributes={
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": MODELS[3],
            "gen_ai.response.model": f"{MODELS[3]}-2026-01-01",
            "gen_ai.embeddings.dimension.count": 8,
            "gen_ai.usage.input_tokens": source.randrange(1, 512),
        },
    )


def _retrieval(source: random.Random, start: int, end: int) -> PlannedSpan:
    return PlannedSpan(
        name="retrieval manuals",
        kind="client",
        parent=0,
        start_unix_nano=start,
        end_unix_nano=end,
        attributes={
            "gen_ai.operation.name": "retrieval",
            "gen_ai.data_source.id": "manuals",
            "gen_ai.retrieval.query.text": sentence(source, 6),
            "retrieval.scores": [round(source.random(), 3) for _ in range(3)],
        },
    )
