"""What tokens cost: by the price list of the configuration, and by genai-prices."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from headrace import Attempt, ConfigError, Record, Target, Usage
from headrace.prices import Price, PriceList
from headrace.testing import Client, Upstream, gateway, refuses, says

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("used", "dollars"),
    [
        (Usage(input=MILLION, output=MILLION), 12.5),
        (Usage(input=MILLION, output=0), 2.5),
        (Usage(input=0, output=0), 0.0),
        (Usage(input=MILLION, cached=MILLION // 2, output=0), 1.875),
        (Usage(input=MILLION, output=MILLION, reasoning=MILLION), 12.5),
        (Usage(output=MILLION, estimated=True), 10.0),
        (Usage(input=10, cached=MILLION, output=0), 0.0000125),
        (Usage(), None),
        (Usage(cached=5), None),
        (Usage(input=-5, output=5), None),
        (Usage(input=5, output=5, cached=-1), None),
    ],
)
def test_cached_tokens_are_part_of_what_is_asked_and_thoughts_of_what_is_answered(
    used: Usage, dollars: float | None
) -> None:
    cost = Price(input=2.5, cached=1.25, output=10).of(used)

    assert cost == (dollars if dollars is None else pytest.approx(dollars))


def test_without_a_price_of_their_own_cached_tokens_cost_what_all_do() -> None:
    assert Price(input=2).of(Usage(input=MILLION, cached=MILLION)) == 2


def test_what_has_no_price_is_unknown_and_not_free() -> None:
    assert Price(input=2).of(Usage(input=1, output=1)) is None
    assert Price(input=0, output=0).of(Usage(input=1, output=1)) == 0


PRICES: Mapping[str, Any] = {
    "*": Price(input=1),
    "openai/*": Price(input=2),
    "*/gpt-4o": Price(input=3),
    "openai/gpt-*": Price(input=4),
    "openai/gpt-4o": Price(input=5),
    "azure/prod-4o": Price(input=6),
}


@pytest.mark.parametrize(
    ("upstream", "names", "dollars"),
    [
        ("openai", ["gpt-4o", "gpt-4o"], 5),
        ("openai", ["gpt-4", "gpt-4"], 4),
        ("openai", ["o3", "o3"], 2),
        ("azure", ["gpt-4o", "prod-4o"], 6),
        ("azure", ["gpt-4o", "something"], 3),
        ("other", ["any/thing", "x"], 1),
    ],
)
def test_a_name_wins_over_a_pattern_and_a_longer_one_over_a_shorter(
    upstream: str, names: list[str], dollars: float
) -> None:
    found = PriceList(PRICES, upstream).of(*names)

    assert found == Price(input=dollars)


def test_junk_names_are_not_remembered() -> None:
    prices = PriceList({"a/*": Price(input=1)}, "a")
    for number in range(5000):
        prices.of(f"junk-{number}", f"junk-{number}")

    assert prices.of.cache_info().currsize <= 1000


def test_a_call_costs_what_its_attempts_cost_as_far_as_that_is_known() -> None:
    record = Record(id="req_1", method="POST", path="/")
    for price, used in (
        (Price(input=2), Usage(input=MILLION)),
        (Price(input=3), Usage(input=MILLION)),
        (None, Usage(input=MILLION)),
        (Price(input=3), None),
    ):
        record.attempts.append(Attempt(target=Target("a"), price=price, usage=used))
        record.attempts[-1].end("cancelled")

    assert [attempt.cost for attempt in record.attempts] == [2, 3, None, None]
    assert record.cost == 5
    assert Record(id="req_2", method="POST", path="/").cost is None


FILE = """
server:
  prices:
    a/small: {input: 1, output: 2}
    b/there: {input: 10, output: 20}
    free/*: {input: 0, output: 0}
upstreams: {a: mock, b: {forwarder: mock, models: {large: there}}, c: mock, free: mock}
routes:
  fast: {chain: [fallback], targets: [a/small, b/large]}
  unknown: c/m
  "*": free
"""


async def test_each_attempt_has_the_price_of_its_model_by_either_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "headrace.access")
    upstream = Upstream()
    upstream.script(refuses(503), says("hello", usage=(7, 5)))
    made = gateway(FILE, upstream=upstream)

    async with made.lifespan():
        for model in ("fast", "unknown", "junk"):
            await (await Client(made).chat(model=model)).read()

    paid, unknown, free = [json.loads(line.message) for line in caplog.records]
    failed, answered = paid["attempts"]
    assert "cost" not in failed
    assert (answered["cost"], paid["cost"]) == (0.00017, 0.00017)
    assert "cost" not in unknown
    assert free["cost"] == 0


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ("{opnai/m: {input: 1}}", "no upstream is called 'opnai'; did you mean 'openai'?"),
        ("{gpt-4o: {input: 1}}", "a price is that of a model of an upstream"),
        ("{openai/m: {input: -1}}", "must be greater than or equal to 0"),
        ("{openai/m: {inputs: 1}}", "has no option 'inputs'; did you mean 'input'?"),
        ("{openai/m: {output: 1}}", "needs the option 'input'"),
        ("{openai/m: genius}", "must be a mapping or 'genai'"),
        ("{openai/m: {input: .inf}}", "finite"),
    ],
)
def test_what_is_no_price_list_is_a_problem(prices: str, says: str) -> None:
    with pytest.raises(ConfigError) as failed:
        gateway(f"server: {{prices: {prices}}}\nupstreams: {{openai: mock}}\nroutes: {{m: openai}}")

    assert says in str(failed.value)
    assert "gateway.yaml:1:" in str(failed.value)


# What genai-prices knows


@pytest.fixture
def genai() -> Mapping[str, Any]:
    pytest.importorskip("genai_prices", reason="it needs headrace[prices]")
    return {"*": "genai"}


def test_a_service_is_known_by_its_address(genai: Mapping[str, Any]) -> None:
    here = PriceList(genai, "a", provider="openai", url="http://127.0.0.1:8000/v1")
    there = PriceList(genai, "b", provider="openai", url="https://api.openai.com/v1")

    assert here.of("gpt-4o") is None
    assert there.of("no-such-model") is None
    price = there.of("smart", "gpt-4o-2024-08-06")
    assert price
    cost = price.of(Usage(input=1000, cached=400, output=100))
    less = price.of(Usage(input=1000, cached=1000, output=100))
    assert cost
    assert less
    assert 0 < less < cost
    assert price.of(Usage(input=5, cached=1000, output=1)) is None
    assert price.of(Usage()) is None


def test_an_embedding_has_a_price_and_no_answer(genai: Mapping[str, Any]) -> None:
    price = PriceList(genai, url="https://api.openai.com/v1").of("text-embedding-3-small")

    assert price
    assert price.of(Usage(input=MILLION))
    assert price.of(Usage(input=MILLION, output=5)) is None


def test_it_is_imported_where_it_is_asked_alone(genai: Mapping[str, Any]) -> None:
    file = "upstreams: {a: mock}\\nroutes: {m: a}"
    code = (
        "import sys; from headrace.testing import gateway; "
        f"gateway('{file}'); assert 'genai_prices' not in sys.modules; "
        f"gateway('server: {{prices: {{\"*\": genai}}}}\\n{file}'); "
        "assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_it_is_not_installed_that_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.prices.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"install headrace\[prices\]"):
        gateway('server: {prices: {"*": genai}}\nupstreams: {a: mock}\nroutes: {m: a}')
