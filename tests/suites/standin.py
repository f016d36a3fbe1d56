"""``python standin.py PACKAGE``: a stand-in for the API of a client that Stainless made, out of the client's code.

Such a client's suite runs against a server made from an OpenAPI description that is not in the source distribution. But
each of the client's methods says which path it asks and which type it expects back. This server reads that out of the
methods (their syntax trees, no call is made) and answers each path with a small value of its type. A path that no
method names gets an empty object.

Runs in the suite's own environment, where the client is installed; needs nothing else. Prints its port.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import inspect
import json
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_VERBS = {"_get", "_post", "_put", "_patch", "_delete", "_get_api_list"}
_UNTOLD = dict[str, str]
"""The type of an answer that depends on the request: a transcription's, of which all have a text."""
_DEEP = 12
"""No value is nested deeper: types may hold themselves."""


class Route(NamedTuple):
    """What one method asks for and gets."""

    verb: str
    path: re.Pattern[str]
    holes: int
    """Parts of the path that are parameters; the more exact path goes first."""
    query: str
    """What the method itself puts there (``beta=true``)."""
    type: Any


def routes(package: str) -> list[Route]:
    """Every method's path and type, the most exact first."""
    resources = importlib.import_module(f"{package}.resources")
    found: list[Route] = []
    for known in pkgutil.walk_packages(resources.__path__, f"{resources.__name__}."):
        module = importlib.import_module(known.name)
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _VERBS:
                route = _route(node, vars(module))
                if route is not None:
                    found.append(route)
    return sorted(found, key=lambda route: (route.holes, not route.query))


def _route(call: ast.Call, names: Mapping[str, Any]) -> Route | None:
    assert isinstance(call.func, ast.Attribute)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    path = _template(call.args[0]) if call.args else None
    wanted = given.get("page", given.get("cast_to"))
    if path is None or wanted is None:
        return None
    if isinstance(wanted, ast.Call) and ast.unparse(wanted.func) == "cast":
        wanted = wanted.args[-1]
    try:
        kind = eval(ast.unparse(wanted), dict(names))
    except Exception:
        kind = _UNTOLD
    verb = call.func.attr.lstrip("_").partition("_")[0].upper()
    if "method" in given:
        verb = ast.literal_eval(given["method"]).upper()
    path, _, query = path.partition("?")
    parts = re.split(r"\{[^}]*\}", path)
    pattern = "[^/]+".join(re.escape(part) for part in parts)
    return Route(verb, re.compile(pattern.rstrip("/") + "/?"), len(parts) - 1, query, kind)


def _template(path: ast.expr) -> str | None:
    """``/files/{}/content`` of a string, an f-string or a call with a template."""
    if isinstance(path, ast.Call) and path.args:
        return _template(path.args[0])
    if isinstance(path, ast.Constant) and isinstance(path.value, str):
        return path.value
    if isinstance(path, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in path.values)
    return None


# --- a value of a type ------------------------------------------------------------------------------------------------

_PLAIN: dict[Any, Any] = {
    str: "string",
    int: 1,
    float: 1.5,
    bool: True,
    bytes: "c3RyaW5n",
    object: {},
    Any: {},
    type(None): None,
    None: None,
    datetime.datetime: "2020-01-02T03:04:05Z",
    datetime.date: "2020-01-02",
}


def value(kind: Any, depth: int = 0) -> Any:
    """A small JSON value of ``kind``: every field set, one item in a list."""
    kind = getattr(kind, "__value__", kind)  # a named alias
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return value(arguments[0], depth)
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        variants = [each for each in arguments if each is not type(None)]
        if depth > _DEEP and len(variants) < len(arguments):
            return None
        return value(variants[0], depth)
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return {}
        if issubclass(origin, typing.Collection):  # list, Sequence
            return [] if depth > _DEEP or not arguments else [value(arguments[0], depth + 1)]
    if isinstance(kind, type) and hasattr(kind, "model_fields"):
        return dict(_fields(kind, depth))
    return {}


def _fields(model: Any, depth: int) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if depth > _DEEP and not field.is_required():
            continue
        yield field.alias or name, value(field.annotation, depth + 1)


def body(kind: Any) -> tuple[str, bytes]:
    """Content type and body of an answer of ``kind``."""
    name = getattr(kind, "__name__", "")
    if kind is str:
        return "text/plain", b"string"
    if "Binary" in name or kind is bytes:
        return "application/octet-stream", b"string"
    if kind is _UNTOLD:
        return "application/json", b'{"text": "string"}'
    if "JSONL" in (getattr(typing.get_origin(kind), "__name__", "") or name):
        return "application/x-jsonl", json.dumps(value(typing.get_args(kind)[0])).encode() + b"\n"
    return "application/json", json.dumps(value(kind)).encode()


# --- the server -------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers by ``routes``."""

    protocol_version = "HTTP/1.1"
    routes: list[Route] = []

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        asked = self._read()
        route = next((r for r in self.routes if self._is(r, path, query)), None)
        content_type, content = body(object if route is None else route.type)
        if b'"stream": true' in asked or b'"stream":true' in asked:
            content_type, content = "text/event-stream", b"data: [DONE]\n\n"
        empty = route is not None and route.type in (None, type(None))
        self.send_response(204 if empty else 200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", "0" if empty else str(len(content)))
        self.end_headers()
        self.wfile.write(b"" if empty else content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _is(self, route: Route, path: str, query: str) -> bool:
        return self.command == route.verb and route.path.fullmatch(path) is not None and route.query in query

    def _read(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            pieces: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: there are thousands."""


class Server(ThreadingHTTPServer):
    """Threads that end with it; a client that hangs up, as tests do, is not worth a word."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    Handler.routes = routes(sys.argv[1])
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
