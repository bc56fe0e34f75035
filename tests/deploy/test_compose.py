"""compose.yaml: whole, closed to the network, and good without a key."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..cli.running import headrace
from ..end_to_end.serving import Served, chat, serving
from .tools import DEPLOY, program, read, said, seconds

COMPOSE = DEPLOY / "compose.yaml"
SERVICES = read(COMPOSE)["services"]
GATEWAY = DEPLOY / "gateway" / "gateway.yaml"

every_service = pytest.mark.parametrize(
    "service", [pytest.param(service, id=name) for name, service in SERVICES.items()]
)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """The gateway of compose.yaml, without the other services."""
    alone = {
        "redis://redis:6379/0": "memory://",
        "0.0.0.0:9090": "127.0.0.1:0",
    }
    text = GATEWAY.read_text()
    for there, here in alone.items():
        assert there in text
        text = text.replace(there, here)
    async with serving(text) as served:
        yield served


def test_compose_takes_it() -> None:
    said(program("docker-compose"), "--file", COMPOSE, "config", "--quiet")


@every_service
def test_every_service_may_do_as_little_as_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid"}


@every_service
def test_only_this_machine_reaches_a_port(service: dict[str, Any]) -> None:
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@every_service
def test_an_image_is_of_one_version(service: dict[str, Any]) -> None:
    assert "build" in service or re.search(r":v?\d+\.\d+[\w.-]*$", service["image"])


@every_service
def test_what_is_mounted_is_there_and_is_not_written(service: dict[str, Any]) -> None:
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert volume.endswith(":ro"), volume
        else:
            assert source in read(COMPOSE)["volumes"]


def test_nobody_waits_for_a_service_that_cannot_say_whether_it_is_well() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[name] or "build" in SERVICES[name], name


def test_calls_under_way_may_end_when_it_stops() -> None:
    server = read(GATEWAY)["server"]

    allowed = seconds(SERVICES["gateway"]["stop_grace_period"])

    assert allowed > seconds(server["shutdown_delay"]) + seconds(server["drain"])


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": "sk-1"}], ids=["none", "openai"])
def test_its_gateway_is_good_with_a_key_and_without(environ: dict[str, str]) -> None:
    result = headrace("check", str(GATEWAY), stdin=None, **environ)

    assert result.exit_code == 0, result.output


async def test_its_gateway_answers_without_a_key(served: Served) -> None:
    async with httpx2.AsyncClient(timeout=20) as client:
        answer = await client.post(f"{served.url}/v1/chat/completions", json=chat(model="gpt-4o"))

    assert answer.status_code == 200
    assert answer.headers["x-headrace-upstream"] == "stand-in"


def test_prometheus_takes_its_configuration() -> None:
    promtool = program("promtool", "it is in Debian's package prometheus")

    said(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_prometheus_asks_the_gateway_where_it_tells() -> None:
    jobs = read(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    port = read(GATEWAY)["server"]["internal"].rpartition(":")[2]

    assert [job["static_configs"] for job in jobs] == [[{"targets": [f"gateway:{port}"]}]]


def test_spans_go_where_the_collector_listens() -> None:
    receivers = read(DEPLOY / "collector.yaml")["receivers"]
    endpoint = SERVICES["gateway"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]

    assert endpoint == "http://collector:4318"
    assert receivers == {"otlp": {"protocols": {"http": {"endpoint": "0.0.0.0:4318"}}}}
    pipelines = read(DEPLOY / "collector.yaml")["service"]["pipelines"]
    assert {name for each in pipelines.values() for name in each["receivers"]} == {*receivers}


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    grafana = DEPLOY / "grafana"
    [source] = read(grafana / "datasources.yaml")["datasources"]
    [provider] = read(grafana / "dashboards.yaml")["providers"]

    assert source["url"] == "http://prometheus:9090"
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert Path(mounted["./grafana/headrace.json"]).parent == Path(provider["options"]["path"])
