"""Smolagents: a model, and an agent with a tool."""

from playing import KEY, MODEL, QUESTION, play, weather
from smolagents import ChatMessage, OpenAIServerModel, ToolCallingAgent, tool

MESSAGES = [ChatMessage(role="user", content=QUESTION)]


def model(url, **options):
    return OpenAIServerModel(model_id=MODEL, api_base=url, api_key=KEY, client_kwargs={"max_retries": 0}, **options)


def whole(url):
    return model(url).generate(MESSAGES).content


def streamed(url):
    return [piece.content for piece in model(url).generate_stream(MESSAGES)]


def tools(url):
    agent = ToolCallingAgent(tools=[tool(weather)], model=model(url), verbosity_level=0)
    return agent.run(QUESTION)


def own(provider):
    from openinference.instrumentation.smolagents import SmolagentsInstrumentor

    SmolagentsInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "streamed": streamed, "tools": tools}, own)
