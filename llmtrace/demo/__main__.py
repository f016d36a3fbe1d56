"""``python -m llmtrace.demo OUT``: the demo without the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from llmtrace.demo import run

if __name__ == "__main__":
    run(Path(sys.argv[1] if len(sys.argv) > 1 else "llmtrace-demo"))
