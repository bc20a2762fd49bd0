"""The real OpenAI client, instrumented by OpenTelemetry or by OpenInference, against the stub.

Every call of the table below is made in turn until `count` calls were made: plain chat with
cached and reasoning tokens, streaming with usage, a tool round trip, embeddings, a long conversation, and failures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

from openai import APIError, OpenAI

from client import Run
from elaborate import elaborated
from openai_stub import OpenAiStub
from otel_sdk import Traces

MODELS = ("atlas-large", "atlas-small")
LONG_CHAT_MESSAGES = 91
WEATHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def run(run: Run) -> None:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    sending = Traces(run)
    _instrument(run.client, sending)
    with OpenAiStub() as stub:
        client = OpenAI(base_url=stub.base_url, api_key="not-a-key", max_retries=0)
        calls: list[Callable[[OpenAI, int], Any]] = [_chat, _stream, _tools, _embeddings, _long_chat]
        if run.errors:
            calls += [_missing_model, _overloaded]
        for number, call in enumerate(islice(cycle(calls), run.count)):
            call(client, number)
    sending.finish()


def _instrument(client: str, sending: Traces) -> None:
    if client == "genai-openai":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    else:
        from openinference.instrumentation.openai import OpenAIInstrumentor
    OpenAIInstrumentor().instrument(tracer_provider=sending.provider)


def _chat(client: OpenAI, number: int) -> None:
    client.chat.completions.create(
        model=MODELS[number % 2],
        temperature=0.2,
        max_tokens=50,
        messages=[
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": elaborated(f"Where is order {number}? – «déjà vu», 東京", number)},
        ],
    )


def _long_chat(client: OpenAI, number: int) -> None:
    """More messages than a span may have attributes: flattened conventions lose some of them."""
    messages: list[Any] = [
        {"role": "assistant" if turn % 2 else "user", "content": f"turn {turn} of conversation {number}"}
        for turn in range(LONG_CHAT_MESSAGES)
    ]
    client.chat.completions.create(model=MODELS[1], messages=messages)


def _stream(client: OpenAI, number: int) -> None:
    chunks = client.chat.completions.create(
        model=MODELS[number % 2],
        stream=True,
        stream_options={"include_usage": True},
        messages=[{"role": "user", "content": elaborated(f"Tell a story in {number + 3} words", number)}],
    )
    for _ in chunks:
        pass


def _tools(client: OpenAI, number: int) -> None:
    messages: list[Any] = [{"role": "user", "content": elaborated(f"What is the weather at stop {number}?", number)}]
    answer = client.chat.completions.create(model=MODELS[0], messages=messages, tools=[WEATHER_TOOL])
    calls: Any = answer.choices[0].message.tool_calls
    call = calls[0]
    messages.append(
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        }
    )
    messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 11}'})
    client.chat.completions.create(model=MODELS[0], messages=messages, tools=[WEATHER_TOOL])


def _embeddings(client: OpenAI, number: int) -> None:
    client.embeddings.create(
        model="cirrus-embed", input=[elaborated(f"a text about order {number}", number), "and another"]
    )


def _missing_model(client: OpenAI, number: int) -> None:
    _fails(client, "missing-model", number)


def _overloaded(client: OpenAI, number: int) -> None:
    _fails(client, "overloaded-model", number)


def _fails(client: OpenAI, model: str, number: int) -> None:
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": f"Question {number}"}])
    except APIError:
        return
    raise AssertionError(f"the stub answered for {model}")
