"""The alert rules on Prometheus's own test bench: a calm day raises nothing, each trouble raises its own alert."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

GRAFANA = Path(__file__).parents[2] / "examples" / "grafana"
PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which comes with Prometheus (Debian: prometheus)")
def test_rules_fire_when_they_should() -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", str(GRAFANA / "alerts.test.yaml")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_trouble() -> None:
    """And a moment before it at which it must be silent."""
    rules = {rule["alert"] for rule in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"][0]["rules"]}
    tests = yaml.safe_load((GRAFANA / "alerts.test.yaml").read_text())["tests"]
    asked = [(each["alertname"], bool(each.get("exp_alerts"))) for test in tests for each in test["alert_rule_test"]]
    assert {name for name, fires in asked if fires} == rules
    assert {name for name, fires in asked if not fires} == rules
