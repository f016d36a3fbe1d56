"""Haystack: a generator in a pipeline, and an agent with a tool."""

from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from playing import KEY, MODEL, QUESTION, play, weather

MESSAGES = [ChatMessage.from_user(QUESTION)]


def generator(url, **options):
    return OpenAIChatGenerator(api_key=Secret.from_token(KEY), model=MODEL, api_base_url=url, max_retries=0, **options)


def run(url, **options):
    pipeline = Pipeline()
    pipeline.add_component("model", generator(url, **options))
    return pipeline.run({"model": {"messages": MESSAGES}})["model"]["replies"][0].text


def whole(url):
    return run(url)


def streamed(url):
    pieces = []
    text = run(url, streaming_callback=lambda piece: pieces.append(piece.content))
    return pieces, text


def asked(url):
    pieces = []
    text = run(
        url,
        streaming_callback=lambda piece: pieces.append(piece.content),
        generation_kwargs={"stream_options": {"include_usage": True}},
    )
    return pieces, text


async def awaited(url):
    return (await generator(url).run_async(messages=MESSAGES))["replies"][0].text


def tools(url):
    agent = Agent(chat_generator=generator(url), tools=[create_tool_from_function(weather)])
    return [(message.role.value, message.text) for message in agent.run(messages=MESSAGES)["messages"]]


def own(provider):
    from haystack import tracing
    from haystack_integrations.tracing.opentelemetry import OpenTelemetryTracer

    tracing.enable_tracing(OpenTelemetryTracer(provider.get_tracer("haystack")))


play({"whole": whole, "streamed": streamed, "asked": asked, "awaited": awaited, "tools": tools}, own)
