"""DSPy, which calls by LiteLLM."""

import dspy
from playing import KEY, MODEL, QUESTION, play


def model(url):
    return dspy.LM(f"openai/{MODEL}", api_base=url, api_key=KEY, cache=False, num_retries=0, engine="litellm")


def whole(url):
    with dspy.context(lm=model(url)):
        return dspy.Predict("question -> answer")(question=QUESTION).answer


async def awaited(url):
    with dspy.context(lm=model(url)):
        return (await dspy.Predict("question -> answer").acall(question=QUESTION)).answer


async def streamed(url):
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    with dspy.context(lm=model(url)):
        program = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
        pieces = [piece async for piece in program(question=QUESTION)]
    return [piece.chunk if hasattr(piece, "chunk") else piece.answer for piece in pieces]


def own(provider):
    from openinference.instrumentation.dspy import DSPyInstrumentor

    DSPyInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "awaited": awaited, "streamed": streamed}, own)
