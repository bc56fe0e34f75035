"""What is served without a configuration: found by the forwarders, written as a file would be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from headrace import Found, Target, registry
from headrace.config.build import build
from headrace.config.document import parse
from headrace.config.found import look, written
from headrace.config.plan import Plan

from .conftest import Mock, OpenAI, Told, points


def finding(*found: Found) -> type:
    class Finding(Mock):
        @classmethod
        async def find(cls, environ: Mapping[str, str]) -> list[Found]:
            return list(found)

    return Finding


@pytest.fixture
def forwarders(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the only forwarders there are; `azure` is always there, and cannot be loaded."""

    def install(**kinds: type) -> None:
        found = {"forwarders": points(azure=None, **kinds), "observers": points(access_log=Told)}
        monkeypatch.setattr(registry, "_found", lambda group: found.get(group, {}))

    return install


def planned(*found: tuple[str, Found], **environ: str) -> Plan:
    return build(parse(written(found), "what was found", environ))


async def test_the_best_comes_first_and_stand_ins_only_where_nothing_else_is(
    forwarders: Any,
) -> None:
    mock = Found(name="mock", says="a mock", rank=Found.STAND_IN)
    near = Found(name="near", says="near", rank=60)
    far = Found(name="far", says="far", rank=10)

    forwarders(a=finding(mock, near), b=finding(far), c=finding())
    assert await look({}) == [("b", far), ("a", near)]

    forwarders(a=finding(mock), c=finding())
    assert await look({}) == [("a", mock)]


async def test_forwarders_that_find_nothing_are_left_out(forwarders: Any) -> None:
    forwarders(a=OpenAI)

    assert await look({}) == []
    assert planned().upstreams == {}


def shown(plan: Plan) -> dict[str, tuple[Any, ...]]:
    return {route.key: route.targets for route in plan.routes}


def test_every_model_has_a_route_and_the_first_answers_for_all_others(forwarders: Any) -> None:
    forwarders(a=Mock, b=Mock)
    first = Found(name="first", says="", models=("small", "big"))
    second = Found(name="second", says="", models=("small", "other"))

    plan = planned(("a", first), ("b", second))

    assert list(plan.upstreams) == ["first", "second"]
    assert shown(plan) == {
        "small": (Target("first", "small"),),
        "big": (Target("first", "big"),),
        "other": (Target("second", "other"),),
        "*": (Target("first", "small"),),
    }


def test_an_upstream_whose_models_nobody_knows_is_asked_for_any(forwarders: Any) -> None:
    forwarders(a=Mock, b=Mock)
    unknown = Found(name="hub", says="")
    known = Found(name="local", says="", models=("small",))

    plan = planned(("a", unknown), ("b", known))

    assert shown(plan)["*"] == (Target("hub"),)


def test_options_are_expanded(forwarders: Any) -> None:
    forwarders(openai=OpenAI)
    found = Found(name="hub", says="", options={"api_key": "${HUB_KEY}", "base_url": "https://hub"})

    plan = planned(("openai", found), HUB_KEY="CANARY")

    assert plan.upstreams["hub"].secrets == ("CANARY",)


@pytest.mark.parametrize(
    "name", ["010", "1e5", "no", "null", "a: b", "- a", "llama3.2:latest", "é"]
)
def test_a_model_may_be_called_anything(forwarders: Any, name: str) -> None:
    forwarders(a=Mock)

    plan = planned(("a", Found(name="a", says="", models=(name,))))

    assert shown(plan)[name] == (Target("a", name),)


@pytest.mark.parametrize("name", ["a*", "/v1/files", "${HOME}"])
def test_a_model_that_would_mean_something_else_is_left_out(forwarders: Any, name: str) -> None:
    forwarders(a=Mock)

    plan = planned(("a", Found(name="a", says="", models=(name,))))

    assert shown(plan) == {"*": (Target("a"),)}


HERE = {"OLLAMA_HOST": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("variable", "upstream"),
    [("OPENAI_API_KEY", "openai"), ("HF_TOKEN", "huggingface"), ("GEMINI_API_KEY", "gemini")],
)
async def test_a_key_in_the_environment_finds_its_service(variable: str, upstream: str) -> None:
    found = await look({**HERE, variable: "CANARY"})

    assert found[0][1].name == upstream
    assert "CANARY" not in written(found)
    plan = build(parse(written(found), "what was found", {variable: "CANARY"}))
    assert plan.upstreams[upstream].secrets == ("CANARY",)


async def test_an_empty_key_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    found = await look({**HERE, "OPENAI_API_KEY": ""})

    assert [one.name for _, one in found] == ["mock"]


async def test_the_local_model_is_found_where_it_is_installed() -> None:
    pytest.importorskip("xllamacpp")

    assert [one.name for _, one in await look(HERE)] == ["local"]
