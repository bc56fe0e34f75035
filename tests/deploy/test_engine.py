"""The image and compose.yaml on a real engine, where one runs: built, live, used and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ..end_to_end.serving import chat
from .tools import DEPLOY, ROOT, program, read, said

IMAGE = "headrace:test"
BASE = "python:3.13-slim-trixie"
COMPOSE = DEPLOY / "compose.yaml"
PROJECT = "headrace-test"
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def docker() -> str:
    """The client of an engine that runs."""
    client = program("docker")
    if subprocess.run([client, "info"], capture_output=True, timeout=30).returncode:
        pytest.skip("no Docker engine runs here")
    return client


@pytest.fixture(scope="module")
def image(docker: str) -> Iterator[str]:
    """The image, built anew."""
    if not had(docker, BASE):
        pytest.skip(f"the image {BASE} is not here; docker pull it")
    build = [docker, "build", "--quiet", "--network", "host", "--target", "headrace"]
    subprocess.run(
        [*build, "--tag", IMAGE, "--file", DEPLOY / "Dockerfile", ROOT],
        check=True,
        timeout=900,
        stdout=subprocess.DEVNULL,
    )
    yield IMAGE
    said(docker, "image", "rm", "--force", IMAGE)


def had(docker: str, name: str) -> bool:
    """Whether an image is here; none is fetched for a test."""
    inspect = [docker, "image", "inspect", name]
    return subprocess.run(inspect, capture_output=True, timeout=60).returncode == 0


@pytest.fixture
def container(docker: str, image: str, tmp_path: Path) -> Iterator[str]:
    """The image with a mock, alone and with nothing it could do."""
    text = "server: {auth: none}\nupstreams: {a: mock}\nroutes: {m: a}\n"
    (tmp_path / "gateway.yaml").write_text(text)
    tmp_path.chmod(0o755)
    run = [docker, "run", "--detach", *HARDENED, "--network", "none"]
    name = said(*run, "--volume", f"{tmp_path}:/etc/headrace:ro", image).strip()
    yield name
    said(docker, "rm", "--force", name)


async def until_healthy(docker: str, name: str) -> None:
    """The engine's own checks find the container well."""
    async with asyncio.timeout(60):
        while said(docker, "inspect", "-f", "{{.State.Health.Status}}", name).strip() != "healthy":
            await asyncio.sleep(0.2)


async def test_a_container_that_may_write_nothing_is_well_and_stops_gently(
    docker: str, container: str
) -> None:
    await until_healthy(docker, container)

    assert said(docker, "exec", container, "id", "-u").strip() == "10001"
    said(docker, "stop", "--time", "30", container)
    assert said(docker, "inspect", "-f", "{{.State.ExitCode}}", container).strip() == "0"


def test_no_layer_holds_a_configuration_or_a_tool_to_build_with(docker: str, image: str) -> None:
    run = [docker, "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c"]

    assert said(*run, "ls -A /etc/headrace").strip() == ""
    assert said(*run, "ls /opt/headrace/bin").split().count("pip") == 0
    config = json.loads(said(docker, "image", "inspect", image))[0]["Config"]
    assert not [line for line in config["Env"] if "KEY" in line.partition("=")[0]]


async def test_compose_is_brought_up_and_answers(docker: str, image: str) -> None:
    services = {
        name: service
        for name, service in read(COMPOSE)["services"].items()
        if "build" in service or had(docker, service["image"])
    }
    missing = {"redis"} - services.keys()
    if missing:
        pytest.skip(f"the images of {missing} are not here; docker compose pull them")
    ports = {f"{name}_PORT": "0" for name in ("HEADRACE", "GRAFANA", "PROMETHEUS")}
    environ = {**os.environ, **ports, "HEADRACE_IMAGE": image}
    compose: list[str | Path] = [
        program("docker-compose"),
        "--project-name",
        PROJECT,
        "--file",
        COMPOSE,
    ]
    try:
        up = ["up", "--no-build", "--detach", "--wait", "--wait-timeout", "90"]
        said(*compose, *up, *services, env=environ)
        address = said(*compose, "port", "gateway", "8080", env=environ).strip()
        async with httpx2.AsyncClient(timeout=20) as client:
            url = f"http://{address}/v1/chat/completions"
            answer = await client.post(url, json=chat(model="gpt-4o"))
            if "prometheus" in services:
                asked = said(*compose, "port", "prometheus", "9090", env=environ).strip()
                await until_scraped(client, asked)
    finally:
        said(*compose, "down", "--volumes", "--timeout", "45", env=environ)
    assert answer.status_code == 200
    assert answer.headers["x-headrace-upstream"] == "stand-in"
    assert answer.headers["x-ratelimit-remaining-requests"] == "599"


async def until_scraped(client: httpx2.AsyncClient, address: str) -> None:
    """Prometheus has read the gateway's metrics, and found the store well."""
    async with asyncio.timeout(60):
        while True:
            url = f"http://{address}/api/v1/query?query=headrace_store_up"
            found = (await client.get(url)).json()["data"]["result"]
            if [one["value"][1] for one in found] == ["1"]:
                return
            await asyncio.sleep(0.5)
