"""Which route a model or a path takes, and what the list of models says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest

from headrace import (
    OPENAI,
    PASSTHROUGH,
    Attempt,
    Call,
    CallError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Reply,
    Target,
    Timeouts,
    UpstreamError,
    leaves,
)
from headrace.attempts import Upstream
from headrace.routing import Route, Router, Routes, _some
from headrace.testing import Clock, call, raw

KEYS = ["*", "gpt-*", "gpt-4*", "gpt-4o", "*-mini", "local/x", "a/*", "/v1/files*", "/v1/files/x"]


def route(key: str, *targets: str) -> Route:
    return Route(key=key, targets=tuple(Target(*t.split("/", 1)) for t in targets or ("a",)))


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4", "gpt-4*"),
        ("gpt-4o-2", "gpt-4*"),
        ("gpt-3.5", "gpt-*"),
        ("gpt-3.5-mini", "*-mini"),
        ("local/x", "local/x"),
        ("a/b", "a/*"),
        ("b/gpt-4o", "b/*"),
        ("b/", "*"),
        ("c/gpt-4o", "*"),
        ("other", "*"),
        ("GPT-4o", "*"),
        ("/v1/files", "*"),
        ("gpt-4o\n", "gpt-4*"),
    ],
)
def test_a_model_takes_the_most_exact_route(model: str, key: str) -> None:
    found = Routes(map(route, KEYS), ["a", "b"]).for_model(model)

    assert found
    assert found.key == key


def test_the_order_of_the_file_decides_nothing() -> None:
    for keys in (KEYS, KEYS[::-1]):
        found = Routes(map(route, keys), []).for_model("gpt-4")
        assert found
        assert found.key == "gpt-4*"


def test_a_model_behind_an_upstreams_name_is_asked_there() -> None:
    found = Routes([route("*")], ["hub"]).for_model("hub/meta/llama-3")

    assert found
    assert found.targets == (Target("hub", "meta/llama-3"),)


def test_without_a_star_an_unknown_model_has_no_route() -> None:
    assert Routes([route("gpt-4o")], ["a"]).for_model("gpt-5") is None


@pytest.mark.parametrize("key", ["gpt-4.1", "a+b", "(x)", "[x]", "a|b", "^a$"])
def test_only_the_star_is_special_in_a_key(key: str) -> None:
    routes = Routes([route(key), route(f"{key}*")], [])

    assert routes.for_model(key)
    assert routes.for_model(f"{key}!")
    assert routes.for_model("gpt-441") is None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/files", "/v1/files*"),
        ("/v1/files/x", "/v1/files/x"),
        ("/v1/files/y", "/v1/files*"),
        ("/v1/models/gpt-4o", None),
        ("gpt-4o", None),
    ],
)
def test_a_path_takes_the_most_exact_route(path: str, key: str | None) -> None:
    found = Routes(map(route, KEYS), ["a"]).for_path(path)

    assert (found and found[0].key) == key


class Gateway:
    """A router over upstreams that answer with the name of the target."""

    def __init__(
        self,
        *routes: Route,
        listings: Mapping[str, Callable[[], Awaitable[list[str]]]] | None = None,
        patience: float = 600,
        **upstreams: list[str],
    ) -> None:
        self.asked: list[Call] = []
        made = {
            name: Upstream(
                name=name,
                forward=self.answer,
                models={model: model for model in models},
                timeouts=Timeouts(total=patience if name == "patient" else 600),
            )
            for name, models in upstreams.items()
        }
        self.router = Router(routes, made, self.answer, dialects=(OPENAI,), listings=listings)

    async def answer(self, call: Call) -> Reply:
        self.asked.append(call)
        return Reply.plain({"target": str(next(leaves(call.targets)))})

    async def ask(self, path: str, *, method: str = "POST", **members: Any) -> Any:
        operation = OPENAI.operation(method, path) or PASSTHROUGH
        asked = call(seconds=math.inf, **members).replace(
            path=path, method=method, operation=operation
        )
        return orjson.loads(await raw(await self.router(asked)))

    async def chat(self, model: str) -> Any:
        return (await self.ask("/v1/chat/completions", model=model))["target"]

    async def refused(self, path: str, **options: Any) -> CallError:
        with pytest.raises(CallError) as raised:
            await self.ask(path, **options)
        return raised.value

    async def listed(self) -> list[str]:
        models = await self.ask("/v1/models", method="GET")
        return [model["id"] for model in models["data"]]


async def test_a_call_goes_to_the_targets_of_its_route() -> None:
    gateway = Gateway(route("fast", "a/small", "b"), a=[], b=[])

    assert await gateway.chat("fast") == "a/small"
    (asked,) = gateway.asked
    assert asked.targets == (Target("a", "small"), Target("b"))
    assert (asked.record.route, asked.record.asked) == ("fast", "fast")


async def test_a_call_has_the_time_of_its_most_patient_target() -> None:
    gateway = Gateway(route("fast", "a", "patient"), a=[], patient=[], patience=900)

    await gateway.chat("fast")

    assert 899 < gateway.asked[0].deadline.left() <= 900


@pytest.mark.parametrize(
    ("asked", "instead"),
    [("gpt-4o", False), ("claude", True), ("a/claude", False), ("o3", False)],
)
async def test_a_model_that_stands_in_for_another_is_recorded(asked: str, instead: bool) -> None:
    gateway = Gateway(route("gpt-4o", "a/other"), route("o*", "a"), route("*", "a/llama"), a=[])

    await gateway.chat(asked)

    (given,) = gateway.asked
    given.record.attempts.append(Attempt(target=next(leaves(given.targets))))
    assert given.record.instead is instead


async def test_a_path_is_passed_through() -> None:
    gateway = Gateway(route("/v1/files*", "a"), a=[])

    await gateway.ask("/v1/files/abc")

    assert gateway.asked[0].operation == PASSTHROUGH


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/embeddings", "embedding"),
    ],
)
async def test_a_pattern_does_not_take_a_dialects_own_paths(path: str, operation: str) -> None:
    gateway = Gateway(route("/*", "b"), route("m", "a"), a=[], b=[])

    await gateway.ask(path)

    assert gateway.asked[0].operation == operation
    assert gateway.asked[0].record.route == "m"


async def test_an_exact_path_takes_even_a_dialects_own() -> None:
    gateway = Gateway(route("/v1/embeddings", "b"), route("m", "a"), a=[], b=[])

    await gateway.ask("/v1/embeddings")

    assert gateway.asked[0].operation == PASSTHROUGH
    assert gateway.asked[0].record.route == "/v1/embeddings"


async def test_a_path_that_nobody_serves_is_told_where_to_go() -> None:
    error = await Gateway(a=[]).refused("/v1/chat")

    assert isinstance(error, NotFound)
    assert error.code == "unknown_url"
    assert "POST /v1/chat/completions" in error.message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET")],
)
async def test_the_wrong_method_is_told_the_right_one(method: str, path: str, allowed: str) -> None:
    error = await Gateway(a=[]).refused(path, method=method)

    assert isinstance(error, MethodNotAllowed)
    assert error.headers["allow"] == allowed


async def test_a_route_whose_upstreams_are_all_disabled_says_so() -> None:
    gateway = Gateway(Route(key="fast", targets=()), a=[])

    error = await gateway.refused("/v1/chat/completions", model="fast")

    assert isinstance(error, Overloaded)
    assert error.code == "no_upstream_enabled"


async def test_an_unknown_model_is_told_its_likes() -> None:
    gateway = Gateway(route("gpt-4o"), route("gpt-4o-mini"), route("llama"), a=["Mistral"])

    error = await gateway.refused("/v1/chat/completions", model="GPT-4")
    mistral = await gateway.refused("/v1/chat/completions", model="mistral")

    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "gpt-4o, gpt-4o-mini?" in error.message
    assert "llama" not in error.message
    assert "a/Mistral" in mistral.message


async def test_an_unknown_model_with_no_like_is_told_the_first_few() -> None:
    gateway = Gateway(*(route(f"model-{n}") for n in range(9)), a=[])

    error = await gateway.refused("/v1/chat/completions", model="zzz")

    assert "model-0, model-1, model-2, model-3, model-4?" in error.message


async def test_models_are_those_that_can_be_asked_for_by_name() -> None:
    gateway = Gateway(
        route("fast", "a/small"),
        route("gpt-*", "b"),
        route("*", "a"),
        route("/v1/files", "a"),
        Route(key="off", targets=()),
        a=["small", "big"],
        b=[],
    )

    assert await gateway.listed() == ["fast", "a/small", "a/big"]


async def test_a_model_is_listed_as_openai_lists_it() -> None:
    gateway = Gateway(route("fast", "a/small"), a=[])

    listed = await gateway.ask("/v1/models", method="GET")

    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert {**model, "created": 1} == {
        "id": "fast",
        "object": "model",
        "created": 1,
        "owned_by": "a",
    }
    assert isinstance(model["created"], int)


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/v1/models/fast", "a"),
        ("/models/fast", "a"),
        ("/v1/models/b/meta/llama", "b"),
        ("/v1/models/hub/meta/any", "hub"),
        ("/v1/models/gpt-9", "b"),
    ],
)
async def test_a_model_is_retrieved_by_its_id_slashes_and_all(path: str, owner: str) -> None:
    gateway = Gateway(route("fast", "a"), route("gpt-*", "b"), a=[], b=["meta/llama"], hub=[])

    model = await gateway.ask(path, method="GET")

    assert model["owned_by"] == owner
    assert path.endswith(model["id"])


@pytest.mark.parametrize("model", ["nope", "off"])
async def test_a_model_that_is_not_there_cannot_be_retrieved(model: str) -> None:
    gateway = Gateway(route("fast", "a"), Route(key="off", targets=()), a=[])

    assert (await gateway.refused(f"/v1/models/{model}", method="GET")).status == 404


async def test_an_upstream_that_declares_no_models_is_asked_once_a_minute(clock: Clock) -> None:
    answers = [["one"], ["two"]]

    async def offers() -> list[str]:
        return answers.pop(0)

    gateway = Gateway(a=[], listings={"a": offers})

    assert await gateway.listed() == ["a/one"]
    assert await gateway.listed() == ["a/one"]
    clock.advance(61)
    assert await gateway.listed() == ["a/two"]


async def test_an_upstream_that_declares_its_models_is_not_asked() -> None:
    async def offers() -> list[str]:
        raise AssertionError("asked")

    assert await Gateway(a=["x"], listings={"a": offers}).listed() == ["a/x"]


async def test_an_upstream_that_does_not_answer_holds_up_nobody(clock: Clock) -> None:
    clock.jumps = True

    async def never() -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def down() -> list[str]:
        raise UpstreamError("nobody is there", code="connect_failed")

    gateway = Gateway(route("fast"), a=[], b=[], listings={"a": never, "b": down})
    before = clock.now

    assert await gateway.listed() == ["fast"]
    assert clock.now - before < 3


async def test_what_an_upstream_listed_stays_while_it_is_down(clock: Clock) -> None:
    answers: list[list[str]] = [["one"]]

    async def offers() -> list[str]:
        if not answers:
            raise UpstreamError("nobody is there", code="connect_failed")
        return answers.pop()

    gateway = Gateway(a=[], listings={"a": offers})
    await gateway.listed()
    clock.advance(61)

    assert await gateway.listed() == ["a/one"]


def test_a_key_of_many_stars_is_matched_in_one_go() -> None:
    routes = Routes([route("/*/*/*/*/x", "a")], ["a"])

    assert routes.for_path("/" * 8000) is None  # trying every place again would take hours
    assert routes.for_path("/1/2/3/4/5/x") is not None


def test_a_wrong_name_is_compared_with_a_few_of_thousands() -> None:
    names = [f"model-{number}" for number in range(5_000)] + ["gpt-4o", "x" * 300]

    assert len(_some(names, "gpt-5")) == 50
    assert _some(names, "GPT-5")[0] == "gpt-4o"
    assert "x" * 300 not in _some(names, "x")
