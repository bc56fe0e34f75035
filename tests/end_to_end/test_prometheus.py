"""Prometheus itself, and its tool, read what a gateway tells."""

from __future__ import annotations

import asyncio
import shutil
import socket
import textwrap
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .serving import Served, chat, serving

CONFIG = """
    server:
      observers: [access_log, metrics: {tenants: [acme]}]
      prices: {"*": {input: 1, output: 2}}
    upstreams: {a: mock, b: mock}
    routes:
      m: {chain: [race, retry], targets: [a/m, b/m]}
      "*": a
    """


def tool(name: str) -> str:
    """A program of Debian's package `prometheus`."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here; it comes with Debian's package prometheus")
    return found


async def ask(served: Served, *models: str) -> None:
    async with httpx2.AsyncClient(timeout=20) as client:
        for model in models:
            for stream in (False, True):
                body = chat(model=model, stream=stream)
                await client.post(f"{served.url}/v1/chat/completions", json=body)
            await client.post(f"{served.url}/v1/nowhere", json={})


async def page(served: Served) -> str:
    async with httpx2.AsyncClient(timeout=20) as client:
        return (await client.get(f"{served.url}/metrics")).text


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_promtool_finds_nothing_wrong(workers: str) -> None:
    promtool = tool("promtool")
    async with serving(CONFIG, "--workers", workers) as served:
        await ask(served, "m", "junk", "")
        text = await page(served)

    checking = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await checking.communicate(text.encode())
    assert (checking.returncode, said.decode()) == (0, "")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_no_sample_is_told_twice(workers: str) -> None:
    async with serving(CONFIG, "--workers", workers) as served:
        await ask(served, "m", "junk")
        families = list(text_string_to_metric_families(await page(served)))

    samples = [
        (sample.name, *sorted(sample.labels.items()))
        for family in families
        for sample in family.samples
    ]
    assert len(samples) == len(set(samples)) <= 1000
    assert len(families) == len({family.name for family in families}) > 15


async def test_junk_names_add_no_series_to_what_is_scraped() -> None:
    async with serving(CONFIG) as served:
        await ask(served, "m", "junk")
        before = len((await page(served)).splitlines())
        for batch in range(20):
            await asyncio.gather(*(junk(served, batch * 50 + number) for number in range(50)))
        after = len((await page(served)).splitlines())

    assert after == before


async def junk(served: Served, number: int) -> None:
    """A model, a user agent, a user and a tenant that nobody has heard of."""
    name = f"junk-{number}"
    headers = {"user-agent": name, "x-tenant-id": name, "x-request-id": name}
    async with httpx2.AsyncClient(timeout=20, headers=headers) as client:
        body = chat(model=name, user=name)
        await client.post(f"{served.url}/v1/chat/completions?{name}", json=body)


@asynccontextmanager
async def prometheus(served: Served, folder: Path) -> AsyncIterator[str]:
    """A Prometheus that scrapes a gateway, at its address."""
    program = tool("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = f"""
        global: {{scrape_interval: 1s, scrape_timeout: 1s}}
        scrape_configs:
          - job_name: headrace
            static_configs: [{{targets: ["{served.url.removeprefix("http://")}"]}}]
        """
    (folder / "prometheus.yml").write_text(textwrap.dedent(config))
    process = await asyncio.create_subprocess_exec(
        program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}", stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


async def found(url: str, query: str) -> list[dict[str, Any]]:
    """What Prometheus answers, once there is something."""
    async with httpx2.AsyncClient(timeout=5) as client, asyncio.timeout(60):
        while True:
            try:
                answer = await client.get(f"{url}/api/v1/query", params={"query": query})
                result: list[dict[str, Any]] = answer.json()["data"]["result"]
            except (httpx2.TransportError, KeyError, ValueError):  # it is just starting
                result = []
            if result:
                return result
            await asyncio.sleep(0.2)


async def test_prometheus_scrapes_it(tmp_path: Path) -> None:
    async with serving(CONFIG, "--workers", "2") as served:
        await ask(served, "m", "junk")
        async with prometheus(served, tmp_path) as url:
            [up] = await found(url, 'up{job="headrace"} == 1')
            [races] = await found(url, "sum(headrace_races_total)")
            [cost] = await found(url, "sum(headrace_cost_dollars_total)")
            [last] = await found(url, "time() - headrace_config_last_reload_timestamp_seconds")
            series = await found(url, 'count({job="headrace", __name__=~"headrace_.*|ai_.*"})')
            query = "histogram_quantile(0.5, sum by (le) (headrace_request_seconds_bucket))"
            [median] = await found(url, query)

    assert up["value"][1] == "1"
    assert float(races["value"][1]) == 2
    assert float(cost["value"][1]) > 0
    assert 0 <= float(last["value"][1]) < 300
    assert 0 < float(series[0]["value"][1]) <= 1000
    assert float(median["value"][1]) > 0
