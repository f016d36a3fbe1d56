"""A web service: one request is one task with retrieval, rerank and a streamed answer.

    pip install "llmtrace-phases[openai]" fastapi uvicorn opentelemetry-instrumentation-fastapi
    llmtrace serve &
    python examples/fastapi_app.py        # PORT=8000
    curl -N 'http://127.0.0.1:8000/ask?question=What+is+prefill'

The trace: the web request, the task in it, its steps, the call and the call's phases.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from setup_tracing import API_KEY, BASE_URL, model_of, start

import llmtrace

NOTES = {
    "queue": "A request waits in the queue until the scheduler admits it.",
    "prefill": "Prefill computes the prompt; it ends with the first token.",
    "decode": "Decode makes one token after another.",
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests, closed with the application; spans are sent before it is gone."""
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as app.state.client:
        yield
    provider.shutdown()


provider = start("fastapi-example")
app = FastAPI(lifespan=lifespan)
FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
MODEL = model_of()


@app.get("/ask")
async def ask(question: str) -> StreamingResponse:
    """Answer from the notes, word by word."""

    async def answer() -> AsyncIterator[str]:
        async with llmtrace.task("answer question") as task:
            with llmtrace.step("notes", kind="retrieval"):
                found = [text for word, text in NOTES.items() if word in question.lower()] or list(NOTES.values())
            with llmtrace.step("best", kind="rerank"):
                found = sorted(found, key=len)[:1]
            stream = await app.state.client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "system", "content": found[0]}, {"role": "user", "content": question}],
                max_tokens=48,
                stream=True,
                stream_options={"include_usage": True},
            )
            async with stream:
                async for chunk in stream:
                    for choice in chunk.choices:
                        yield choice.delta.content or ""
            task.resolved()

    return StreamingResponse(answer(), media_type="text/plain")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), log_level="warning")
