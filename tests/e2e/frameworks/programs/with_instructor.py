"""Instructor: an answer of a given shape, and one that is asked for again because it does not fit."""

import instructor
from openai import AsyncOpenAI, OpenAI
from playing import KEY, MODEL, play
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "Who wrote the first program, and at which age?"}]


class Person(BaseModel):
    name: str
    age: int


def client(url):
    return instructor.from_openai(OpenAI(base_url=url, api_key=KEY, max_retries=0))


def create(url, **options):
    return client(url).chat.completions.create(model=MODEL, messages=MESSAGES, response_model=Person, **options)


def whole(url):
    return create(url).model_dump()


def streamed(url):
    pieces = client(url).chat.completions.create_partial(model=MODEL, messages=MESSAGES, response_model=Person)
    return [piece.model_dump() for piece in pieces]


def asked(url):
    pieces = client(url).chat.completions.create_partial(
        model=MODEL, messages=MESSAGES, response_model=Person, stream_options={"include_usage": True}
    )
    return [piece.model_dump() for piece in pieces]


async def awaited(url):
    client = instructor.from_openai(AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0))
    person = await client.chat.completions.create(model=MODEL, messages=MESSAGES, response_model=Person)
    return person.model_dump()


def again(url):
    return create(url, max_retries=2).model_dump()


def own(provider):
    from openinference.instrumentation.instructor import InstructorInstrumentor

    InstructorInstrumentor().instrument(tracer_provider=provider)


play({"whole": whole, "streamed": streamed, "asked": asked, "awaited": awaited, "again": again}, own)
