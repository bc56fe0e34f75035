"""`headrace doctor`: what is well, what is not, and what to do; over real sockets."""

from __future__ import annotations

import asyncio
import email.utils
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from headrace.testing import Loopback
from headrace.testing.misbehaviour import Pause, answers, status

from ..stores.servers import VALKEY, Server, running
from .running import command, headrace

GOOD = answers({"data": [{"id": "gpt-4o"}, {"id": "org/llama"}, {"id": "qwen3:8b"}]})
MOCK = "upstreams: {a: mock}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, without a configuration."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gateway.yaml"


@pytest.fixture
async def upstream() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        server.script(GOOD)
        yield server


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


async def run(*arguments: str, **environ: str) -> Result:
    """The command, while the loop of this test answers what it asks."""
    told = partial(headrace, "doctor", *arguments, stdin=None, **environ)
    done = await asyncio.to_thread(told)
    assert isinstance(done.exception, SystemExit | None), done.exc_info
    return done


async def found(text: str, *arguments: str, **environ: str) -> dict[str, dict[str, Any]]:
    """What it finds in such a file, by what it is about."""
    Path("gateway.yaml").write_text(text)
    done = await run("--json", *arguments, **environ)
    findings = json.loads(done.stdout)
    failed = any(finding["state"] == "fail" for finding in findings)
    assert done.exit_code == failed
    assert "CANARY" not in done.stdout + done.stderr
    return {finding["about"]: finding for finding in findings}


def asking(url: str, **options: str) -> str:
    """A file with one upstream, `a`."""
    told = json.dumps({"base_url": url, **options})
    return f"upstreams:\n  a: {{forwarder: {{openai: {told}}}}}\n"


def nobody() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def test_all_is_well_where_everything_answers(upstream: Loopback, valkey: Server) -> None:
    text = f"server: {{store: '{valkey.url}'}}\n{asking(upstream.url + '/v1', api_key='sk-CANARY')}"
    told = await found(text)

    assert {finding["state"] for about, finding in told.items() if about != "open files"} == {"ok"}
    assert told["upstream a"]["says"].endswith(" ms and lists 3 models")
    assert "Valkey 9" in told["store"]["says"]
    assert told["store"]["says"].endswith("writes, reads and deletes")
    assert told["store's memory"]["says"] == "when it is full, its policy is noeviction"
    assert upstream.requests[0].header("authorization") == "Bearer sk-CANARY"
    assert valkey.tell("DBSIZE") <= 1, "only what every store keeps to try itself is left"


async def test_a_line_for_each_thing_and_the_status_says_whether_one_failed(here: Path) -> None:
    here.write_text(f"{MOCK}routes: {{m: a}}\n")

    good = await run()
    port = nobody()
    here.write_text(asking(f"http://127.0.0.1:{port}"))
    bad = await run()

    assert (good.exit_code, good.stderr) == (0, "nothing failed\n")
    assert "ok    upstream a: answers in " in good.stdout
    assert "\x1b" not in good.stdout
    assert bad.exit_code == 1
    assert (
        f"FAIL  upstream a: nobody takes connections at 127.0.0.1:{port}; "
        "start it, or see its base_url\n"
    ) in bad.stdout
    assert "1 of " in bad.stderr


@pytest.mark.parametrize(
    ("behaviour", "state", "says"),
    [
        (status(401, {"error": {"message": "sk-CANARY"}}), "fail", "it refuses the key"),
        (status(403), "fail", "it refuses the key"),
        (status(404), "fail", "it answers, but has no list of models"),
        (status(429), "warn", "it answers, but has no more to give"),
        (status(503), "fail", "it is not well (HTTP 503)"),
        ("redirect", "fail", "it answers that it is elsewhere (HTTP 302)"),
        ("html-200", "fail", "what answers at {} is no list of models"),
        (answers({"models": []}), "fail", "what answers at {} is no list of models"),
        ("garbage", "fail", "what answers at {} does not speak HTTP"),
        ("close", "fail", "{} ends the connection without an answer"),
        ("never", "fail", "no answer from {} within 1s"),
    ],
)
async def test_what_is_wrong_with_an_upstream_is_told(
    behaviour: Any, state: str, says: str, upstream: Loopback
) -> None:
    upstream.script(behaviour)

    told = await found(asking(upstream.url, api_key="sk-CANARY"), "--timeout", "1s")

    assert told["upstream a"]["state"] == state
    place = upstream.url.removeprefix("http://").removesuffix("/v1")
    assert told["upstream a"]["says"].startswith(says.replace("{}", place))
    assert told["upstream a"]["advice"]


async def test_a_key_that_is_part_of_any_word_hides_none() -> None:
    port = nobody()
    told = await found(asking(f"http://127.0.0.1:{port}", api_key="a"))

    assert told["upstream a"]["says"] == f"nobody takes connections at 127.0.0.1:{port}"


async def test_a_host_that_is_none_is_told() -> None:
    told = await found(asking("http://nowhere.invalid/v1"))

    assert told["upstream a"]["says"] == "the host of nowhere.invalid:80 has no address"


async def test_a_slow_upstream_is_told(upstream: Loopback) -> None:
    upstream.script((Pause(2.1), *GOOD))

    told = await found(asking(upstream.url), "--timeout", "10s")

    assert told["upstream a"]["state"] == "warn"
    assert told["upstream a"]["advice"] == "that is slow; where is it?"


async def test_all_are_asked_at_the_same_time() -> None:
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(Loopback()) for _ in range(8)]
        for each in silent:
            each.script("never")
        places = [each.url.removeprefix("http://") for each in silent]
        text = "".join(
            f"  u{number}: {{forwarder: {{openai: {{base_url: '{each.url}'}}}}}}\n"
            for number, each in enumerate(silent)
        )
        began = time.monotonic()
        told = await found(f"upstreams:\n{text}", "--timeout", "3s")
        took = time.monotonic() - began

    for number, place in enumerate(places):
        assert told[f"upstream u{number}"]["says"] == f"no answer from {place} within 3s"
    assert took < 8 * 3, "one after the other, it would take that long"


async def test_a_model_that_is_asked_for_and_not_there_is_told(upstream: Loopback) -> None:
    text = asking(upstream.url).replace("}}}", "}}, models: {smart: gpt-4o, odd: gpt-0}}")
    routes = "routes: {x: a/smart, y: a/llama, z: a/qwen3, w: a/gpt-9, '*': a}\n"

    told = await found(text + routes)

    assert told["upstream a"]["state"] == "warn"
    assert told["upstream a"]["says"].endswith("but not 'gpt-0' (its models), 'gpt-9' (route 'w')")


async def test_an_upstream_is_asked_for_its_health_too(upstream: Loopback) -> None:
    upstream.script(lambda asked: GOOD if asked.target == "/v1/models" else status(500))
    text = asking(f"{upstream.url}/v1").replace("}}}", "}}, health: {path: /ping}}")
    Path("gateway.yaml").write_text(text)

    done = await run()

    assert done.exit_code == 1
    assert "ok    upstream a: answers in" in done.stdout
    assert "FAIL  upstream a: its probe failed with HTTP 500" in done.stdout


async def test_an_upstream_that_is_disabled_is_not_asked(upstream: Loopback) -> None:
    text = asking(upstream.url).replace("}}}", "}}, enabled: ''}")

    told = await found(text)

    assert told["upstream a"]["says"] == "disabled, so it was not asked"
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, "ok"), (10, "warn"), (-10, "warn"), (90, "fail")]
)
async def test_the_clock_is_compared_with_those_who_answer(
    seconds: int, state: str, upstream: Loopback
) -> None:
    date = email.utils.formatdate(time.time() - seconds, usegmt=True)
    upstream.script(answers({"data": []}, f"date: {date}"))

    told = await found(asking(upstream.url))

    assert told["clock"]["state"] == state
    if seconds:
        assert ("ahead of" if seconds > 0 else "behind") in told["clock"]["says"]


async def test_without_an_answer_nobody_tells_the_time() -> None:
    assert (await found(MOCK))["clock"]["says"] == "nobody who answered told the time"


# The store


async def test_a_store_that_is_down_is_told() -> None:
    port = nobody()
    told = await found(f"server: {{store: 'redis://:CANARY@127.0.0.1:{port}'}}\n{MOCK}")

    assert told["store"]["state"] == "fail"
    assert told["store"]["says"] == f"no answer from 127.0.0.1:{port}: it refuses connections"
    assert "store's clock" not in told


async def test_a_store_that_wants_another_password_is_told() -> None:
    with running(VALKEY, password="right") as server:
        url = server.url.replace("//", "//:CANARY@")

        told = await found(f"server: {{store: '{url}'}}\n{MOCK}")

    assert told["store"]["state"] == "fail"
    assert "it wants a user and a password, and not these" in told["store"]["says"]


async def test_a_store_that_says_nothing_is_told() -> None:
    with running(VALKEY) as server:
        server.pause()
        try:
            told = await found(f"server: {{store: '{server.url}'}}\n{MOCK}")
        finally:
            server.resume()

    assert told["store"]["state"] == "fail"


async def test_a_store_that_may_forget_what_is_in_use_is_told() -> None:
    with running(VALKEY, "--maxmemory-policy", "allkeys-lru") as server:
        told = await found(f"server: {{store: '{server.url}'}}\n{MOCK}")

    assert told["store"]["state"] == "ok"
    assert told["store's memory"]["state"] == "warn"
    assert "allkeys-lru" in told["store's memory"]["says"]


async def test_memory_has_no_clock_and_no_server() -> None:
    told = await found(MOCK)

    assert told["store"]["says"].startswith("this process's own memory")
    assert not {"store's clock", "store's memory"} & told.keys()


# Keys, the machine, and the file

JWKS = {
    "keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]
}


@pytest.mark.parametrize("around", ["[{}]", "[any_of: {{plugins: [{}, api_key: {{keys: {{}}}}]}}]"])
@pytest.mark.parametrize(
    ("behaviour", "state", "says"),
    [
        (answers(JWKS), "ok", "1 key from "),
        (status(503), "fail", "no keys from "),
        (answers({"keys": []}), "fail", "no keys from "),
    ],
)
async def test_the_keys_of_tokens_are_fetched(
    behaviour: Any, state: str, says: str, around: str, upstream: Loopback
) -> None:
    upstream.script(behaviour)
    jwks = f"{upstream.url}/keys?token=CANARY"
    plugin = f"jwt_auth: {{issuer: '{upstream.url}', audience: a, jwks: '{jwks}'}}"
    about = "jwt_auth" if around == "[{}]" else "any_of"

    told = await found(f"server: {{chain: {around.format(plugin)}}}\n{MOCK}")

    assert told[about]["state"] == state
    assert told[about]["says"].startswith(says)


async def test_it_says_what_a_gateway_would_run_on() -> None:
    told = await found(MOCK)

    assert told["version"]["says"].startswith("Headrace ")
    assert told["runs on"]["says"].startswith("uvloop ")
    assert "httptools" in told["runs on"]["says"] and "aiohttp" in told["runs on"]["says"]


async def test_few_open_files_are_told(here: Path) -> None:
    here.write_text(MOCK)
    limited = ["bash", "-c", 'ulimit -n 512; exec "$@"', "bash"]
    done = subprocess.run([*limited, *command("doctor")], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "warn  open files: 512 at most, and each call takes two; ulimit -n 512" in done.stdout


async def test_what_serve_would_refuse_is_told() -> None:
    told = await found(MOCK, HOST="0.0.0.0")

    assert told["server"]["state"] == "fail"
    assert "nobody asks them for a key" in told["server"]["says"]


async def test_problems_of_the_file_are_told_as_ever(here: Path) -> None:
    here.write_text("upstreams: {a: mook}\n")

    done = await run()

    assert done.exit_code == 1
    assert "did you mean 'mock'?" in done.stderr


async def test_without_a_file_what_serve_would_find_is_tried(upstream: Loopback) -> None:
    environ = {"OPENAI_API_KEY": "sk-CANARY", "OPENAI_BASE_URL": upstream.url}

    done = await run("--json", OLLAMA_HOST="127.0.0.1:1", **environ)

    assert "there is no ./gateway.yaml; found: openai" in done.stderr
    assert {"upstream openai"} <= {finding["about"] for finding in json.loads(done.stdout)}


async def test_a_part_that_fails_to_look_is_told_and_the_others_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.cli.doctor_looks import Look, _all
    from headrace.finding import Finding

    async def half() -> AsyncIterator[Finding]:
        yield Finding(says="it began")
        raise KeyError("CANARY")

    async def well() -> AsyncIterator[Finding]:
        yield Finding(about="its own", says="all is well")

    looks = [Look(about="half", findings=half), Look(about="well", findings=well)]
    findings = await _all(looks, 1, lambda done, total: None)

    assert [(each.about, each.state, each.says) for each in findings] == [
        ("half", "ok", "it began"),
        ("half", "fail", "trying it failed with KeyError"),
        ("its own", "ok", "all is well"),
    ]
