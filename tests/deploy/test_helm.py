"""The chart: it renders what Kubernetes takes, whatever its values are, and refuses wrong ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from headrace.version import __version__

from .tools import (
    DEPLOY,
    check_config,
    check_fits,
    check_resources,
    check_secret,
    probes,
    read,
    told,
)

CHART = DEPLOY / "helm" / "headrace"
EVERYTHING = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "images"}],
    "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "gw"}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "tls": [{"hosts": ["gateway.example.com"], "secretName": "tls"}],
    },
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "priorityClassName": "high",
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
}
NOTHING = {
    "existingSecret": "",
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "serviceAccount": {"create": False},
}


@pytest.fixture(scope="module")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as chart:
        yield chart


def rendered(chart: helm.Chart, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every resource of a release called `gw`, by kind and name."""
    files = chart.render(values, name="gw", namespace="ai")
    files.pop("headrace/templates/NOTES.txt")
    return check_resources("\n---\n".join(files.values()))


def config(resources: dict[str, dict[str, Any]]) -> str:
    """The gateway.yaml among them."""
    return str(resources["ConfigMap/gw-headrace"]["data"]["gateway.yaml"])


def checksum(resources: dict[str, dict[str, Any]]) -> str:
    """What makes pods anew."""
    template = resources["Deployment/gw-headrace"]["spec"]["template"]
    return str(template["metadata"]["annotations"]["checksum/config"])


@pytest.mark.parametrize("values", [{}, EVERYTHING, NOTHING], ids=["default", "all", "little"])
def test_the_chart_renders_what_kubernetes_takes(chart: helm.Chart, values: dict[str, Any]) -> None:
    report = helm.lint(CHART, values, strict=True)
    resources = rendered(chart, values)

    assert report["errors"] == []
    check_fits(resources, config(resources))


def test_its_values_are_all_described(chart: helm.Chart) -> None:
    schema, values = chart.schema, chart.values

    assert schema
    assert _undescribed(values, schema, schema) == []
    assert chart.metadata["appVersion"] == __version__


def _undescribed(values: Any, schema: Any, top: Any, at: str = "") -> list[str]:
    if reference := schema.get("$ref"):
        schema = top["$defs"][reference.rpartition("/")[2]]
    if not isinstance(values, dict) or "properties" not in schema:
        return []
    found = []
    for name, value in values.items():
        if name not in schema["properties"]:
            found.append(f"{at}{name}")
        else:
            found += _undescribed(value, schema["properties"][name], top, f"{at}{name}.")
    return found


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 3}, "replicas"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"drain": "30"}, "drain"),
        ({"service": {"port": 0}}, "port"),
        ({"podLabels": {"a": 1}}, "podLabels"),
        ({"config": {"server": {"internal": "127.0.0.1:9090"}}}, "internal"),
        ({"config": {"server": {"port": 8443}}}, "port"),
    ],
)
def test_values_that_are_wrong_are_refused(
    chart: helm.Chart, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(helm.HelmValuesError, match=named):
        chart.validate_schema(values)


def test_its_configuration_is_good_and_asks_for_a_key(chart: helm.Chart, tmp_path: Path) -> None:
    check_config(config(rendered(chart, {})), tmp_path)


def test_a_configuration_of_ones_own_stands_alone_and_keeps_what_the_chart_needs(
    chart: helm.Chart,
) -> None:
    mine = {"server": {"drain": "5s"}, "upstreams": {"a": "mock"}, "routes": {"*": "a"}}

    written = yaml.safe_load(config(rendered(chart, {"config": mine})))

    assert written["upstreams"] == {"a": "mock"}
    assert written["server"] == {
        "name": "gw-headrace",
        "internal": "0.0.0.0:9090",
        "shutdown_delay": "10s",
        "drain": "5s",
    }


def test_pods_may_speak_https_and_are_still_probed_by_http(chart: helm.Chart) -> None:
    first, second = values_told()

    resources = rendered(chart, {**second, "config": {**first["config"], **second["config"]}})

    check_fits(resources, config(resources))
    assert yaml.safe_load(config(resources))["server"]["tls"]
    assert resources["Service/gw-headrace"]["spec"]["ports"][0]["port"] == 443
    assert {probe.get("scheme", "HTTP") for probe in probes(resources)} == {"HTTP"}


def test_the_values_of_the_docs_are_good(chart: helm.Chart, tmp_path: Path) -> None:
    values = values_told()[0]

    resources = rendered(chart, values)

    check_fits(resources, config(resources))
    check_config(config(resources), tmp_path)


def test_the_steps_make_the_secret_with_what_is_read(chart: helm.Chart) -> None:
    check_secret(told("Helm"), yaml.safe_dump(values_told()[0]))
    check_secret((CHART / "README.md").read_text(), config(rendered(chart, {})))


def values_told() -> list[dict[str, Any]]:
    """The values that docs/deploying.md shows."""
    blocks = re.findall("(?s)```yaml other=values\n(.*?)```", told("Helm"))
    return [yaml.safe_load(block) for block in blocks]


def test_a_changed_configuration_makes_new_pods_and_nothing_else_does(chart: helm.Chart) -> None:
    before = checksum(rendered(chart, {}))
    changed = {"config": {"upstreams": {"a": "mock"}, "routes": {"*": "a"}}}

    assert checksum(rendered(chart, {"replicaCount": 5})) == before
    assert checksum(rendered(chart, changed)) != before


def test_a_configmap_of_ones_own_is_mounted_in_place_of_the_charts(chart: helm.Chart) -> None:
    resources = rendered(chart, {"existingConfigMap": "mine"})

    assert "ConfigMap/gw-headrace" not in resources
    pod = resources["Deployment/gw-headrace"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"] == {"name": "mine"}


def test_metrics_are_for_the_cluster_alone(chart: helm.Chart) -> None:
    resources = rendered(chart, {"service": {"type": "LoadBalancer"}})

    open_to_all = resources["Service/gw-headrace"]["spec"]
    assert [port["name"] for port in open_to_all["ports"]] == ["http"]
    assert resources["Service/gw-headrace-internal"]["spec"]["clusterIP"] == "None"


def test_the_autoscaler_goes_by_calls_under_way(chart: helm.Chart) -> None:
    resources = rendered(chart, EVERYTHING)

    [metric] = resources["HorizontalPodAutoscaler/gw-headrace"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "headrace_calls_in_flight"
    assert "replicas" not in resources["Deployment/gw-headrace"]["spec"]


def test_alerts_and_dashboard_are_those_of_everybody_else(chart: helm.Chart) -> None:
    resources = rendered(chart, EVERYTHING)

    alerts = read(DEPLOY / "prometheus" / "alerts.yml")
    assert resources["PrometheusRule/gw-headrace"]["spec"] == alerts
    board = resources["ConfigMap/gw-headrace-dashboard"]["data"]["headrace.json"]
    assert json.loads(board) == json.loads((DEPLOY / "grafana" / "headrace.json").read_text())
