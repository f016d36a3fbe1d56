"""Joins what others say was billed with recorded traces: `llmtrace reconcile`."""
