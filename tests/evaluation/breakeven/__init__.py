"""Whether the queueing model behind ``llmtrace breakeven`` says what the reference server does."""
