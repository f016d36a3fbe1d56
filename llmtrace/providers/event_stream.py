"""The events of a stream of server-sent events, for those who see its bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def events_in(body: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON events of an event stream, each with the offset at which it ends; what does not parse is passed over."""
    offset = 0
    begun = b""  # of an event whose data is in several lines
    for line in body.splitlines(keepends=True):
        offset += len(line)
        if not line.startswith(b"data:"):
            begun = begun if line.strip() else b""
            continue
        try:
            event = json.loads(begun + line[5:])
        except ValueError:
            begun += line[5:]
            continue
        begun = b""
        if isinstance(event, dict):
            yield offset, event
