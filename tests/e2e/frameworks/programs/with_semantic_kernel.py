"""Semantic Kernel: its chat completion service, and an agent with a plugin."""

import os

# Read when the package is imported.
if os.environ.get("FRAMEWORK_SPANS"):
    os.environ["SEMANTICKERNEL_EXPERIMENTAL_GENAI_ENABLE_OTEL_DIAGNOSTICS"] = "true"

from openai import AsyncOpenAI
from playing import KEY, MODEL, QUESTION, play
from playing import weather as tell
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function


def service(url):
    return OpenAIChatCompletion(
        ai_model_id=MODEL, async_client=AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0), service_id="chat"
    )


def history():
    asked = ChatHistory()
    asked.add_user_message(QUESTION)
    return asked


async def whole(url):
    return str(await service(url).get_chat_message_content(history(), OpenAIChatPromptExecutionSettings()))


async def streamed(url):
    settings = OpenAIChatPromptExecutionSettings()
    pieces = service(url).get_streaming_chat_message_content(history(), settings)
    return [str(piece) async for piece in pieces]


class Forecast:
    @kernel_function(name="weather", description="Tell the weather in a city.")
    def weather(self, city: str) -> str:
        return tell(city)


async def tools(url):
    agent = ChatCompletionAgent(service=service(url), name="Forecaster", plugins=[Forecast()])
    return str((await agent.get_response(messages=QUESTION)).content)


def own(provider):
    """Its own spans go to the global TracerProvider, which is set already."""


play({"whole": whole, "streamed": streamed, "tools": tools}, own)
