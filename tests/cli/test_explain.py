"""`headrace explain`: what was understood, and what would leave; nothing opened, no secret told."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from headrace.version import __version__

from .running import headrace

HASH = "51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465"
HOUSE = f"""
server:
  max_body: 64MB
  attempts: 2
  timeouts: {{connect: 2s}}
  middleware:
    - starlette.middleware.cors:CORSMiddleware: {{allow_origins: [https://chat.example.com]}}
  chain:
    - api_key: {{keys: {{{HASH}: payments}}}}
    - transform: {{default: {{temperature: 0}}}}
upstreams:
  azure-eu:
    forwarder: {{openai: {{base_url: https://eu.example.com/v1, api_key: "${{KEY:-sk-CANARY-1}}"}}}}
    labels: {{region: eu}}
    models: {{gpt-4o: prod-4o-eu}}
    plugins: [retry: {{attempts: 3}}, transform: {{set: {{user: headrace}}}}]
  openai: {{forwarder: openai, enabled: "${{OPENAI_API_KEY:+true}}"}}
  local: {{forwarder: {{ollama: {{base_url: http://ollama:11434}}}}, ask_usage: false}}
  here: mock
chains:
  careful: [retry, fallback]
routes:
  gpt-*: {{chain: careful, targets: [azure-eu, local/a, local/b]}}
  fast:
    chain: [fallback, retry, fallback]
    targets: [[azure-eu/gpt-4o, openai], [local/llama3.3]]
  /v1/files*: azure-eu
  /v1/batches: openai
  "*": here
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which nothing can be opened but files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(HOUSE)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("something was opened")

    for name in ("connect", "connect_ex", "bind", "listen", "sendto"):
        monkeypatch.setattr(socket.socket, name, opened)
    monkeypatch.setattr(socket, "getaddrinfo", opened)
    monkeypatch.setattr(subprocess.Popen, "__init__", opened)
    return tmp_path


def explained(*arguments: str, **options: Any) -> str:
    told = headrace("explain", *arguments, **options)
    assert told.exit_code == 0, told.output
    return told.stdout


def told(*arguments: str, **options: Any) -> Any:
    return json.loads(explained(*arguments, "--json", **options))


def test_the_outline_goes_the_way_of_a_call() -> None:
    assert explained() == (
        """\
every call
  reaches 127.0.0.1:8080, from whoever api_key lets in
  is served with max_body: 64MB
  passes the middleware starlette.middleware.cors:CORSMiddleware \
{allow_origins: [https://chat.example.com]}
  passes api_key {keys: [payments]}
  passes transform {default: {temperature: 0}}
  takes its route, with at most 2 attempts
  is told to access_log
  shares what must be shared in memory

routes, the first that fits
  fast
    fallback
      retry
        fallback
          azure-eu/gpt-4o
      retry
        fallback
          local/llama3.3
    skips openai: disabled
  gpt-*
    retry
      fallback
        azure-eu
        local/a
        local/b
    asks at most 2 of these 3, as many as a call may make attempts
  azure-eu/… local/… here/…
    that upstream, for the model behind the slash
  *
    here
  /v1/batches
    nobody: every upstream of it is disabled
    skips openai: disabled
  /v1/files*
    azure-eu

upstreams
  azure-eu: openai {base_url: https://eu.example.com/v1, api_key: ***}
    passes retry {attempts: 3}
    passes transform {set: {user: headrace}}
    models gpt-4o (there prod-4o-eu)
    labels region: eu
    timeouts connect: 2s
  local: ollama {base_url: http://ollama:11434}
    passes transform {to: ollama}, inside each attempt
    timeouts connect: 2s, first_event: 5m, idle: 5m
    is not asked for token counts
  here: mock
    timeouts connect: 2s
  openai: disabled
"""
    )


def test_an_empty_gateway_has_little_to_tell(here: Path) -> None:
    (here / "gateway.yaml").write_text("upstreams: {}")

    assert "upstreams\n  none" in explained()


@pytest.mark.parametrize(
    ("server", "who"),
    [
        ("{}", "from everybody on this machine; on another address it would not start"),
        ("{auth: none, host: 0.0.0.0}", "from everybody, for it says 'auth: none'"),
        ("{host: 0.0.0.0}", "but it does not start on that address: no plugin authenticates"),
    ],
)
def test_it_says_who_may_ask(here: Path, server: str, who: str) -> None:
    (here / "gateway.yaml").write_text(f"server: {server}")

    assert who in explained()


def test_a_model_is_followed_to_what_would_leave() -> None:
    assert (
        explained("--model", "gpt-4o")
        .replace(__version__, "VERSION")
        .startswith(
            """\
POST /v1/chat/completions for gpt-4o takes the route gpt-*
  passes api_key {keys: [payments]}
  passes transform {default: {temperature: 0}}
  retry
    fallback
      azure-eu
      local/a
      local/b
  asks at most 2 of these 3, as many as a call may make attempts
  makes at most 2 attempts, repeated ones included

1. azure-eu
  passes retry {attempts: 3}
  passes transform {set: {user: headrace}}
  POST https://eu.example.com/v1/chat/completions
  content-type: application/json
  user-agent: headrace/VERSION
  accept-encoding: identity
  authorization: Bearer ***

  {
    "model": "prod-4o-eu",
    "messages": [
      {
        "role": "user",
        "content": "Say hello."
      }
    ],
    "temperature": 0,
    "user": "headrace"
  }

2. local/a
"""
        )
    )


def test_each_target_gets_its_own_dialect_and_model() -> None:
    requests = told("--model", "gpt-4o")["requests"]

    assert [(r["target"], r["url"], r["body"]["model"]) for r in requests] == [
        ("azure-eu", "https://eu.example.com/v1/chat/completions", "prod-4o-eu"),
        ("local/a", "http://ollama:11434/api/chat", "a"),
        ("local/b", "http://ollama:11434/api/chat", "b"),
    ]


def test_what_is_skipped_is_asked_once_it_is_enabled() -> None:
    targets = [r["target"] for r in told("--model", "fast", OPENAI_API_KEY="k")["requests"]]

    assert targets == ["azure-eu/gpt-4o", "openai", "local/llama3.3"]


def test_a_request_is_followed_with_all_its_members(here: Path) -> None:
    (here / "request.json").write_text(
        '{"model": "gpt-4o", "messages": [], "seed": 7, "top_p": 1.0}'
    )

    (first, *_) = told("--request", "request.json")["requests"]

    assert first["body"] == {
        "model": "prod-4o-eu",
        "messages": [],
        "seed": 7,
        "top_p": 1.0,
        "temperature": 0,
        "user": "headrace",
    }


def test_a_request_may_come_from_standard_input_and_ask_another_model() -> None:
    body = b'{"model": "gpt-4o", "messages": []}'

    assert told("--request", "-", "--model", "fast", stdin=body)["route"] == "fast"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ("{", "the client gets a 400: the body is not usable JSON"),
        ("[]", "the client gets a 400: the body must be a JSON object"),
        ('{"messages": []}', "the client gets a 400: 'model' must be a model's name"),
    ],
)
def test_a_request_that_is_wrong_is_told_what_its_client_would_be(
    here: Path, body: str, refusal: str
) -> None:
    (here / "request.json").write_text(body)

    assert refusal in explained("--request", "request.json")


@pytest.mark.parametrize(
    ("path", "member"),
    [("/v1/embeddings", "input"), ("/v1/completions", "prompt"), ("/chat/completions", "messages")],
)
def test_a_model_is_asked_what_its_path_is_for(path: str, member: str) -> None:
    (first, *_) = told("--model", "gpt-4o", "--path", path)["requests"]

    assert first["url"].endswith(path.removeprefix("/v1"))
    assert member in first["body"]


def test_a_model_without_a_route_gets_a_404(here: Path) -> None:
    (here / "gateway.yaml").write_text("upstreams: {a: mock}\nroutes: {x: a}")

    assert explained("--model", "y").endswith("for y: no route fits; the client gets a 404\n")


def test_a_path_is_followed_as_it_is_passed_through() -> None:
    (request,) = told("--path", "/v1/files/abc")["requests"]

    assert (request["method"], request["url"]) == ("GET", "https://eu.example.com/v1/files/abc")
    assert "content-type" not in request["headers"]


def test_a_request_that_asks_one_target_is_told_how_often() -> None:
    assert "\n  makes at most 2 attempts, repeated ones included\n" in explained("--model", "other")


def test_a_route_whose_upstreams_are_disabled_gets_a_503() -> None:
    assert explained("--path", "/v1/batches") == (
        "GET /v1/batches takes the route /v1/batches\n"
        "  passes api_key {keys: [payments]}\n"
        "  passes transform {default: {temperature: 0}}\n"
        "  nobody: every upstream of it is disabled\n"
        "  skips openai: disabled\n"
        "  the client gets a 503\n"
    )


def test_the_list_of_models_is_the_gateways_own() -> None:
    assert "the gateway itself answers this" in explained("--path", "/v1/models")


def test_an_upstream_that_needs_no_request_says_so() -> None:
    assert "is not asked: it answers by itself" in explained("--model", "other")


def test_more_targets_than_attempts_are_all_explained(here: Path) -> None:
    targets = ", ".join(f"a/m{n}" for n in range(5))
    (here / "gateway.yaml").write_text(
        f"upstreams: {{a: openai}}\nroutes: {{x: {{chain: [fallback], targets: [{targets}]}}}}"
    )

    assert [r["body"]["model"] for r in told("--model", "x")["requests"]] == [
        "m0",
        "m1",
        "m2",
        "m3",
        "m4",
    ]


def test_weights_are_told_as_they_are_written(here: Path) -> None:
    (here / "gateway.yaml").write_text("""
        upstreams: {a: mock, b: mock, c: mock}
        routes:
          x: {chain: [fallback, fallback], targets: [[a/m: {weight: 9}, b: {weight: 0.5}], c]}
        """)

    assert (
        "        a/m {weight: 9}\n        b {weight: 0.5}\n      fallback\n        c\n"
        in explained()
    )
    assert told()["routes"]["x"]["targets"] == [
        [{"a/m": {"weight": 9}}, {"b": {"weight": 0.5}}],
        "c",
    ]


def test_the_outline_is_there_for_programs() -> None:
    outline = told()

    assert outline["who_may_ask"] == ["api_key"]
    assert list(outline["routes"]) == ["fast", "gpt-*", "*", "/v1/batches", "/v1/files*"]
    assert outline["routes"]["fast"] == {
        "chain": [{"fallback": {}}, {"retry": {}}, {"fallback": {}}],
        "tried_by": ["fallback", "fallback"],
        "targets": [["azure-eu/gpt-4o"], ["local/llama3.3"]],
        "skipped": ["openai"],
    }
    assert outline["upstreams"]["local"]["timeouts"] == {
        "connect": "2s",
        "first_event": "5m",
        "idle": "5m",
        "total": "10m",
    }
    assert outline["disabled"] == ["openai"]


def test_a_file_with_problems_is_not_explained(here: Path) -> None:
    (here / "gateway.yaml").write_text("upstreams: {a: mook}")

    told = headrace("explain")

    assert (told.exit_code, told.stdout) == (1, "")
    assert "did you mean 'mock'?" in told.stderr


def test_what_is_unset_can_be_explained_around(here: Path) -> None:
    (here / "gateway.yaml").write_text(
        """
        upstreams:
          a: {forwarder: {openai: {api_key: "${KEY}", base_url: "https://${HOST}/v1"}}}
          b: "${FORWARDER}"
        routes:
          x: {chain: [fallback], targets: [a, b]}
        """
    )

    assert headrace("explain").exit_code == 1
    (request,) = told("--model", "x", "--unset-ok")["requests"]
    assert request["url"] == "https://unset/v1/chat/completions"


SECRETS = """
server:
  chain: [transform: {headers: {authorization: CANARY-a, x-team: "${KEY}"}}]
upstreams:
  key: {forwarder: {openai: {api_key: "${KEY}"}}}
  literal: {forwarder: {openai: {api_key: CANARY-b}}}
  file: {forwarder: {openai: {api_key: "${file:key}", headers: {x-file: "${file:key}"}}}}
  url: {forwarder: {openai: {base_url: "https://host/${KEY}/v1"}}}
  headers:
    forwarder: {openai: {headers: {x-api-key: CANARY-e, x-any: "${KEY}", cookie: CANARY-f}}}
  ollama: {forwarder: {ollama: {api_key: "${KEY}", headers: {authorization: Basic CANARY-g}}}}
  outgoing: {forwarder: openai, plugins: [transform: {headers: {x-secret: CANARY-h}}]}
  body:
    forwarder: openai
    plugins: [transform: {headers: {x-any: "${KEY}"}, set: {user: "${KEY}"}}]
chains:
  c: [transform: {headers: {x-any: "${KEY}"}}, fallback]
routes:
  x: {chain: c, targets: [key, literal, file, url, headers, ollama, outgoing, body]}
"""


@pytest.mark.parametrize("arguments", [[], ["--model", "x"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_is_told(here: Path, arguments: list[str], form: list[str]) -> None:
    (here / "gateway.yaml").write_text(SECRETS)
    (here / "key").write_text("CANARY-file\n")

    text = explained(*arguments, *form, KEY="CANARY-key")

    assert "***" in text
    assert "CANARY" not in text


def test_a_secret_as_short_as_a_word_does_not_blot_out_others(here: Path) -> None:
    (here / "gateway.yaml").write_text(
        "upstreams: {a: {forwarder: {openai: {api_key: user}}}}\nroutes: {x: a}"
    )

    (request,) = told("--model", "x")["requests"]

    assert request["body"]["messages"][0]["role"] == "user"
    assert request["headers"]["authorization"] == "Bearer ***"


def test_the_gateway_of_this_repository_is_explained() -> None:
    file = str(Path(__file__).parents[2] / "gateway.yaml")

    assert "smollm2-135m-instruct\n    local/smollm2-135m-instruct" in explained(file)
    assert "http://127.0.0.1:(a free port)/v1/" in explained(file, "--model", "gpt-4o")


CALLERS = f"""
server: {{chain: [api_key: {{keys: {{{HASH}: ann}}}}]}}
callers:
  default: {{models: [fast], only: {{region: eu}}}}
  payments: {{match: {{tenant: [pay, bill], plan: gold}}, models: [fast, "gpt-*"], only: {{}}}}
  robots: {{match: {{key: {HASH}}}, models: []}}
upstreams:
  eu: {{forwarder: mock, labels: {{region: eu}}}}
  us: {{forwarder: mock, labels: {{region: us}}}}
routes:
  fast: {{chain: [fallback], targets: [us, eu]}}
  gpt-4o: us
"""


@pytest.fixture
def teams(here: Path) -> None:
    (here / "gateway.yaml").write_text(CALLERS)


@pytest.mark.usefixtures("teams")
def test_callers_are_told_with_what_they_are_granted() -> None:
    assert explained().partition("callers, the first that fits\n")[2].partition("\n\n")[0] == (
        """\
  payments
    is whoever has tenant pay or bill and plan gold
    may use fast, gpt-*
  robots
    is whoever has a key
    may use no model
    only of upstreams with region: eu
  default
    is everybody else
    may use fast
    only of upstreams with region: eu"""
    )
    assert HASH not in explained()


@pytest.mark.usefixtures("teams")
@pytest.mark.parametrize(
    ("caller", "model", "said"),
    [
        ("payments", "fast", "for payments, takes the route fast"),
        ("payments", "fast", "    us\n    eu"),
        ("payments", "gpt-4o", "1. us"),
        ("default", "fast", "1. eu"),
        ("default", "gpt-4o", "default may not use this; the client gets a 404"),
        ("robots", "fast", "robots may not use this; the client gets a 404"),
    ],
)
def test_a_request_is_explained_for_a_caller(caller: str, model: str, said: str) -> None:
    assert said in explained("--caller", caller, "--model", model)


@pytest.mark.usefixtures("teams")
def test_an_upstream_without_the_wanted_labels_is_not_asked(here: Path) -> None:
    (here / "gateway.yaml").write_text(CALLERS.replace("models: [fast]", "models: [gpt-4o]"))

    assert explained("--caller", "default", "--model", "gpt-4o").endswith(
        "  nobody\n  default gets a 403: none of its upstreams has the wanted labels\n"
    )


@pytest.mark.usefixtures("teams")
def test_a_caller_that_is_not_there_is_told() -> None:
    told = headrace("explain", "--caller", "payment", "--model", "fast")

    assert told.exit_code == 2
    assert "no caller is called 'payment'; there are payments, robots, default" in told.stderr
