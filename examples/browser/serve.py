"""The page of this example, what it needs, and a server's API under one origin.

make web                                       # once: transformers.js and a tiny model for it
llmtrace view --allow-origin http://127.0.0.1:8080
OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4319 llmtrace serve
python examples/browser/serve.py               # then open http://127.0.0.1:8080/
"""

from __future__ import annotations

import argparse
import http.client
import http.server
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Site(http.server.ThreadingHTTPServer):
    """A server of the page, here. ``server_url``: the model's; ``installed``: where ``make web`` put things."""

    def __init__(self, port: int, server_url: str, installed: Path) -> None:
        self.server_url = server_url
        self.places = {"web": ROOT, "node_modules": installed, "models": installed}
        super().__init__(("127.0.0.1", port), Page)


class Page(http.server.SimpleHTTPRequestHandler):
    """Files, and ``/v1/`` passed on to the model's server with the page's ``traceparent``."""

    server: Site

    def translate_path(self, path: str) -> str:
        parts = [part for part in path.split("?", maxsplit=1)[0].split("/") if part not in ("", ".", "..")]
        place = self.server.places.get(parts[0]) if parts else None
        return str((place or HERE).joinpath(*parts or ["index.html"]))

    def do_POST(self) -> None:
        if not self.path.startswith("/v1/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        passed = {name: self.headers[name] for name in ("Content-Type", "traceparent") if name in self.headers}
        upstream = http.client.HTTPConnection(urlsplit(self.server.server_url).netloc)
        try:
            upstream.request("POST", self.path, body, passed)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.end_headers()
            while part := answer.read1(65536):  # as it comes
                self.wfile.write(part)
        except OSError as error:
            self.send_error(502, f"{self.server.server_url}: {error}")
        finally:
            upstream.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--server", default="http://127.0.0.1:8101", help="the model's server, of OpenAI's API")
    parser.add_argument("--installed", type=Path, default=ROOT / ".venvs" / "web", help="where make web installed")
    given = parser.parse_args()
    print(f"open http://127.0.0.1:{given.port}/  (Ctrl-C ends it)")
    Site(given.port, given.server, given.installed).serve_forever()
