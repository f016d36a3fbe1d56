"""The ``llm`` command."""

import os
import subprocess
from pathlib import Path

from playing import KEY, MODEL, QUESTION, play

HOME = Path(os.environ["HOME"]) / "llm"


def ask(url, *options):
    HOME.mkdir(exist_ok=True)
    model = f"- model_id: {MODEL}-here\n  model_name: {MODEL}\n  api_base: {url}\n  supports_tools: true\n"
    (HOME / "extra-openai-models.yaml").write_text(model)
    env = {**os.environ, "LLM_USER_PATH": str(HOME), "OPENAI_API_KEY": KEY}
    command = ["llm", "prompt", QUESTION, "-m", f"{MODEL}-here", "--no-log", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout, done.stderr


def whole(url):
    return ask(url, "--no-stream")


def streamed(url):
    return ask(url)


def tools(url):
    function = 'def weather(city: str) -> str:\n    """Tell the weather."""\n    return f"Sun in {city}."\n'
    return ask(url, "--functions", function, "--no-stream")


play({"whole": whole, "streamed": streamed, "tools": tools})
