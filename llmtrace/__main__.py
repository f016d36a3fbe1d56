"""`python -m llmtrace`: the command line, where its script is not on the path."""

from llmtrace.cli import main

main()
