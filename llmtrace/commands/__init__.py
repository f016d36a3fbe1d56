"""The commands of ``llmtrace``, one module each with an ``add(app)``; ``COMMANDS`` is their order in the help."""

COMMANDS = ("run", "serve", "demo", "show", "view", "report", "reconcile", "breakeven", "bench", "probe", "doctor")
