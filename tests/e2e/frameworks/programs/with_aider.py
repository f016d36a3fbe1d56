"""Aider, which edits a file; it calls by LiteLLM."""

import os
import subprocess
from pathlib import Path

from playing import KEY, MODEL, play


def edit(url, name, *options):
    folder = Path(os.environ["HOME"]) / name
    folder.mkdir(exist_ok=True)
    file = folder / "hello.py"
    file.write_text("print('Bye')\n")
    (folder / "aider.yml").write_text(f"model: openai/{MODEL}\nopenai-api-base: {url}\nopenai-api-key: {KEY}\n")
    quiet = ["--no-git", "--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-pretty"]
    quiet += ["--no-show-release-notes", "--no-detect-urls", "--map-tokens", "0", "--yes-always", "--no-gitignore"]
    command = ["aider", "--config", "aider.yml", *quiet, "--edit-format", "whole", *options]
    command += ["--message", "Say hello instead.", "hello.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout, done.stderr, file.read_text()


def whole(url):
    return edit(url, "whole", "--no-stream")


def streamed(url):
    return edit(url, "streamed")


play({"whole": whole, "streamed": streamed})
