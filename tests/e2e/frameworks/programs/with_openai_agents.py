"""OpenAI Agents, over chat completions."""

import agents
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI
from playing import KEY, MODEL, QUESTION, play, weather

agents.set_tracing_export_api_key("none")
agents.set_trace_processors([])


def agent(url, tools=(), **settings):
    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    model = OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
    return Agent(name="Forecaster", model=model, tools=list(tools), model_settings=ModelSettings(**settings))


def whole(url):
    return Runner.run_sync(agent(url), QUESTION).final_output


async def streamed(url):
    result = Runner.run_streamed(agent(url), QUESTION)
    return [event.type async for event in result.stream_events()], result.final_output


async def asked(url):
    result = Runner.run_streamed(agent(url, include_usage=True), QUESTION)
    kinds = [event.type async for event in result.stream_events()]
    return kinds, result.final_output, result.context_wrapper.usage.total_tokens


def tools(url):
    result = Runner.run_sync(agent(url, [function_tool(weather)]), QUESTION)
    return [item.type for item in result.new_items], result.final_output


def own(provider):
    from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor

    OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "streamed": streamed, "asked": asked, "tools": tools}, own)
