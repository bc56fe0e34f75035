"""`headrace serve`: what it takes from where, when it refuses, and what it serves unasked."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import answers

from ..end_to_end.serving import Served, running
from .running import command, process

ALONE = {"OLLAMA_HOST": "127.0.0.1:1"}
"""An environment in which no Ollama is found."""
GOOD = "upstreams: {a: mock}\nroutes: {'*': a}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, without a configuration."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gateway.yaml"


@pytest.fixture
async def upstream() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        yield server


async def said(served: Served) -> str:
    """All that it says to people when it starts; the last of it is a line to paste."""
    await served.until(lambda: any("curl" in line for line in served.said))
    return "\n".join(served.said)


def serving(*arguments: str) -> list[str]:
    return command("serve", "--port", "0", *arguments, without=["xllamacpp"])


def refusal(*arguments: str, **environ: str) -> str:
    """Why it does not start: what it says before it exits with 1."""
    done = process("serve", *arguments, **environ)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PORT": "http"}, "PORT must be a port's number, found 'http'"),
        ({"PORT": "65536"}, "PORT must be a port's number, found '65536'"),
        ({"PORT": "-1"}, "PORT must be a port's number, found '-1'"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL must be one of debug, info, warning, error, critical"),
        ({"HOST": "not a host"}, "others than this machine reach not a host"),
        ({"HOST": "127.0.0.300"}, "others than this machine reach 127.0.0.300"),
        ({"HEADRACE_CONFIG": "none.yaml"}, "cannot read none.yaml: No such file or directory"),
    ],
)
def test_a_bad_environment_is_a_problem(here: Path, environ: dict[str, str], message: str) -> None:
    here.write_text(GOOD)

    assert message in refusal(**environ)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "abc"), "'--port': 'abc' is not a number from 0 to 65535"),
        (("--port", "65536"), "'--port': '65536' is not a number from 0 to 65535"),
        (("--workers", "0"), "'--workers': '0' is not a number from 1 on"),
    ],
)
def test_what_is_no_number_is_told(arguments: tuple[str, ...], message: str) -> None:
    done = process("serve", *arguments)

    assert done.returncode == 2
    assert message in done.stderr


def test_a_name_that_is_no_address_is_a_problem(here: Path) -> None:
    here.write_text(f"server: {{auth: none}}\n{GOOD}")

    assert "this machine has no such address; choose another --host" in refusal(
        HOST="nowhere.invalid"
    )


def test_a_port_that_is_taken_is_a_problem(here: Path) -> None:
    here.write_text(GOOD)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        assert f"cannot listen on 127.0.0.1:{port}: something listens there already" in refusal(
            PORT=str(port)
        )


def test_an_address_for_operators_that_is_taken_is_a_problem_where_it_is_written(
    here: Path,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        here.write_text(f"server: {{internal: '127.0.0.1:{port}'}}\n{GOOD}")

        assert refusal(PORT="0").startswith(
            f"gateway.yaml:1:20: cannot listen on 127.0.0.1:{port}: something listens there already"
        )


@pytest.mark.parametrize("internal", ["127.0.0.1:8099", "127.0.0.2:8099", "0.0.0.0:8099"])
def test_an_address_for_operators_with_the_same_port_is_a_problem(
    here: Path, internal: str
) -> None:
    here.write_text(f"server: {{port: 8099, internal: '{internal}'}}\n{GOOD}")

    told = refusal()

    assert told.startswith(
        f"gateway.yaml:1:32: server: internal: {internal} has the same port as 127.0.0.1:8099"
    )
    assert process("check").stderr == told


@pytest.mark.parametrize(
    "internal", ["9090", "127.0.0.1", "127.0.0.1:", "::1:9090", "a:b", "a:99999", "http://a:1", ""]
)
def test_what_is_no_address_for_operators_is_a_problem(here: Path, internal: str) -> None:
    here.write_text(f"server: {{internal: '{internal}'}}\n{GOOD}")

    assert refusal().startswith(
        "gateway.yaml:1:20: server: internal is no address; write one such as 127.0.0.1:9090"
    )


def test_every_problem_of_the_file_is_told_before_the_port_opens(here: Path) -> None:
    here.write_text("server: {port: many}\nupstreams: {a: mook}\nroutes: [a]\n")

    assert refusal().endswith("3 problems\n")


@pytest.mark.parametrize(
    ("arguments", "environ", "server"),
    [
        (["--host", "0.0.0.0"], {}, "{}"),
        ([], {"HOST": "0.0.0.0"}, "{}"),
        ([], {}, "{host: 0.0.0.0}"),
        ([], {}, "{host: '::'}"),
        ([], {"HOST": "192.0.2.1"}, "{host: 127.0.0.1}"),
    ],
    ids=["option", "environment", "file", "all of IPv6", "environment before file"],
)
def test_it_does_not_open_to_others_without_a_key(
    here: Path, arguments: list[str], environ: dict[str, str], server: str
) -> None:
    here.write_text(f"server: {server}\n{GOOD}")

    told = refusal(*arguments, **environ)

    assert "and nobody asks them for a key" in told
    assert "put a plugin that authenticates" in told
    assert "`auth: none`" in told
    assert told.startswith("gateway.yaml:1:16: ") == ("host: " in server and not environ)


async def test_it_opens_to_others_where_the_file_says_so_and_warns(here: Path) -> None:
    here.write_text(f"server: {{auth: none}}\n{GOOD}")

    async with running(serving("--host", "0.0.0.0"), {}) as served:
        assert "WARNING headrace: everybody who reaches 0.0.0.0 may ask: no key" in await said(
            served
        )


async def test_with_a_key_it_opens_to_others_without_a_word(here: Path) -> None:
    here.write_text(f"server: {{chain: [api_key: {{keys: {{{'a' * 64}: ann}}}}]}}\n{GOOD}")

    async with running(serving("--host", "0.0.0.0"), {}) as served:
        assert "WARNING" not in await said(served)
        assert "-H 'authorization: Bearer YOUR_KEY'" in await said(served)


async def test_the_option_comes_before_the_environment_and_that_before_the_file(
    here: Path,
) -> None:
    here.write_text(f"server: {{port: 1, host: 192.0.2.1}}\n{GOOD}")

    async with running(serving(), {"HOST": "127.0.0.2", "PORT": "many"}) as served:
        assert served.url.startswith("http://127.0.0.2:")


async def test_the_environment_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("upstreams: {named-there: mock}")

    async with running(serving(), {"HEADRACE_CONFIG": "other.yaml"}) as served:
        assert "upstream named-there" in await said(served)


async def test_the_file_of_the_folder_is_served_unnamed(here: Path) -> None:
    here.write_text("upstreams: {found-here: mock}")

    async with running(serving(), {"HEADRACE_CONFIG": ""}) as served:
        assert "upstream found-here" in await said(served)


async def test_without_a_file_and_with_nothing_to_find_a_mock_answers() -> None:
    async with running(serving(), ALONE) as served:
        told = await said(served)

    assert "there is no ./gateway.yaml; found:" in told
    assert "mock: says that it is a mock" in told
    assert "no model. Set a key such as OPENAI_API_KEY" in told
    assert "  models: mock" in told


async def test_without_a_file_a_key_in_the_environment_is_used(upstream: Loopback) -> None:
    upstream.script(answers({"data": [{"id": "gpt-4o"}]}))
    environ = {"OPENAI_API_KEY": "sk-CANARY", "OPENAI_BASE_URL": f"{upstream.url}/v1"}

    async with running(serving(), {**ALONE, **environ}) as served:
        told = await said(served)

    assert "openai: OPENAI_API_KEY is set" in told
    assert "openai/gpt-4o" in told
    assert "mock" not in told
    assert "CANARY" not in told
    assert upstream.requests[0].header("authorization") == "Bearer sk-CANARY"


async def test_without_a_file_an_ollama_on_its_port_is_used(upstream: Loopback) -> None:
    upstream.script(answers({"models": [{"name": "llama3.2:latest"}]}))

    async with running(serving(), {"OLLAMA_HOST": f"127.0.0.1:{upstream.port}"}) as served:
        told = await said(served)

    assert f"ollama: Ollama answers at {upstream.url}" in told
    assert "  models: llama3.2:latest, llama3.2" in told
    assert "mock" not in told
