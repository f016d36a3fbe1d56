"""OpenAI Agents: an agent with a tool. Each turn is a call, the tool is a step between them.

    pip install "llmtrace-phases[openai]" openai-agents
    llmtrace serve &
    python examples/agents_tools.py

The reference server's model calls no tools; point OPENAI_BASE_URL at one that does to see two turns.
"""

from __future__ import annotations

import asyncio

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from setup_tracing import API_KEY, BASE_URL, model_of, start

import llmtrace


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    with llmtrace.step("weather", kind="tool"):
        return f"Sun in {city}."


async def main() -> None:
    """One run of the agent is one task."""
    provider = start("agents-example")
    set_tracing_disabled(True)  # its own traces, which go to OpenAI
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        model = OpenAIChatCompletionsModel(model=model_of(), openai_client=client)
        brief = ModelSettings(max_tokens=64)
        agent = Agent(
            name="Forecaster",
            instructions="Answer in one sentence.",
            model=model,
            tools=[weather],
            model_settings=brief,
        )
        async with llmtrace.task("forecast") as task:
            result = await Runner.run(agent, "What is the weather in Bern?")
            task.resolved()
    print(result.final_output, "\n")
    provider.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
