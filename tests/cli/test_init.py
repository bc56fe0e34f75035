"""`headrace init`: files that a person is glad to edit, and that work as they are."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.init_environment import written
from headrace.config.build import build
from headrace.config.document import parse
from headrace.config.found import look
from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    Act,
    Received,
    Steps,
    answers,
    status,
    streams,
)

from ..end_to_end.serving import running
from .running import command, headrace

PRESETS = ["failover", "local-first", "race", "team"]
MODELS = {"failover": "chat", "local-first": "assistant", "race": "fast", "team": "chat"}
FIRST = "# yaml-language-server: $schema=./gateway.schema.json"
KEYS = {"OPENAI_API_KEY": "sk-CANARY", "GROQ_API_KEY": "gsk-CANARY"}
EVERYTHING = {
    "OPENAI_API_KEY": "CANARY-1", "AZURE_OPENAI_API_KEY": "CANARY-2",
    "AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/",
    "AZURE_OPENAI_DEPLOYMENT": "prod-4o", "AZURE_OPENAI_API_VERSION": "2024-10-21",
    "ANTHROPIC_API_KEY": "CANARY-3", "GEMINI_API_KEY": "CANARY-4", "GROQ_API_KEY": "CANARY-5",
    "HF_TOKEN": "CANARY-6", "OLLAMA_BASE_URL": "http://ollama:11434/v1/",
    "REDIS_URL": "redis://:CANARY-7@redis:6379/0", "PORT": "9000", "AI_PROVIDER": "groq",
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, without a configuration."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gateway.yaml"


@pytest.fixture
async def upstream() -> AsyncIterator[Loopback]:
    """A service that speaks OpenAI's API and Ollama's."""
    async with Loopback() as server:
        server.script(_service)
        yield server


def _service(asked: Received) -> Steps:
    if asked.target == "/api/chat":
        said = {"role": "assistant", "content": "Hello world"}
        return answers({"model": "m", "message": said, "done": True, "done_reason": "stop"})
    if asked.method == "POST" and json.loads(asked.body).get("stream"):
        return streams(*EVENTS)
    return answers(COMPLETION if asked.method == "POST" else {"data": [], "models": []})


async def ask(url: str, model: str, *headers: str) -> tuple[int, Any]:
    """Status and body of a chat."""
    code, _, body = await said(url, model, *headers)
    return code, json.loads(body)


async def said(
    url: str, model: str, *headers: str, stream: bool = False
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and all that is said to a chat."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    told = dict(header.split(": ") for header in ("content-type: application/json", *headers))
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), headers=told
    )

    def send() -> tuple[int, Mapping[str, str], bytes]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    return await asyncio.to_thread(send)


def served_with(*arguments: str) -> list[str]:
    return command("serve", "--port", "0", *arguments)


# Presets


def test_without_a_preset_they_are_listed(here: Path) -> None:
    told = headrace("init")

    assert told.exit_code == 0
    assert re.findall(r"^  ([\w-]+)  +\S.+\.$", told.stdout, re.MULTILINE) == PRESETS
    assert not here.exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_passes_the_check_with_the_variables_that_it_names(
    preset: str, here: Path
) -> None:
    told = headrace("init", preset)

    assert told.exit_code == 0, told.stderr
    wanted = re.findall(r"export (\w+)=", told.stderr)
    assert headrace("check", stdin=None, **dict.fromkeys(wanted, "CANARY")).exit_code == 0
    assert headrace("check", "--unset-ok").exit_code == 0
    assert (headrace("check").exit_code == 0) is not bool(wanted)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_file_to_be_read(preset: str, here: Path) -> None:
    headrace("init", preset)
    lines = here.read_text().splitlines()

    assert lines[0] == FIRST
    assert lines[1].startswith("# ") and lines[1].endswith(".")
    assert "  host: 127.0.0.1" in lines
    assert max(map(len, lines)) <= 110
    for line in lines:
        if code := re.match(r"(.*\S) +# ", line):
            assert line.index("# ") == max(47, len(code[1]) + 1) or line.lstrip().startswith("#")


@pytest.mark.parametrize("preset", PRESETS)
async def test_what_a_preset_serves_answers(preset: str, upstream: Loopback, here: Path) -> None:
    headrace("init", preset)
    key = headrace("keys", "add", "alice").stdout.strip() if preset == "team" else "none"
    text = here.read_text().replace("https://api.groq.com/openai", upstream.url)
    here.write_text(text)
    environ = {**KEYS, "OPENAI_BASE_URL": f"{upstream.url}/v1", "OLLAMA_BASE_URL": upstream.url}

    async with running(served_with(), environ) as served:
        status, body = await ask(served.url, MODELS[preset], f"authorization: Bearer {key}")
        stranger, _ = await ask(served.url, MODELS[preset])

    assert status == 200, body
    assert body["choices"][0]["message"]["content"] == "Hello world"
    assert stranger == (401 if preset == "team" else 200)


@pytest.mark.parametrize(
    ("preset", "model", "second"),
    [
        ("failover", "chat", "second"),
        ("local-first", "assistant", "cloud"),
        ("race", "fast", "other"),
        ("race", "steady", "other"),
    ],
)
async def test_the_second_answers_when_the_first_says_nothing(
    preset: str, model: str, second: str, upstream: Loopback, here: Path
) -> None:
    async with Loopback() as silent:
        silent.script((Act.STALL,))
        environ = second_behind(silent, preset, upstream, here)
        async with running(served_with(), environ) as served:
            plain = await said(served.url, model)
            streamed = await said(served.url, model, stream=True)

    for code, headers, body in (plain, streamed):
        assert (code, headers["x-headrace-upstream"]) == (200, second), body
        assert headers["x-headrace-attempts"] == "2"
        assert b"Hello" in body


async def test_nobody_waits_for_a_first_that_is_limited(upstream: Loopback, here: Path) -> None:
    async with Loopback() as limited:
        limited.script(status(429, {}, "retry-after: 3"))
        environ = second_behind(limited, "failover", upstream, here)
        async with running(served_with(), environ) as served:
            code, headers, _ = await said(served.url, "chat")

    assert (code, headers["x-headrace-upstream"]) == (200, "second")
    assert [asked.method for asked in limited.requests].count("POST") == 1


def second_behind(first: Loopback, preset: str, second: Loopback, file: Path) -> dict[str, str]:
    """Write a preset that waits less long; and the variables that it needs."""
    headrace("init", preset)
    text = file.read_text().replace("https://api.groq.com/openai", second.url)
    file.write_text(re.sub(r"((first_event|patience|default): )\d+s", r"\g<1>300ms", text))
    openai = second if preset == "local-first" else first
    return {**KEYS, "OPENAI_BASE_URL": f"{openai.url}/v1", "OLLAMA_BASE_URL": first.url}


async def test_the_limits_of_a_team_are_kept(upstream: Loopback, here: Path) -> None:
    headrace("init", "team")
    key = headrace("keys", "add", "alice").stdout.strip()
    here.write_text(here.read_text().replace("requests: 60/minute", "requests: 2/minute"))
    environ = {**KEYS, "OPENAI_BASE_URL": f"{upstream.url}/v1"}

    async with running(served_with(), environ) as served:
        asked = [
            (await ask(served.url, model, f"authorization: Bearer {key}"))[0]
            for model in ("gpt-4o", "chat", "chat", "chat")
        ]

    assert asked[0] == 404, "gpt-4o is for others"
    assert (asked[1], asked[-1]) == (200, 429)


def test_a_team_without_keys_lets_nobody_in(here: Path) -> None:
    told = headrace("init", "team")

    assert "keys.yaml: written; it has no key yet, so nobody is let in" in told.stderr
    assert "headrace keys add NAME" in told.stderr
    assert here.with_name("keys.yaml").stat().st_mode & 0o077 == 0


def test_keys_that_are_there_stay(here: Path) -> None:
    headrace("keys", "add", "alice")
    before = here.with_name("keys.yaml").read_text()

    headrace("init", "team")

    assert here.with_name("keys.yaml").read_text() == before


def test_a_file_that_is_there_is_written_over_by_force_alone(here: Path) -> None:
    here.write_text("mine")

    refused = headrace("init", "race")

    assert refused.exit_code == 1
    assert refused.stderr == "Error: gateway.yaml is there already; --force writes over it\n"
    assert here.read_text() == "mine"
    assert headrace("init", "race", "--force").exit_code == 0
    assert here.read_text().startswith(FIRST)


def test_the_file_may_have_another_name(here: Path) -> None:
    assert headrace("init", "race", "other.yaml").exit_code == 0
    assert headrace("init", "race", HEADRACE_CONFIG="third.yaml").exit_code == 0

    assert sorted(path.name for path in here.parent.iterdir()) == ["other.yaml", "third.yaml"]


def test_a_dash_is_standard_output(here: Path) -> None:
    told = headrace("init", "team", "-")

    assert told.stdout.startswith(FIRST)
    assert told.stderr == ""
    assert list(here.parent.iterdir()) == []


def test_a_preset_that_is_none_is_told_with_those_there_are() -> None:
    assert "there is no preset 'tema'; did you mean 'team'?" in headrace("init", "tema").stderr
    assert f"there are {', '.join(PRESETS)}" in headrace("init", "gateway.xml").stderr
    assert "'two' is one word too many" in headrace("init", "race", "one", "two").stderr


def test_a_folder_that_is_not_there_is_told() -> None:
    told = headrace("init", "race", "none/gateway.yaml")

    assert told.exit_code == 1
    assert "cannot write none/gateway.yaml: No such file or directory" in told.stderr


# The environment


def made_of(environ: Mapping[str, str]) -> tuple[Any, str]:
    """The plan of what is written, and all that was said."""
    text, said = written(environ)
    assert text is not None, said
    return build(parse(text, "gateway.yaml", environ)), "\n".join(said)


def base_urls(environ: Mapping[str, str]) -> dict[str, str]:
    plan, _ = made_of(environ)
    return {name: upstream.forward.base_url for name, upstream in plan.upstreams.items()}


def test_everything_that_is_set_becomes_a_file_without_a_value(here: Path) -> None:
    told = headrace("init", "--from-env", stdin=None, **EVERYTHING)

    assert told.exit_code == 0, told.stderr
    text = here.read_text()
    assert text.startswith(FIRST)
    assert "CANARY" not in text + told.output
    assert "ollama:11434" not in text and "azure.com" not in text
    assert headrace("check", stdin=None, **EVERYTHING).exit_code == 0


def test_every_service_is_found_and_asked_at_its_own_address() -> None:
    assert base_urls(EVERYTHING) == {
        "openai": "https://api.openai.com/v1",
        "azure": "https://mine.openai.azure.com/openai/v1",
        "anthropic": "https://api.anthropic.com/v1",
        "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
        "groq": "https://api.groq.com/openai/v1",
        "huggingface": "https://router.huggingface.co/v1",
        "ollama": "http://ollama:11434",
    }


async def test_serving_without_a_file_asks_the_same_addresses() -> None:
    environ = {name: value for name, value in EVERYTHING.items() if not name.startswith("OLLAMA")}
    found = {one.name: one.options.get("base_url") for _, one in await look(environ)}

    known = base_urls(environ)

    assert found.keys() - known.keys() <= {"local", "ollama"}
    assert {name: url for name, url in found.items() if name in known}.items() <= known.items()


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/api/openai", "https://h/api/openai"),
    ],
)
def test_the_address_of_openai_may_lack_its_version(value: str, url: str) -> None:
    assert base_urls({"OPENAI_BASE_URL": value}) == {"openai": url}


@pytest.mark.parametrize("value", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_address_of_ollama_may_have_a_version(value: str) -> None:
    assert base_urls({"OLLAMA_BASE_URL": value}) == {"ollama": "http://h:1"}


@pytest.mark.parametrize("path", ["", "/", "/openai/v1", "/openai/v1/"])
def test_the_endpoint_of_azure_may_lack_its_path(path: str) -> None:
    environ = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": f"https://r.example{path}"}

    assert base_urls(environ) == {"azure": "https://r.example/openai/v1"}


@pytest.mark.parametrize("value", ["h:1", "ftp://h", "http://user:CANARY@h", "http://h?key=CANARY"])
def test_a_service_whose_address_is_none_is_left_out_and_its_key_goes_nowhere_else(
    value: str,
) -> None:
    text, said = written({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": value, "GROQ_API_KEY": "g"})

    assert text is not None and "openai:\n" in text
    assert "api.openai.com" not in text and "${OPENAI_API_KEY}" not in text
    assert any("openai: left out, OPENAI_BASE_URL is no address: " in line for line in said)
    assert "CANARY" not in "".join(said)


def targets(environ: Mapping[str, str]) -> tuple[list[str], str]:
    """Who answers chat, in order; and who any other model."""
    plan, _ = made_of(environ)
    routes = {route.key: [str(target) for target in route.targets] for route in plan.routes}
    return routes.get("chat", []), routes["*"][0]


THREE = {"OPENAI_API_KEY": "k", "GEMINI_API_KEY": "k", "OLLAMA_BASE_URL": "http://h"}


@pytest.mark.parametrize(
    ("provider", "first"),
    [
        ("", "openai"), ("openai", "openai"), ("gemini", "gemini"), ("google", "gemini"),
        ("Ollama", "ollama"), ("groq", "openai"), ("nobody", "openai"),
    ],
)  # fmt: skip
def test_the_service_that_is_preferred_is_asked_first(provider: str, first: str) -> None:
    chat, other = targets({**THREE, "AI_PROVIDER": provider})

    assert chat[0].partition("/")[0] == first
    assert len(chat) == 3
    assert other == first


@pytest.mark.parametrize(
    ("provider", "why"),
    [
        ("groq", "AI_PROVIDER: left out, groq is not there"),
        ("opneai", "AI_PROVIDER: left out, it names no service that is known; did you mean"),
    ],
)
def test_a_preference_that_cannot_be_had_is_told(provider: str, why: str) -> None:
    assert why in made_of({**THREE, "AI_PROVIDER": provider})[1]


def test_all_targets_may_be_asked_for_one_call() -> None:
    plan, _ = made_of(EVERYTHING)

    assert plan.server.attempts == len(plan.upstreams) == 7


def test_models_that_are_set_are_asked() -> None:
    models = {"OPENAI_MODEL": "gpt-x", "GEMINI_MODEL": "gemini-x", "OLLAMA_MODEL": "qwen3:8b"}

    chat, _ = targets({**THREE, **models})

    assert chat == ["openai/gpt-x", "gemini/gemini-x", "ollama/qwen3:8b"]


def test_azure_answers_chat_by_its_deployment_alone() -> None:
    environ = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://r.example"}

    assert targets({**environ, "AZURE_OPENAI_DEPLOYMENT": "prod"}) == (["azure/prod"], "azure")
    assert targets(environ) == ([], "azure")
    assert "ask" in made_of(environ)[1] or "azure/NAME" in made_of(environ)[1]


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"OPENAI_ENABLED": "false"}, "openai: left out, OPENAI_ENABLED says so"),
        ({"OPENAI_ENABLED": "0"}, "openai: left out, OPENAI_ENABLED says so"),
        ({"OPENAI_ENABLED": "No"}, "openai: left out, OPENAI_ENABLED says so"),
        ({"OPENAI_ENABLED": "off"}, "openai: left out, OPENAI_ENABLED says so"),
        ({"AZURE_OPENAI_API_KEY": "k"}, "azure: left out, AZURE_OPENAI_ENDPOINT is not set"),
        ({"AZURE_OPENAI_ENDPOINT": "https://r"}, "azure: left out, AZURE_OPENAI_API_KEY is not"),
        ({"GROQ_ENABLED": "true"}, "groq: left out, GROQ_API_KEY is not set"),
        (
            {"ANTHROPIC_API_KEY": "k", "CLAUDE_API_KEY": "k"},
            "CLAUDE_API_KEY: left out, ANTHROPIC_API_KEY is there",
        ),
        ({"GOOGLE_API_KEY": "k"}, "GOOGLE_API_KEY: left out, GEMINI_API_KEY is there"),
        ({"REDIS_URL": "unix:///redis"}, "REDIS_URL: left out, it is no URL of Redis"),
        (
            {"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.0.0.1:6379"},
            "REDIS_PORT: left out, it is no port's number",
        ),
        ({"PORT": "http"}, "PORT: left out, it is no port's number"),
    ],
)
def test_what_is_left_out_is_told_with_the_reason(environ: dict[str, str], why: str) -> None:
    _, said = made_of({**THREE, **environ})

    assert why in said


@pytest.mark.parametrize("switch", ["true", "1", "yes", "on", "anything"])
def test_ollama_needs_no_address_where_it_is_switched_on(switch: str) -> None:
    assert base_urls({"OLLAMA_ENABLED": switch}) == {"ollama": "http://127.0.0.1:11434"}


@pytest.mark.parametrize("variable", ["CLAUDE_API_KEY", "GOOGLE_API_KEY"])
def test_other_names_of_keys_are_known(variable: str) -> None:
    plan, _ = made_of({variable: "CANARY"})

    [upstream] = plan.upstreams.values()
    assert upstream.secrets == ("CANARY",)


@pytest.mark.parametrize(
    ("environ", "store"),
    [
        ({"REDIS_URL": "rediss://h:1/2"}, "store: ${REDIS_URL} "),
        ({"REDIS_HOST": "h"}, "store: redis://${REDIS_HOST} "),
        ({"REDIS_HOST": "h", "REDIS_PORT": "7"}, "store: redis://${REDIS_HOST}:${REDIS_PORT} "),
        ({"REDIS_URL": "redis://a", "REDIS_HOST": "h"}, "store: ${REDIS_URL} "),
        ({}, "store: memory:// "),
    ],
)
def test_the_store_is_redis_where_that_is_there(environ: dict[str, str], store: str) -> None:
    text, _ = written({**THREE, **environ})

    assert text is not None and store in text
    made_of({**THREE, **environ})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_where_only_this_machine_asks_nobody_needs_a_key(host: str, here: Path) -> None:
    environ = {**THREE, "HOST": host}

    assert headrace("init", "--from-env", stdin=None, **environ).exit_code == 0
    assert headrace("check", stdin=None, **environ).exit_code == 0
    assert "chain: []" in here.read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "gateway.internal"])
def test_where_others_can_ask_they_need_a_key(host: str, here: Path) -> None:
    environ = {**THREE, "HOST": host}

    told = headrace("init", "--from-env", stdin=None, **environ)

    assert told.exit_code == 0, told.stderr
    assert "nobody is let in" in told.stderr
    assert headrace("check", stdin=None, **environ).exit_code == 0
    assert "chain: [api_key: {file: keys.yaml}]" in here.read_text()


def test_nothing_that_tells_of_a_model_makes_no_file(here: Path) -> None:
    told = headrace("init", "--from-env", PORT="80", OPENAI_API_KEY=" ", REDIS_HOST="redis")

    assert told.exit_code == 1
    assert "no model is found by the variables that are set" in told.stderr
    assert not here.exists()


def test_a_value_that_cannot_be_used_is_told_as_a_problem_of_the_file(here: Path) -> None:
    told = headrace("init", "--from-env", OPENAI_API_KEY="CANARY\n")

    assert told.exit_code == 1
    assert re.search(r"^gateway\.yaml:\d+:\d+: openai: ", told.stderr, re.MULTILINE)
    assert "CANARY" not in told.output


def test_nobody_is_asked_for_the_file(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this opens a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)

    assert headrace("init", "--from-env", stdin=None, **EVERYTHING).exit_code == 0


async def test_what_is_made_of_the_environment_answers(upstream: Loopback, here: Path) -> None:
    environ = {
        "OPENAI_API_KEY": "sk-CANARY", "OPENAI_BASE_URL": f"{upstream.url}/",
        "OLLAMA_BASE_URL": f"{upstream.url}/v1/", "AI_PROVIDER": "ollama",
    }  # fmt: skip
    assert headrace("init", "--from-env", stdin=None, **environ).exit_code == 0

    async with running(served_with(), environ) as served:
        chat, _ = await ask(served.url, "chat")
        named, _ = await ask(served.url, "gpt-4o")

    assert (chat, named) == (200, 200)
    posts = [request for request in upstream.requests if request.method == "POST"]
    assert [request.target for request in posts] == ["/api/chat", "/v1/chat/completions"]
    assert posts[1].header("authorization") == "Bearer sk-CANARY"
