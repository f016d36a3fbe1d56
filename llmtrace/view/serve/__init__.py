"""`llmtrace view`: a receiver of OTLP/HTTP, a store that keeps what it acknowledged, and a page over both.

``receive`` reads bodies, ``writer`` is the one thread that writes, ``store`` is DuckDB, ``derive`` makes calls of spans
as the reports do, ``queries`` and ``traces`` answer the page, ``files`` reads files, ``app`` ties them to addresses,
``run`` starts it all.
"""
