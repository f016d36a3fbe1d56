"""Where things lie in this checkout. Standard library only: workers with nothing installed read it too."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "llmtrace"
