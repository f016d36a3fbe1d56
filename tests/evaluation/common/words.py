"""Words that prompts are made of."""

from __future__ import annotations

_TEXT = """queue forms where requests arrive faster than slots come free the prompt is read once in parallel before
first word every later costs one more step through all layers prefix seen need not be again measure then say which part
was slow"""
WORDS = _TEXT.split()
