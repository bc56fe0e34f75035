"""What the pages about plugins and tests tell people to write works as it is written."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from .projects import written
from .serving import ran, served

SHAPES = """\
from collections.abc import Mapping
from typing import Any

import pytest
from headrace import UpstreamError
from headrace.testing import (
    BACKEND, PluginContract, Upstream, ask, call, down, raw, refuses, says, text
)
from shapes import AtOnce, Closed, OnceMore, Remember, Teams, Words

class TestTeams(PluginContract):
    plugin = Teams(names=["red"])
    headers = {"x-team": "red"}

class TestOnceMore(PluginContract):
    plugin = OnceMore()

class TestWords(PluginContract):
    plugin = Words()

class TestAtOnce(PluginContract):
    def make(self):
        return AtOnce(limit=2)

class TestRemember(PluginContract):
    plugin = Remember()

@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return BACKEND

@pytest.mark.anyio
async def test_nobody_is_asked_when_closed():
    upstream = Upstream()
    for stream in (False, True):
        reply = await ask(Closed(), upstream=upstream, call=call(stream=stream))
        assert await text(reply) == "We are closed today."
    assert upstream.asked == []

@pytest.mark.anyio
async def test_it_asks_once_more():
    upstream = Upstream()
    upstream.script(down(), says("hello"))
    assert await text(await ask(OnceMore(), upstream=upstream, call=call())) == "hello"
    upstream.script(refuses(401))
    with pytest.raises(UpstreamError):
        await ask(OnceMore(), upstream=upstream, call=call())
    assert len(upstream.asked) == 3

@pytest.mark.anyio
async def test_it_remembers():
    upstream = Upstream()
    plugin = Remember()
    said = [await raw(await ask(plugin, upstream=upstream, call=call("embedding"))) for _ in "ab"]
    assert said[0] == said[1]
    assert len(upstream.asked) == 1
"""

PARROT = """\
import asyncio, json
from headrace.testing import Client, Loopback, gateway
from headrace.testing.misbehaviour import answers

async def main():
    async with Loopback() as server:
        server.script(answers({"squawk": "hello"}))
        made = gateway(f'''
            server: {{observers: [slow_calls]}}
            upstreams:
              polly: {{forwarder: {{parrot: {{base_url: "{server.url}", api_key: pk}}}}}}
            routes: {{"*": polly}}
        ''')
        async with made.lifespan():
            answer = await Client(made).chat("hi")
            assert (await answer.json())["choices"][0]["message"]["content"] == "hello"
            refused = await Client(made).chat("hi", stream=True)
            assert (refused.status, (await refused.json())["error"]["param"]) == (400, "stream")
        [asked] = server.requests
        assert (asked.target, json.loads(asked.body)) == ("/squawk", {"hear": "hi"})
        assert asked.header("x-parrot-key") == "pk"

asyncio.run(main())
"""

POINTS = """\
[headrace.plugins]
remember = shapes:Remember
[headrace.forwarders]
parrot = others:Parrot
[headrace.dialects]
parrot = others:ParrotDialect
[headrace.observers]
slow_calls = others:SlowCalls
"""


async def test_a_stranger_makes_a_plugin_in_ten_minutes(tmp_path: Path) -> None:
    folder, installed = tmp_path / "house-rules", tmp_path / "installed"
    folder.mkdir()
    written("docs/writing-a-plugin.md", folder)
    # As `pip install -e .`, but without a network and beside this environment.
    install = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    await _well(["python", "-m", "pip", "install", *install, "--target", installed, "."], folder)

    environ = {"PYTHONPATH": str(installed)}
    told = await _well(["headrace", "plugins", "house_rules"], folder, **environ)
    await _well(["headrace", "check"], folder, **environ)
    await _well(["python", "-m", "pytest", "-q", "test_headrace_house_rules.py"], folder, **environ)
    async with served(folder, **environ) as url, httpx2.AsyncClient() as client:
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        answer = await client.post(f"{url}/v1/chat/completions", json=asked)

    assert "Put a system message in front of every chat." in told
    assert "says (required)\n    The message." in told
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"


async def test_the_five_shapes_and_the_store_keep_the_contracts(tmp_path: Path) -> None:
    written("docs/writing-a-plugin.md", tmp_path)
    (tmp_path / "test_shapes.py").write_text(SHAPES)

    pytest_here = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    await _well([*pytest_here, "test_shapes.py", "test_store.py"], tmp_path, PYTHONPATH=".")


async def test_a_parrot_can_be_asked(tmp_path: Path) -> None:
    written("docs/writing-a-plugin.md", tmp_path)
    information = tmp_path / "parrot-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1\n")
    (information / "entry_points.txt").write_text(POINTS)

    for name in ("parrot", "slow_calls", "remember"):
        assert "needs" not in await _well(["headrace", "plugins", name], tmp_path, PYTHONPATH=".")
    await _well(["python", "-c", PARROT], tmp_path, PYTHONPATH=".")


async def test_the_stories_on_the_page_about_tests_pass(tmp_path: Path) -> None:
    written("docs/testing.md", tmp_path)

    await _well(["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"], tmp_path)


async def _well(command: list[str | Path], folder: Path, **environ: str) -> str:
    """What a command prints that must succeed."""
    status, printed = await ran([str(word) for word in command], folder, **environ)
    if status:
        pytest.fail(f"{' '.join(map(str, command[:4]))} ended with {status}:\n{printed}")
    return printed
