"""A vLLM of your own: its queue and prefill in the call's phases, its own span in the same trace.

    vllm serve MODEL --port 8102 --enable-per-request-metrics --enable-prompt-tokens-details \\
        --otlp-traces-endpoint http://127.0.0.1:4318/v1/traces
    export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 OPENAI_BASE_URL=http://127.0.0.1:8102/v1
    python examples/vllm_joined.py

``traceparent`` goes along by itself to private addresses; for a public one set LLMTRACE_PROPAGATE=always.
"""

from __future__ import annotations

from openai import OpenAI
from setup_tracing import API_KEY, BASE_URL, model_of, start


def main() -> None:
    """The same long beginning twice: the second call finds it in the prefix cache."""
    provider = start("vllm-example")
    model = model_of()
    with OpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        for question in ("What is a queue?", "What is a cache?"):
            stream = client.chat.completions.create(
                model=model,
                messages=[
                    {"role": "system", "content": "You explain terms. " * 100},
                    {"role": "user", "content": question},
                ],
                max_tokens=32,
                stream=True,
                stream_options={"include_usage": True},  # vLLM tells its timings in the usage chunk only
            )
            for chunk in stream:
                for choice in chunk.choices:
                    print(choice.delta.content or "", end="", flush=True)
            print("\n")
    provider.shutdown()


if __name__ == "__main__":
    main()
