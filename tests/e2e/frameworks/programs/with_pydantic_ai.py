"""Pydantic AI."""

from playing import KEY, MODEL, QUESTION, play, weather
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def agent(url, **options):
    return Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY)), **options)


def whole(url):
    return agent(url).run_sync(QUESTION).output


async def streamed(url):
    async with agent(url).run_stream(QUESTION) as result:
        return [text async for text in result.stream_text(delta=True, debounce_by=None)], result.usage.total_tokens


def tools(url):
    result = agent(url, tools=[weather]).run_sync(QUESTION)
    return result.output, [message.kind for message in result.all_messages()]


def own(provider):
    from pydantic_ai.models.instrumented import InstrumentationSettings

    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider))


play({"whole": whole, "streamed": streamed, "tools": tools}, own)
