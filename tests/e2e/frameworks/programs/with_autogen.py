"""AutoGen: a model client, and an agent with a tool."""

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from playing import KEY, MODEL, QUESTION, play, weather

MESSAGES = [UserMessage(content=QUESTION, source="user")]


def client(url):
    return OpenAIChatCompletionClient(model=MODEL, base_url=url, api_key=KEY, max_retries=0)


async def whole(url):
    return (await client(url).create(MESSAGES)).content


async def streamed(url):
    pieces = [piece async for piece in client(url).create_stream(MESSAGES)]
    return [piece if isinstance(piece, str) else piece.content for piece in pieces]


async def asked(url):
    pieces = [piece async for piece in client(url).create_stream(MESSAGES, include_usage=True)]
    return pieces[:-1], pieces[-1].usage.prompt_tokens


async def tools(url):
    agent = AssistantAgent("forecaster", model_client=client(url), tools=[weather], reflect_on_tool_use=True)
    result = await agent.run(task=QUESTION)
    return [(message.type, message.to_text()) for message in result.messages]


def own(provider):
    """AgentChat's own spans go to the global TracerProvider, which is set already."""


play({"whole": whole, "streamed": streamed, "asked": asked, "tools": tools}, own)
