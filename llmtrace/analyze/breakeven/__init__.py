"""`llmtrace breakeven`: recorded calls replayed on a machine that `llmtrace bench` has measured."""
