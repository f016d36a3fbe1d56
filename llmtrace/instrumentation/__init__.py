"""Hooks into client libraries, and nothing else: what becomes of a call is in ``llmtrace.calls``."""
