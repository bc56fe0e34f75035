"""A document to a plan, one case a file: every problem it has, or what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from headrace import ConfigError, Target, Targets, leaves
from headrace.config.build import build
from headrace.config.document import load, parse
from headrace.config.plan import Plan
from headrace.config.problems import Problem
from headrace.explain import Capture
from headrace.registry import name_of

pytestmark = pytest.mark.usefixtures("registered")

CASES = Path(__file__).parent / "cases" / "gateway"
ENVIRON = {"KEY": "CANARY-0123456789", "EMPTY": "", "URL": "redis://:CANARY@cache:6379/0"}


def problems(error: ConfigError) -> list[Problem]:
    return [problem for problem in error.problems if isinstance(problem, Problem)]


@pytest.mark.parametrize("case", sorted(CASES.glob("*.yaml")), ids=lambda case: case.stem)
def test_a_file_has_the_problems_it_names(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    found: list[str] = []
    try:
        build(load(case.name, ENVIRON))
    except ConfigError as error:
        found = [str(problem).partition("\n")[0] for problem in problems(error)]
        shown = "".join(f"{problem}{problem.github()}" for problem in problems(error))
        assert "CANARY" not in shown

    assert found == re.findall("^# problem: (.*)", case.read_text(), re.MULTILINE)


def planned(text: str, **environ: str) -> Plan:
    return build(parse(text, "gateway.yaml", environ))


def house(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(CASES)
    return build(load("good_house.yaml", ENVIRON))


def names(things: Iterable[object]) -> list[str]:
    return [name_of("plugins", thing) for thing in things]


def keys(plan: Plan) -> dict[str, str]:
    return {route.key: shown(route.targets) for route in plan.routes}


def shown(targets: Targets) -> str:
    return " ".join(str(t) if isinstance(t, Target) else f"[{shown(t)}]" for t in targets)


def test_chains_are_opened_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = house(monkeypatch)

    assert names(plan.chain) == ["cache", "api_key", "retry"]
    assert [names(route.chain) for route in plan.routes] == [
        ["cache", "fallback"],
        ["race", "fallback"],
        ["cache", "fallback"],
        [],
        [],
    ]


def test_a_chain_is_made_once_wherever_it_stands() -> None:
    plan = planned("""
        upstreams: {a: mock}
        chains: {careful: [cache], both: [careful, careful]}
        routes: {x: {chain: both, targets: a}, y: {chain: [careful], targets: a}}
    """)

    first, second = plan.routes[0].chain
    assert first is second is plan.routes[1].chain[0]


def test_routes_skip_what_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = house(monkeypatch)

    assert plan.disabled == ("openai",)
    assert keys(plan) == {
        "fast": "azure-eu/gpt-4o-mini local/llama3.2",
        "gpt-4o": "[azure-eu] [local/llama3.3]",
        "gpt-*": "",
        "/v1/files*": "",
        "blue": "azure-eu",
    }
    assert plan.skipped == {
        "gpt-4o": ("openai",),
        "gpt-*": ("openai",),
        "/v1/files*": ("openai",),
    }


def test_an_upstream_is_enabled_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    plan = build(load("good_house.yaml", {**ENVIRON, "UNSET": "sk-1"}))

    assert plan.disabled == ()
    assert keys(plan)["gpt-4o"] == "[azure-eu openai] [local/llama3.3]"


@pytest.mark.parametrize("written", ["false", "no", "", "${OFF}", '"${OFF}"', "${SET:+false}"])
def test_these_disable_an_upstream(written: str) -> None:
    text = f"upstreams: {{a: {{forwarder: mock, enabled: {written}}}}}"
    text = text if "$" not in written or '"' in written else text.replace(written, f"'{written}'")

    assert planned(text, OFF="", SET="1").disabled == ("a",)


def test_a_models_other_name_there(monkeypatch: pytest.MonkeyPatch) -> None:
    upstreams = house(monkeypatch).upstreams

    assert upstreams["azure-eu"].models == {"gpt-4o": "prod-4o-eu"}
    assert upstreams["azure-eu"].labels == {"region": "eu"}


def test_models_in_a_list_are_called_the_same_there() -> None:
    plan = planned("upstreams: {a: {forwarder: mock, models: [x, y]}}")

    assert plan.upstreams["a"].models == {"x": "x", "y": "y"}


def test_what_a_forwarder_brings_stands_inside_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    local = house(monkeypatch).upstreams["local"]

    assert (names(local.plugins), names(local.brought)) == ([], ["transform"])


def test_what_is_written_takes_the_place_of_what_is_brought() -> None:
    plan = planned("""
        upstreams:
          a: {forwarder: {ollama: {base_url: x}}, plugins: [retry, transform: {to: ollama}]}
    """)

    upstream = plan.upstreams["a"]
    assert (names(upstream.plugins), names(upstream.brought)) == (["retry"], ["transform"])


@pytest.mark.parametrize(
    ("server", "upstream", "first_event", "connect"),
    [
        ("", "", 300, 5),
        ("first_event: 60s", "", 60, 5),
        ("connect: 1s", "", 300, 1),
        ("connect: 1s, first_event: 2s", "connect: 3s", 2, 3),
    ],
    ids=["built-in and suited", "the server's", "in part", "the upstream's own"],
)
def test_timeouts_are_the_nearest_ones(
    server: str, upstream: str, first_event: float, connect: float
) -> None:
    timeouts = (
        planned(f"""
        server: {{timeouts: {{{server}}}}}
        upstreams:
          a: {{forwarder: {{ollama: {{base_url: x}}}}, timeouts: {{{upstream}}}}}
    """)
        .upstreams["a"]
        .timeouts
    )

    assert (timeouts.first_event, timeouts.connect) == (first_event, connect)


def test_targets_have_weights_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    plan = build(load("good_variants.yaml", ENVIRON))

    assert keys(plan)["group"] == "plain merged/o3 [partial]"
    group = next(route for route in plan.routes if route.key == "group")
    assert [t.weight for t in leaves(group.targets)] == [3, 0.5, 1]


def test_middleware_comes_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert house(monkeypatch).middleware == (
        (GZipMiddleware, {}),
        (CORSMiddleware, {"allow_origins": ["https://chat.example.com"]}),
    )


def test_a_plugin_that_authenticates_must_stand_where_every_call_passes() -> None:
    key = "api_key: {keys: {}}"

    assert planned(f"server: {{chain: [{key}]}}").authenticates
    for place in (f"chain: [{key}], targets: a", "targets: a"):
        plugins = "" if key in place else f", plugins: [{key}]"
        with pytest.raises(ConfigError, match="here it is too late"):
            planned(f"routes: {{a: {{{place}}}}}\nupstreams: {{a: {{forwarder: mock{plugins}}}}}")


def test_an_upstreams_secrets_are_known() -> None:
    plan = planned(
        """
        upstreams:
          a:
            forwarder:
              openai: {api_key: key-1, base_url: "https://${HOST}", headers: {x: "${KEY}"}}
        """,
        HOST="host",
        KEY="key-2",
    )

    assert set(plan.upstreams["a"].secrets) == {"key-1", "key-2"}


def test_every_gateway_has_a_name_of_its_own() -> None:
    assert planned("").name != planned("").name
    assert planned("server: {name: replicas}").name == "replicas"


def test_every_file_that_was_read_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert house(monkeypatch).files == ("good_house.yaml", "teams/good-blue.yaml")


@pytest.mark.parametrize("case", sorted(CASES.glob("[!g]*.yaml")), ids=lambda case: case.stem)
def test_without_the_environment_no_more_is_wrong(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CASES)

    def wrong(**options: Any) -> set[str]:
        try:
            build(load(case.name, **options))
        except ConfigError as error:
            return {str(problem.place) for problem in problems(error)}
        return set()

    assert wrong(environ={}, unset_ok=True) <= wrong(environ=ENVIRON) | wrong(environ={})


def test_a_problem_behind_an_alias_is_told_once() -> None:
    with pytest.raises(ConfigError) as raised:
        planned("""
            x-shared: &shared [retry: {attempts: 0}]
            upstreams:
              a: {forwarder: mock, plugins: *shared}
              b: {forwarder: mock, plugins: *shared}
        """)

    assert len(raised.value.problems) == 1


NAMES = "server upstreams chains routes store chain observers middleware forwarder plugins models"
WORDS = f"{NAMES} labels timeouts enabled targets weight a b a/m * /v1/x mock openai ollama azure"
WRITTEN = (
    f"{WORDS} api_key headers keys retry fallback race transform to connect 5s ${{KEY}} ${{X}}"
)
ANY: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([*WRITTEN.split(), "", None, True, 0, -1, 1.5]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS.split()), inner, max_size=3)
    ),
    max_leaves=12,
)
SECTION = st.dictionaries(st.sampled_from(WORDS.split()), ANY, max_size=4) | ANY


@settings(deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries(dict.fromkeys(("server", "upstreams", "chains", "routes"), SECTION)))
def test_no_configuration_whatever_fails_but_with_its_problems(written: dict[str, Any]) -> None:
    document = parse(json.dumps(written), "g.yaml", ENVIRON, unset_ok=True)

    try:
        build(document, through=Capture())
    except ConfigError as error:
        told = problems(error)
        assert told
        assert "CANARY" not in "".join(f"{problem}{problem.github()}" for problem in told)
