"""What the tests of deploy/ share: its files, and the programs that judge them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from headrace.options import Duration

from ..cli.running import headrace

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

HERE = Path(sys.executable).parent
"""Where the programs are that came with the tests' own packages."""

_OPERATORS_OWN = ("ServiceMonitor", "PrometheusRule")
"""Kinds that Kubernetes itself knows nothing of."""


def program(name: str, why: str = "") -> str:
    """The path of a program; the test is skipped where this machine lacks it."""
    found = shutil.which(name, path=str(HERE)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here{why and f'; {why}'}")
    return found


def said(*command: str | Path, **options: Any) -> str:
    """What a program says that ends well."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{done.stdout}{done.stderr}"


def read(path: Path) -> Any:
    """The only document of a YAML file."""
    return yaml.safe_load(path.read_text())


def seconds(text: str) -> float:
    """A time such as 30s."""
    return float(Duration.of(text))


def check_config(text: str, folder: Path) -> None:
    """This gateway.yaml is good where its secrets are, and asks whoever reaches it for a key."""
    keys, file = folder / "keys.yaml", folder / "gateway.yaml"
    assert headrace("keys", "add", "somebody", "--file", str(keys)).exit_code == 0
    here = re.sub(r"/[\w/]+/keys\.yaml", str(keys), text).replace("/var/log/headrace", str(folder))
    file.write_text(here)
    result = headrace("check", "--unset-ok", str(file), HOST="0.0.0.0")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(text)["server"].get("auth") is None


def told(heading: str) -> str:
    """What docs/deploying.md says below a heading."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def check_secret(steps: str, config: str) -> None:
    """These steps make the Secret with each file that `config` reads, where a namespace is."""
    [(before, made)] = re.findall(
        r"(?s)^(.*)\nkubectl --namespace headrace create secret generic headrace ([^\n]*)", steps
    )
    files = re.findall(r"--from-file=(\S+)", made)
    assert {*files} == {*re.findall(r"/run/secrets/headrace/([\w.]+)", config)}
    assert re.search("kubectl create namespace headrace|kubectl apply .*namespace.yaml", before)
    for file in files:
        assert re.search(rf"(--file|>) {file}\n", before + "\n"), f"nothing makes {file}"


def check_resources(text: str) -> dict[str, dict[str, Any]]:
    """Resources by kind and name; each must be what Kubernetes takes, and secure its pods."""
    found = {
        f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(text) if one
    }
    for resource in found.values():
        if resource["kind"] not in _OPERATORS_OWN:
            kubernetes_validate.validate(resource, "1.37", strict=True)
    for pod in pods(found):
        _check_restricted(pod)
    return found


def pods(resources: dict[str, dict[str, Any]]) -> Iterator[Any]:
    """The templates of all pods among resources."""
    for one in resources.values():
        if one["kind"] == "Deployment":
            yield one["spec"]["template"]["spec"]


def probes(resources: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What Kubernetes asks a pod by HTTP."""
    [pod] = pods(resources)
    found = [probe for name, probe in pod["containers"][0].items() if name.endswith("Probe")]
    return [probe["httpGet"] for probe in found]


def _check_restricted(pod: Any) -> None:
    """As Kubernetes's pod security standard `restricted` wants it, and nothing to write to."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    mounted = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def check_fits(resources: dict[str, dict[str, Any]], config: str) -> None:
    """Ports, selectors and times of resources suit one another, and `gateway.yaml`."""
    [pod] = pods(resources)
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    labels = next(
        one["spec"]["template"]["metadata"]["labels"]
        for one in resources.values()
        if one["kind"] == "Deployment"
    )
    services = {}
    for one in resources.values():
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector and one["kind"] != "ServiceMonitor":
            wanted = selector.get("matchLabels", selector)
            assert wanted, f"{one['kind']} selects every pod"
            assert wanted.items() <= labels.items(), one["kind"]
        if one["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports.keys()
            for port in spec["ports"]:
                services[port["name"]] = one["metadata"]["labels"]
    for one in resources.values():
        if one["kind"] == "ServiceMonitor":
            for endpoint in one["spec"]["endpoints"]:
                wanted = one["spec"]["selector"]["matchLabels"]
                assert wanted.items() <= services[endpoint["port"]].items()
    server = yaml.safe_load(config)["server"]
    assert server["internal"] == f"0.0.0.0:{ports['internal']}"
    for probe in probes(resources):
        assert probe["port"] == "internal", "the other port may speak HTTPS"
    ends = seconds(server["shutdown_delay"]) + seconds(server["drain"])
    assert pod["terminationGracePeriodSeconds"] >= ends + 5
