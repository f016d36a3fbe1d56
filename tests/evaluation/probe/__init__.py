"""What ``llmtrace probe`` finds out about engines whose settings are known."""
