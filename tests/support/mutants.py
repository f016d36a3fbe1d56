"""Answers that no provider should send but one will: a body changed in one place, an event missing, a line end of
another kind. Made from a seed, so that a failure can be played again.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.support.replay import Part, Script

SAME = ("at once", "in pieces", "gzip", "crlf", "comments", "pretty", "fields")
"""Names of mutants that every client must read as it reads the usual form."""
_ODD: tuple[Any, ...] = (
    None, [], {}, "", "x", "7", 7, 0, -7, 7.0, 1.5, True, 10**400, [None], [1], ["x"], {"a": 1}, [{}], [{"a": None}],
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """An answer, what was done to it, and the JSON objects that are in it now."""

    name: str
    script: Script
    said: list[Any]


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, by the keys and indices that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*above, key)
        yield from paths(child, (*above, key))


def changed(value: Any, rng: random.Random) -> tuple[str, Any]:
    """A copy of ``value`` with one place changed: left out, of another type, said twice, or with more beside it."""
    places = list(paths(value))
    if not places:
        return "nothing", value
    path = rng.choice(places)
    copied = copy.deepcopy(value)
    holder = copied
    for key in path[:-1]:
        holder = holder[key]
    where, last = ".".join(map(str, path)), path[-1]
    act = rng.choice(("drop", "odd", "odd", "odd", "more"))
    if act == "drop":
        del holder[last]
        return f"no {where}", copied
    if act == "more" and isinstance(holder[last], dict):
        holder[last]["a_new_field"] = rng.choice(_ODD)
        return f"more in {where}", copied
    if act == "more" and isinstance(holder[last], list) and holder[last]:
        holder[last].append(copy.deepcopy(holder[last][-1]))
        return f"{where} said twice", copied
    holder[last] = rng.choice(_ODD)
    return f"{where} = {holder[last]!r}", copied


# ---- how a stream's events lie on the wire ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One event of a stream: ``head`` is what stands before its JSON, ``tail`` what stands after."""

    head: bytes
    data: Any
    tail: bytes
    wrap: Callable[[bytes, Any, bytes], bytes]

    def bytes(self) -> bytes:
        return self.wrap(self.head, self.data, self.tail)


def _text(head: bytes, data: Any, tail: bytes) -> bytes:
    return head + (b"" if data is None else dumped(data)) + tail


def dumped(data: Any) -> bytes:
    """JSON in UTF-8; escaped where there is no UTF-8 for it (half of a surrogate pair)."""
    try:
        return json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(data).encode()


def read_sse(event: bytes) -> Event:
    """One server-sent event; one whose data is no JSON keeps it in its head."""
    head, separator, data = event.rstrip(b"\n").partition(b"data:")
    try:
        return Event(head + b"data: ", json.loads(data), b"\n\n", _text)
    except ValueError:
        return Event(head + separator + data, None, b"\n\n", _text)


def read_line(event: bytes) -> Event:
    """One line of newline-delimited JSON."""
    return Event(b"", json.loads(event), b"\n", _text)


def read_aws(event: bytes) -> Event:
    """One message of an AWS event stream."""
    length = struct.unpack("!I", event[4:8])[0]
    return Event(event[12 : 12 + length], json.loads(event[12 + length : -4]), b"", _aws)


def read_chunk(event: bytes) -> Event:
    """One message of InvokeModel's, whose payload holds a model maker's JSON."""
    message = read_aws(event)
    return replace(message, data=json.loads(base64.b64decode(message.data["bytes"])), wrap=_chunk)


def _chunk(head: bytes, data: Any, tail: bytes) -> bytes:
    return _aws(head, {"bytes": base64.b64encode(json.dumps(data).encode()).decode()}, tail)


def _aws(head: bytes, data: Any, tail: bytes) -> bytes:
    payload = dumped(data)
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    whole = prelude + head + payload
    return whole + struct.pack("!I", zlib.crc32(whole))


# ---- mutants ---------------------------------------------------------------------------------------------------------


def whole(script: Script, rng: random.Random) -> Mutant:
    """A whole answer with one place changed; sometimes compressed."""
    ((_, data),) = script.parts
    what, answer = changed(json.loads(data), rng)
    body = json.dumps(answer, ensure_ascii=False).encode()
    headers = dict(script.headers)
    if rng.random() < 0.2:
        what, body = f"{what}, gzip", gzip.compress(body)
        headers["content-encoding"] = "gzip"
    return Mutant(what, replace(script, headers=headers, parts=[(0.0, body)]), [answer])


def stream(script: Script, events: Sequence[Event], rng: random.Random) -> Mutant:
    """A stream with one event changed, missing, doubled, swapped or new, or its lines written in another way."""
    mutated = list(events)
    places = [place for place, event in enumerate(mutated) if event.data is not None]
    ends = places[:1] + places[-3:]  # where most of what an answer says of itself stands
    place = rng.choice(places if rng.random() < 0.4 else ends)
    act = rng.choice(("change", "change", "change", "change", "miss", "twice", "swap", "new", "wire"))
    event = mutated[place]
    what = f"{act} {place}"
    if act == "change":
        what, data = changed(event.data, rng)
        what = f"{place}: {what}"
        mutated[place] = replace(event, data=data)
    elif act == "miss":
        del mutated[place]
    elif act == "twice":
        mutated.insert(place, event)
    elif act == "swap" and place:
        mutated[place - 1], mutated[place] = mutated[place], mutated[place - 1]
    elif act == "new":
        mutated.insert(
            place, replace(event, data=rng.choice(({}, {"type": "a.new.event"}, {"choices": None, "id": None})))
        )
    documents = [one.data for one in mutated if one.data is not None]
    parts: list[Part] = [(0.0, one.bytes()) for one in mutated]
    headers = dict(script.headers)
    if act == "wire":
        what, parts, headers = _wire(mutated, headers, rng)
    return Mutant(what, replace(script, headers=headers, parts=parts), documents)


def _wire(
    events: Sequence[Event], headers: dict[str, str], rng: random.Random
) -> tuple[str, list[Part], dict[str, str]]:
    """The same events in other lines, pieces or codings."""
    data = b"".join(event.bytes() for event in events)
    lines = events[0].wrap is _text and b"data:" in data
    ways = ["at once", "in pieces", "gzip"] + (
        ["crlf", "cr", "comments", "pretty", "fields", "no end", "bom"] if lines else []
    )
    way = rng.choice(ways)
    if way == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif way == "cr":
        data = data.replace(b"\n", b"\r")
    elif way == "comments":
        data = b": ready\n\n" + data.replace(b"\n\n", b"\n\n: still here\n\n")
    elif way == "pretty":
        data = b"".join(_pretty(event) for event in events)
    elif way == "fields":
        data = b"retry: 100\nid: 7\n\n" + data.replace(b"\n\n", b"\nid: 8\nnobody: knows\n\n")
    elif way == "no end":
        data = data.rstrip(b"\n")
    elif way == "bom":
        data = b"\xef\xbb\xbf" + data
    elif way == "gzip":
        return way, [(0.0, gzip.compress(data))], headers | {"content-encoding": "gzip"}
    if way != "in pieces":
        return way, [(0.0, data)], headers
    cuts = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, 12)))
    return way, [(0.0, data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)], headers


def _pretty(event: Event) -> bytes:
    if event.data is None:
        return event.bytes()
    head = event.head.removesuffix(b"data: ")
    lines = json.dumps(event.data, ensure_ascii=False, indent=1).encode().split(b"\n")
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
