"""LlamaIndex's model and its function agent."""

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from playing import KEY, MODEL, QUESTION, play, weather

MESSAGES = [ChatMessage(role="user", content=QUESTION)]
ASK = {"stream_options": {"include_usage": True}}


def model(url, **options):
    return OpenAI(model=MODEL, api_base=url, api_key=KEY, max_retries=0, **options)


def whole(url):
    return model(url).chat(MESSAGES).message.content


def streamed(url):
    return [piece.delta for piece in model(url).stream_chat(MESSAGES)]


def asked(url):
    return [piece.delta for piece in model(url, additional_kwargs=ASK).stream_chat(MESSAGES)]


async def awaited(url):
    return [piece.delta async for piece in await model(url).astream_chat(MESSAGES)]


async def tools(url):
    answer = await FunctionAgent(tools=[weather], llm=model(url), streaming=False).run(QUESTION)
    return str(answer), [call.tool_name for call in answer.tool_calls]


def own(provider):
    from openinference.instrumentation.llama_index import LlamaIndexInstrumentor

    LlamaIndexInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "streamed": streamed, "asked": asked, "awaited": awaited, "tools": tools}, own)
