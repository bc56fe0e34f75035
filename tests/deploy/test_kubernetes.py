"""The manifests: what Kubernetes takes, with nothing left out of them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from ..end_to_end.certificates import Authority
from ..end_to_end.serving import serving
from .tools import (
    DEPLOY,
    check_config,
    check_fits,
    check_resources,
    check_secret,
    probes,
    program,
    read,
    said,
    told,
)

FOLDER = DEPLOY / "kubernetes"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "gateway.yaml")
KUSTOMIZATIONS = [path for path in FILES if path.name == "kustomization.yaml"]
CONFIGS = sorted(FOLDER.rglob("gateway.yaml"))


def name(path: Path) -> str:
    """What a file is called in a report."""
    return path.relative_to(FOLDER).as_posix()


def rendered(folder: str) -> str:
    """What kustomize makes of a folder."""
    return said(program("kubectl", "it renders with kustomize"), "kustomize", FOLDER / folder)


@pytest.mark.parametrize("path", [path for path in FILES if path not in KUSTOMIZATIONS], ids=name)
def test_every_manifest_is_what_kubernetes_takes(path: Path) -> None:
    assert check_resources(path.read_text())


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=name)
def test_every_manifest_is_named_and_every_name_is_there(path: Path) -> None:
    named = read(path)

    files = [file for each in named.get("configMapGenerator", []) for file in each["files"]]
    others = [*named.get("resources", []), *named.get("components", []), *files]
    for other in others:
        assert (path.parent / other).exists(), other
    here = {file.name for file in path.parent.iterdir()} - {path.name}
    assert here == {other for other in others if not other.startswith("..")}


def test_the_parts_fit_together_as_they_are_written() -> None:
    files = [path for path in FILES if path not in KUSTOMIZATIONS and "example" not in path.parts]
    resources = check_resources("\n---\n".join(path.read_text() for path in files))

    [labels] = read(FOLDER / "base" / "kustomization.yaml")["labels"]
    for resource in resources.values():
        resource["metadata"]["labels"] = labels["pairs"]
    check_fits(resources, (FOLDER / "base" / "gateway.yaml").read_text())


def test_what_is_rendered_fits_together_and_has_a_hash_of_its_configuration() -> None:
    resources = check_resources(rendered("example"))

    configs = [one for one in resources.values() if one["kind"] == "ConfigMap"]
    assert [one["data"].keys() for one in configs] == [{"gateway.yaml"}]
    check_fits(resources, configs[0]["data"]["gateway.yaml"])
    deployment = resources["Deployment/headrace"]
    assert "replicas" not in deployment["spec"], "the autoscaler says how many"
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == configs[0]["metadata"]["name"] != "headrace"
    assert pod["containers"][0]["image"] == "images.example.com/headrace:1.0"
    spaces = {one["metadata"].get("namespace") for one in resources.values()}
    assert spaces == {"headrace", None}


def test_a_cluster_without_operators_takes_the_base_alone() -> None:
    resources = check_resources(rendered("base"))

    kinds = {one["kind"] for one in resources.values()}
    assert {"Deployment", "Service", "ConfigMap", "PodDisruptionBudget"} <= kinds
    assert not kinds & {"ServiceMonitor", "HorizontalPodAutoscaler"}


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_every_configuration_is_good_and_asks_for_a_key(path: Path, tmp_path: Path) -> None:
    check_config(path.read_text(), tmp_path)


def test_the_steps_make_the_secret_before_the_pods_that_read_it() -> None:
    steps = told("Kubernetes")

    check_secret(steps, (FOLDER / "example" / "gateway.yaml").read_text())
    assert steps.index("create secret") < steps.index("kubectl apply --kustomize")


async def test_probes_are_answered_where_the_gateway_itself_speaks_https(tmp_path: Path) -> None:
    Authority().issue(tmp_path)
    asked = probes(check_resources((FOLDER / "base" / "deployment.yaml").read_text()))
    text = f"""
        server:
          internal: 127.0.0.1:0
          tls: {{certificate: {tmp_path}/tls.crt, key: {tmp_path}/tls.key}}
        upstreams: {{a: mock}}
        routes: {{m: a}}
        """

    async with serving(text) as served, httpx2.AsyncClient() as http:
        await served.until(lambda: any("for operators" in line for line in served.said))
        [internal] = re.findall(r"for operators: (\S+)", "\n".join(served.said))
        assert served.url.startswith("https:")
        for probe in asked:
            assert (await http.get(internal + probe["path"])).status_code == 200
