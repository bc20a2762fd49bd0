"""A Pydantic AI agent with two tools, answered by its own TestModel."""

from __future__ import annotations

from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.test import TestModel

from client import Run
from elaborate import elaborated
from otel_sdk import Traces


def run(run: Run) -> None:
    sending = Traces(run)
    Agent.instrument_all(InstrumentationSettings(tracer_provider=sending.provider))
    agent = Agent(TestModel(model_name="borealis-7b"), name="support", instructions="Help the customer.")

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    @agent.tool_plain
    def order_state(order: int) -> dict[str, object]:
        """The state of an order."""
        return {"order": order, "state": "shipped"}

    for number in range(run.count):
        agent.run_sync(elaborated(f"Where is order {number}, and will it rain?", number))
    sending.finish()
