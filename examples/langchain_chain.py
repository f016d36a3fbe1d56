"""LangChain: a chain, streamed. Nothing of LangChain is patched; its calls are seen in the client beneath.

pip install "llmtrace-phases[openai]" langchain-openai
llmtrace serve &
python examples/langchain_chain.py
"""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from setup_tracing import API_KEY, BASE_URL, model_of, start

import llmtrace


def main() -> None:
    """One chain under one task."""
    provider = start("langchain-example")
    model = ChatOpenAI(
        model=model_of(), base_url=BASE_URL, api_key=SecretStr(API_KEY), max_completion_tokens=48, stream_usage=True
    )
    prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("user", "{question}")])
    chain = prompt | model | StrOutputParser()
    with llmtrace.task("explain") as task:
        for piece in chain.stream({"question": "What is a KV cache?"}):
            print(piece, end="", flush=True)
        task.resolved()
    print("\n")
    provider.shutdown()


if __name__ == "__main__":
    main()
