"""LiteLLM's proxy between a client and the provider: both are traced, the proxy as a child of this program.

With FRAMEWORK_SPANS the proxy's own ``otel`` callback is on, in the proxy's process, which is this file once more.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playing import KEY, MODEL, QUESTION, both, play

MASTER = "sk-" + secrets.token_hex(32)
CASES = ("whole", "streamed", "asked")


def serve():
    """Be the proxy."""
    if file := os.environ.get("FRAMEWORK_SPANS"):
        both(file)
    from litellm.proxy.proxy_cli import run_server

    run_server(args=sys.argv[2:])


def start():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = os.environ["FRAMEWORK_URL"]
    config = {
        "model_list": [
            {
                "model_name": case,
                "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/{case}/v1", "api_key": KEY},
            }
            for case in CASES
        ],
        "general_settings": {"master_key": MASTER},
        "litellm_settings": {"callbacks": ["otel"] if os.environ.get("FRAMEWORK_SPANS") else []},
    }
    file = Path(os.environ["HOME"]) / "config.yaml"
    file.write_text(json.dumps(config))
    command = [sys.executable, __file__, "serve", "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    # Its server ends the process by the signal that stops it.
    env = {**os.environ, "LLMTRACE_FLUSH_ON_SIGTERM": "true"}
    log = (file.parent / "proxy.log").open("w")
    proxy = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    until = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2)
        except OSError:
            if proxy.poll() is not None or time.monotonic() > until:
                sys.exit((file.parent / "proxy.log").read_text()[-3000:])
            time.sleep(0.5)
        else:
            return proxy, f"http://127.0.0.1:{port}/v1"


def main():
    proxy, address = start()
    import openai

    client = openai.OpenAI(base_url=address, api_key=MASTER, max_retries=0)

    def ask(url, **options):
        case = url.split("/")[-2]
        return client.chat.completions.create(model=case, messages=[{"role": "user", "content": QUESTION}], **options)

    def whole(url):
        return ask(url).choices[0].message.content

    def streamed(url):
        return [piece.choices[0].delta.content for piece in ask(url, stream=True)]

    def asked(url):
        pieces = ask(url, stream=True, stream_options={"include_usage": True})
        return [(piece.choices and piece.choices[0].delta.content, bool(piece.usage)) for piece in pieces]

    def own(provider):
        """It is the proxy's, in the proxy's process."""

    try:
        play({"whole": whole, "streamed": streamed, "asked": asked}, own)
    finally:
        proxy.terminate()
        proxy.wait(60)


if sys.argv[1:2] == ["serve"]:
    serve()
else:
    main()
