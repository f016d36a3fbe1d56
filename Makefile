# Every target makes what it needs: a virtual environment in .venv, with torch pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: diagnose-eval demo test check bench matrix accuracy e2e spark clickhouse clean help

help:
	@echo "make demo    run the demo: a real model, a real client, every phase shown"
	@echo "make test    run the tests"
	@echo "make check   lint, types and the import rules"
	@echo "make bench   what tracing costs, row by row (docs/benchmarks.md); ARGS=\"concurrency\" for one of them"
	@echo "make matrix  every client in its oldest and newest version, in environments of their own"
	@echo "make suites  the clients' own test suites, bare and with llmtrace on (docs/suites.md)"
	@echo "make trees   the span trees of docs/providers, made anew"
	@echo "make samples  the samples of output in README and docs, made anew"
	@echo "make gpu     every check that needs a GPU, in one table; on a CPU a tiny rehearsal"
	@echo "make load    64 streams on the reference server for two minutes"
	@echo "make accuracy  how right the phases are, against engines that know (docs/accuracy.md)"
	@echo "make diagnose-eval  how right the diagnosis is, into docs/diagnosis.md"
	@echo "make probe-eval  what llmtrace probe finds of engines whose settings are known, into docs/probe.md"
	@echo "make breakeven-eval  the queueing model of llmtrace breakeven against the reference server, into docs/breakeven/measured.md"
	@echo "make figures  the notes under the figures in docs: on which commit, and whether the code has changed since"
	@echo "make sdist   build the source distribution, unpack it and collect its tests"
	@echo "make e2e     other people's engines and a trace viewer: heavy installs (docs/engines.md)"
	@echo "make frameworks  agent frameworks, bare and traced: heavy installs (docs/frameworks.md)"
	@echo "make ends    how the last spans of a process fare, by how it ends (docs/process-ends.md)"
	@echo "make browser the page of llmtrace view in a real Chromium: every page and state (docs/view.md)"
	@echo "make web     llmtrace-web in a real Chromium, with transformers.js and a model of its own (docs/browser.md): heavy installs"
	@echo "make pictures  the pictures of the demo and of the viewer in README and docs, taken anew: needs Chromium"
	@echo "make spark   the reports on PySpark against DuckDB: needs Java, a large package"
	@echo "make clickhouse  the reports over the Collector's table on real ClickHouse against DuckDB: a large package"
	@echo "make clean   remove the virtual environments"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip uninstall -qq --yes llmtrace  # what this one was called, or somebody else's
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/llmtrace demo $(ARGS)

test: $(STAMP)
	# A file at a time for each worker, the longest first, each test once. ARGS="-n 0" runs all in one process.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m tests.evaluation.common.freshness --check

bench: $(STAMP)
	$(BIN)/python -m tests.evaluation.overhead $(ARGS)

matrix: $(STAMP)
	$(BIN)/python -m pip install --quiet "nox[uv]"
	$(BIN)/python -m nox $(ARGS)

.PHONY: suites
suites: $(STAMP)  # the clients' own test suites; ARGS="openai anthropic" for some of them
	$(BIN)/python -m tests.suites $(ARGS)

.PHONY: trees
trees: $(STAMP)  # the span trees of docs/providers, by real clients and a local server
	$(BIN)/python -m tests.support.trees $(ARGS)

.PHONY: samples
samples: $(STAMP)  # what the commands print, as README and docs show it; ARGS="--help" for those with that in them
	$(BIN)/python -m tests.support.samples $(ARGS)

.PHONY: gpu
gpu: $(STAMP)
	$(BIN)/python -m tests.evaluation.gpu $(ARGS)

accuracy: $(STAMP)
	$(BIN)/python -m tests.evaluation.phases $(ARGS)

.PHONY: load
load: $(STAMP)  # 64 streams on the reference server for two minutes, both sides' accounts compared
	$(BIN)/python -m tests.reference.load $(ARGS)

diagnose-eval: $(STAMP)
	$(BIN)/python -m tests.evaluation.diagnosis $(ARGS)

.PHONY: probe-eval
probe-eval: $(STAMP)  # an engine that is not there (tests/e2e/setup.sh vllm llama) is left out; ARGS="--engine reference"
	$(BIN)/python -m tests.evaluation.probe $(ARGS)

.PHONY: figures
figures: $(STAMP)  # ARGS="--measured docs/view.md": its figures, copied by hand, were taken just now
	$(BIN)/python -m tests.evaluation.common.freshness $(ARGS)

.PHONY: sdist
sdist: $(STAMP)
	$(BIN)/python -m pip install --quiet build
	rm -rf dist/sdist && mkdir -p dist/sdist
	$(BIN)/python -m build --sdist --outdir dist/sdist
	tar -xzf dist/sdist/*.tar.gz -C dist/sdist --strip-components=1
	cd dist/sdist && PYTHONPATH=. $(CURDIR)/$(BIN)/python -m pytest --collect-only -q >collected.txt || (tail collected.txt; false)

e2e: $(STAMP)
	tests/e2e/setup.sh
	LLMTRACE_E2E=1 $(BIN)/python -m pytest tests/e2e $(ARGS)

.PHONY: frameworks
frameworks: $(STAMP)  # LangChain, DSPy, CrewAI ...: each in an environment of its own; ARGS="dspy aider" for some of them
	$(BIN)/python -m tests.e2e.frameworks $(ARGS)

.PHONY: ends
ends: $(STAMP)  # installs Celery, gunicorn and uvicorn into .venvs/ends; ARGS="python3.10 python3.13" takes these too
	$(BIN)/python -m tests.evaluation.ends $(ARGS)

BROWSER := .venvs/browser/.installed

$(BROWSER): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[browser]"
	@mkdir -p .venvs/browser
	-npm install --silent --no-audit --no-fund --prefix .venvs/browser axe-core@4
	@touch $@

.PHONY: browser
browser: $(BROWSER)  # needs a Chromium on the PATH, or LLMTRACE_CHROMIUM=/path/to/it
	# Each in a process of its own: a browser's driver keeps its event loop, and lets no other begin beside it.
	LLMTRACE_BROWSER=1 $(BIN)/python -m pytest tests/view/browser $(ARGS)
	LLMTRACE_BROWSER=1 $(BIN)/python -m pytest tests/web $(ARGS)

WEB := .venvs/web/.installed

$(WEB): $(BROWSER) tests/web/export.py
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix .venvs/web @huggingface/transformers@4
	$(BIN)/python -m pip install --quiet --no-deps --target .venvs/web/python onnx ml_dtypes
	PYTHONPATH=.venvs/web/python $(BIN)/python -m tests.web.export .venvs/web/models
	@touch $@

.PHONY: web
web: $(WEB)  # needs npm and a Chromium
	LLMTRACE_BROWSER=1 $(BIN)/python -m pytest tests/web $(ARGS)

.PHONY: breakeven-eval
breakeven-eval: $(STAMP)  # ARGS="--device cpu" on this processor instead of a device of a set speed
	$(BIN)/python -m tests.evaluation.breakeven $(ARGS)

.PHONY: pictures
pictures: $(BROWSER)  # of a demo's pages, for README and docs; ARGS=FOLDER takes one that was run already
	$(BIN)/python docs/images/take.py $(ARGS)
	$(BIN)/python -m tests.view.browser.screenshots $(ARGS)

spark: $(STAMP)
	test -x .venvs/spark/bin/python || $(PYTHON) -m venv .venvs/spark
	.venvs/spark/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[analyze]" "ibis-framework[pyspark]"
	.venvs/spark/bin/python -m tests.analyze.spark

clickhouse: $(STAMP)
	test -x .venvs/clickhouse/bin/python || $(PYTHON) -m venv .venvs/clickhouse
	.venvs/clickhouse/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[analyze]" "ibis-framework[clickhouse]" "clickhouse-connect[chdb]>=1.12"
	.venvs/clickhouse/bin/python -m tests.analyze.clickhouse

clean:
	rm -rf $(VENV) .venvs
