"""A LangGraph graph: a node that asks, a node that runs the tool."""

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from playing import KEY, MODEL, QUESTION, play, weather


def graph(url, **options):
    model = ChatOpenAI(model=MODEL, base_url=url, api_key=KEY, max_retries=0, **options).bind_tools([weather])

    def ask(state):
        return {"messages": [model.invoke(state["messages"])]}

    built = StateGraph(MessagesState)
    built.add_node("ask", ask)
    built.add_node("tools", ToolNode([weather]))
    built.add_edge(START, "ask")
    built.add_conditional_edges("ask", tools_condition)
    built.add_edge("tools", "ask")
    return built.compile()


STATE = {"messages": [HumanMessage(QUESTION, id="question")]}


def tools(url):
    return [(message.type, message.content) for message in graph(url).invoke(STATE)["messages"]]


def streamed(url):
    return [
        (piece.type, piece.content, where["langgraph_node"])
        for piece, where in graph(url).stream(STATE, stream_mode="messages")
    ]


def asked(url):
    return [
        (piece.type, piece.content, where["langgraph_node"])
        for piece, where in graph(url, stream_usage=True).stream(STATE, stream_mode="messages")
    ]


async def awaited(url):
    final = await graph(url).ainvoke(STATE)
    return [(message.type, message.content) for message in final["messages"]]


def own(provider):
    from openinference.instrumentation.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(tracer_provider=provider)


play({"tools": tools, "streamed": streamed, "asked": asked, "awaited": awaited}, own)
