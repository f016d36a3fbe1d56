"""LangChain's chat model and agent."""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from playing import KEY, MODEL, QUESTION, play, weather


def model(url, **options):
    return ChatOpenAI(model=MODEL, base_url=url, api_key=KEY, max_retries=0, **options)


def whole(url):
    return model(url).invoke(QUESTION).content


def streamed(url):
    return [piece.content for piece in model(url).stream(QUESTION)]


def asked(url):
    return [(piece.content, piece.usage_metadata) for piece in model(url, stream_usage=True).stream(QUESTION)]


async def awaited(url):
    return [piece.content async for piece in model(url).astream(QUESTION)]


def tools(url):
    messages = create_agent(model(url), [weather]).invoke({"messages": [("user", QUESTION)]})["messages"]
    return [(message.type, message.content) for message in messages]


def own(provider):
    from openinference.instrumentation.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "streamed": streamed, "asked": asked, "awaited": awaited, "tools": tools}, own)
