"""CrewAI: one agent, one task."""

import os

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from playing import KEY, MODEL, QUESTION, play
from playing import weather as tell


@tool("weather")
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return tell(city)


def crew(url, tools=(), **options):
    model = LLM(model=f"openai/{MODEL}", base_url=url, api_key=KEY, **options)
    agent = Agent(role="Forecaster", goal="Tell the weather.", backstory="Knows it.", llm=model, tools=list(tools))
    task = Task(description=QUESTION, expected_output="A sentence.", agent=agent)
    return Crew(agents=[agent], tasks=[task], verbose=False)


def whole(url):
    return crew(url).kickoff().raw


def streamed(url):
    return crew(url, stream=True).kickoff().raw


async def awaited(url):
    return (await crew(url).kickoff_async()).raw


def tools(url):
    return crew(url, [weather]).kickoff().raw


def own(provider):
    from openinference.instrumentation.crewai import CrewAIInstrumentor

    CrewAIInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "streamed": streamed, "awaited": awaited, "tools": tools}, own)
