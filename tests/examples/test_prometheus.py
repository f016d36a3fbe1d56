"""The rules and every panel's query on a real Prometheus that scrapes the metrics of real calls.

Needs ``prometheus`` on the path (Debian's package of that name has it); without it these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client import start_http_server

from llmtrace.emit import names
from tests.examples.served import Served, serve
from tests.examples.traffic import GRAFANA, Traffic, generator

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus on the path (Debian: prometheus)")
GENERATED = generator()
PATIENCE = 300
PAGE = GRAFANA.parents[1] / "docs" / "read-grafana.md"


class Prometheus:
    """A Prometheus process with the example's configuration, scraping and evaluating every second."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        """`targets`: the address of each job."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        settings = yaml.safe_load((GRAFANA / "prometheus.yaml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings["rule_files"] = [self._quick(folder, Path(rules).name) for rules in settings["rule_files"]]
        for job in settings["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(settings))
        assert PROMETHEUS is not None
        command = [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=self._log)

    def _quick(self, folder: Path, name: str) -> str:
        rules = yaml.safe_load((GRAFANA / name).read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
        (folder / name).write_text(yaml.safe_dump(rules))
        return str(folder / name)

    def get(self, path: str, **query: str) -> Any:
        """What its API answers; waits while it starts. Raises ``AssertionError`` with what it says of a bad query."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urlencode(query)}", timeout=PATIENCE) as got:
                    return json.load(got)["data"]
            except urllib.error.HTTPError as refused:
                if refused.code != 503:  # it is not ready yet
                    raise AssertionError(query, refused.read().decode()) from refused
            except OSError:
                self._log.seek(0)
                assert self._process.poll() is None, self._log.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def values(self, query: str) -> dict[str, float]:
        """A query's present result by its labels."""
        answer = self.get("query", query=query)
        if answer["resultType"] == "scalar":
            return {"": float(answer["result"][1])}
        return {json.dumps(each["metric"], sort_keys=True): float(each["value"][1]) for each in answer["result"]}

    def wait(self, query: str) -> None:
        """Until a query has a result that is not 0."""
        deadline = time.monotonic() + PATIENCE
        while not any(self.values(query).values()):
            assert time.monotonic() < deadline, query
            time.sleep(0.5)

    def rules(self) -> list[Any]:
        """All rules, once each has been evaluated."""
        deadline = time.monotonic() + PATIENCE
        while True:
            rules = [rule for group in self.get("rules")["groups"] for rule in group["rules"]]
            if all(rule["health"] != "unknown" for rule in rules):
                return rules
            assert time.monotonic() < deadline
            time.sleep(0.5)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._log.close()


@pytest.fixture
def prometheus(traffic: Traffic, tmp_path: Path) -> Iterator[Prometheus]:
    """It has scraped the same calls twice over, under both conventions, so that rates are what they are."""
    server, thread = start_http_server(0, "127.0.0.1", traffic.registry)
    served = Served(tmp_path)
    reference = serve(served)
    addresses = {"collector": server.server_port, "reference": reference.server_port}
    running = Prometheus(tmp_path, {job: f"127.0.0.1:{port}" for job, port in addresses.items()})
    try:
        served.play()
        for semconv in names.SEMCONVS:
            traffic.play(semconv)
        running.wait("sum(traces_span_metrics_calls_total)")
        running.wait('sum(llmtrace:step_seconds_total{kind="swap"})')
        served.play()
        for semconv in names.SEMCONVS:
            traffic.play(semconv)
        running.wait("sum(increase(traces_span_metrics_calls_total[5m]))")
        running.wait("sum(increase(gen_ai_client_token_usage_count[5m]))")
        running.wait("sum(increase(llmtrace:num_preemptions_total[5m]))")
        yield running
    finally:
        running.end()
        reference.shutdown()
        reference.server_close()
        served.end()
        server.shutdown()
        server.server_close()
        thread.join()


def as_grafana_asks(query: str, names_chosen: str) -> str:
    choices = {"$__rate_interval": "5m", "$service": ".*", "$model": ".*", "$instance": ".*", "${names}": names_chosen}
    for variable, value in choices.items():
        query = query.replace(variable, value)
    return query


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL query of the dashboards, under either choice of names, and those of the page."""
    for page in GENERATED.PAGES.values():
        for panel in page["panels"]:
            for target in panel.get("targets", []):
                for option in GENERATED.names_variable()["options"] if "expr" in target else ():
                    title = f"{panel['title']}, {target['legendFormat']}, {option['text']}"
                    yield title, as_grafana_asks(target["expr"], option["value"])
    for query in re.findall(r"\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8")):
        if "rate(" in query and "{ " not in query:
            yield "on the page", query


def test_rules_and_panels(prometheus: Prometheus) -> None:
    """No rule fails, and no panel is empty: each draws at least one number."""
    recorded = [rule["record"] for rule in GENERATED.RECORDING]
    for rule in recorded:
        prometheus.wait(f"count({rule})")
    asked = list(queries())
    empty = [(title, query) for title, query in asked if not any(map(math.isfinite, prometheus.values(query).values()))]
    assert empty == []
    assert len(asked) > 50
    rules = prometheus.rules()
    assert {rule["name"] for rule in rules} == {*recorded, *(rule["alert"] for rule in GENERATED.ALERTS)}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    some = prometheus.values("sum by (gen_ai_request_model) (job_model:llmtrace_call_failed:ratio_rate5m)")
    assert all(0 < share < 1 for share in some.values()), "one call of each round fails"


def test_a_misspelt_query_is_empty_or_refused(prometheus: Prometheus) -> None:
    """The check above can fail."""
    assert prometheus.values("sum(rate(llmtrace_phase_duration_sum[5m]))") == {}
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.values("sum(rate(llmtrace_phase_duration_seconds_sum[5m])")
