"""What tracing costs: ``make bench`` measures llmtrace and its peers against the bare openai client."""
