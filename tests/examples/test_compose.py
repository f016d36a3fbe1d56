"""The compose files and what they mount: parsed, and each name that one file uses of another is there.

No container is started here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from llmtrace.emit import names
from tests.examples.collector_schema import COLLECTOR

EXAMPLES = Path(__file__).parents[2] / "examples"
GRAFANA = EXAMPLES / "grafana"
COMPOSE = [EXAMPLES / "jaeger" / "compose.yaml", GRAFANA / "compose.yaml"]
NAMES = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def collector() -> Any:
    return load(GRAFANA / "collector.yaml")


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_compose(path: Path) -> None:
    """Images are pinned, mounted files exist, ports are this machine's and taken once."""
    compose = load(path)
    ports: list[str] = []
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (path.parent / source).exists() if source.startswith(".") else source in compose["volumes"], volume
        for port in service.get("ports", []):
            host, outside, _ = port.split(":")
            assert host == "127.0.0.1"
            ports.append(outside)
        assert set(service.get("depends_on", [])) <= set(compose["services"])
    assert len(ports) == len(set(ports))
    assert "4318" in ports, "where the docs send spans"


def test_files_named_inside_containers_are_mounted() -> None:
    compose = load(GRAFANA / "compose.yaml")
    for name, flag in (("collector", "--config="), ("tempo", "-config.file="), ("prometheus", "--config.file=")):
        service = compose["services"][name]
        inside = {volume.split(":")[1] for volume in service["volumes"]}
        (config,) = [word.removeprefix(flag) for word in service["command"] if word.startswith(flag)]
        assert config in inside
        if name == "prometheus":
            assert set(load(GRAFANA / "prometheus.yaml")["rule_files"]) <= inside
    pages = load(GRAFANA / "provisioning" / "dashboards" / "dashboards.yaml")
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in compose["services"]["grafana"]["volumes"]}
    (provider,) = pages["providers"]
    assert list((GRAFANA / mounted[provider["options"]["path"]]).glob("*.json"))
    home = Path(compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / mounted[str(home.parent)] / home.name).exists()


def test_hosts_and_ports_agree(collector: Any) -> None:
    """Who asks whom: services by their names, on ports that the other side listens on."""
    services = load(GRAFANA / "compose.yaml")["services"]
    tempo = load(GRAFANA / "tempo.yaml")
    prometheus = load(GRAFANA / "prometheus.yaml")
    listens = {
        "tempo": {
            str(tempo["server"]["http_listen_port"]),
            *(p["endpoint"].rsplit(":")[-1] for p in tempo["distributor"]["receivers"]["otlp"]["protocols"].values()),
        },
        "collector": {collector["exporters"]["prometheus"]["endpoint"].rsplit(":")[-1]},
        "prometheus": {"9090"},
    }
    sources = load(GRAFANA / "provisioning" / "datasources" / "datasources.yaml")["datasources"]
    asked = [source["url"].removeprefix("http://") for source in sources]
    asked += [target for job in prometheus["scrape_configs"] for s in job["static_configs"] for target in s["targets"]]
    asked.remove("host.docker.internal:8101")  # `llmtrace serve` on the machine itself
    assert services["prometheus"]["extra_hosts"] == ["host.docker.internal:host-gateway"]
    asked.append(collector["exporters"]["otlp/tempo"]["endpoint"])
    for address in asked:
        host, port = address.split(":")
        assert host in services, address
        assert port in listens[host], address
    published = {port.rsplit(":")[-1] for port in services["collector"]["ports"]}
    assert {p["endpoint"].rsplit(":")[-1] for p in collector["receivers"]["otlp"]["protocols"].values()} == published


def test_data_sources_of_the_dashboards_exist() -> None:
    sources = load(GRAFANA / "provisioning" / "datasources" / "datasources.yaml")["datasources"]
    known = {(source["uid"], source["type"]) for source in sources}
    used: set[tuple[str, str]] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "datasource" in node:
                used.add((node["datasource"]["uid"], node["datasource"]["type"]))
            if "datasourceUid" in node:
                assert node["datasourceUid"] in {uid for uid, _ in known}
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                walk(each)

    for path in (GRAFANA / "dashboards").glob("*.json"):
        walk(json.loads(path.read_text()))
    walk(sources)
    assert used == known


def test_the_collector_takes_it(collector: Any) -> None:
    """Only settings that its documentation names, and pipelines of components that are defined and used."""
    jsonschema.validate(collector, COLLECTOR)
    pipelines = collector["service"]["pipelines"]
    connectors = set(collector["connectors"])
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in pipelines.values():
        for kind, used_names in used.items():
            used_names.update(pipeline.get(kind, []))
    assert used["processors"] == set(collector["processors"])
    assert used["receivers"] - connectors == set(collector["receivers"])
    assert used["exporters"] - connectors == set(collector["exporters"])
    assert connectors <= used["receivers"], "a connector ends one pipeline and begins another"
    assert connectors <= used["exporters"]
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter"
    assert "tail_sampling" not in pipelines["traces/metrics"]["processors"], "rates are those of all calls"


@pytest.mark.parametrize(
    ("where", "change"),
    [
        (("processors", "tail_sampling", "policies", 0), {"name": "x", "type": "latency", "latency": {"threshold": 1}}),
        (("processors", "tail_sampling", "decision_wait"), "60"),
        (("connectors", "spanmetrics", "dimension"), []),
        (("exporters", "prometheus", "endpoint"), "nowhere"),
    ],
)
def test_the_schema_refuses(where: tuple[Any, ...], change: Any) -> None:
    config = load(GRAFANA / "collector.yaml")
    node = config
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, COLLECTOR)


def test_names_are_ours(collector: Any) -> None:
    """Attributes that sampling and span metrics look at are attributes that llmtrace writes."""
    text = (GRAFANA / "collector.yaml").read_text()
    asked = set(re.findall(r'attributes\["([\w.]+)"\]', text))
    asked |= {dimension["name"] for dimension in collector["connectors"]["spanmetrics"]["dimensions"]}
    for policy in collector["processors"]["tail_sampling"]["policies"]:
        asked |= {policy["string_attribute"]["key"]} if "string_attribute" in policy else set()
    assert asked <= NAMES, asked - NAMES
    assert 'instrumentation_scope.name != "llmtrace"' in text


def test_buckets_are_the_sdks(collector: Any) -> None:
    """Both kinds of duration can be drawn on one scale."""
    told = collector["connectors"]["spanmetrics"]["histogram"]["explicit"]["buckets"]
    assert [int(each.removesuffix("ms")) / 1e3 for each in told] == list(names.SECONDS_BUCKETS)
