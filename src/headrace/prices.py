"""What tokens cost, as far as that is known: as the configuration says, or as genai-prices does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeAlias

from pydantic import Field

from headrace.patterns import glob

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

    from headrace.record import Usage

_PER = 1_000_000
_MOST = 1000
"""Models whose price is remembered; clients may name models."""
_LONGEST = 200
"""Characters of a model's name that is looked up."""

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Priced(Protocol):
    """Whatever knows what tokens cost."""

    def of(self, usage: Usage) -> float | None:
        """Dollars for what was used; None where that is not known, which is not zero."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a million tokens of a model cost, in dollars."""

    input: Dollars
    """Of what is asked."""
    output: Dollars | None = None
    """Of what is answered, thoughts included; an embedding has none."""
    cached: Dollars | None = None
    """Of the part of what is asked that the upstream had in its cache; else as all of it."""

    def of(self, usage: Usage) -> float | None:
        """Dollars for what was used, as far as it is known how much that was."""
        asked, answered, cached = usage.input, usage.output, usage.cached or 0
        if asked is None and answered is None:
            return None
        if min(asked or 0, answered or 0, cached) < 0 or (answered and self.output is None):
            return None
        cached = min(cached, asked or 0)
        cheap = self.input if self.cached is None else self.cached
        dear = ((asked or 0) - cached) * self.input + (answered or 0) * (self.output or 0.0)
        return (dear + cached * cheap) / _PER


Prices: TypeAlias = "Mapping[str, Price | Literal['genai']]"
"""By `upstream/model`, where `*` stands for any text; `genai` is what genai-prices knows."""


def installed(prices: dict[str, Price | Literal["genai"]]) -> dict[str, Price | Literal["genai"]]:
    """The same prices. Raises ValueError where genai-prices is to know one and is not there."""
    if "genai" in prices.values() and not find_spec("genai_prices"):
        raise ValueError("has 'genai', which is not installed: install headrace[prices]")
    return prices


class PriceList:
    """What the models of one upstream cost; `provider` and `url` say whose they are."""

    def __init__(
        self, prices: Prices, upstream: str = "", *, provider: str = "", url: str | None = None
    ) -> None:
        self._prices = prices
        self._upstream = upstream
        # As with routes: a name wins over a pattern, a longer pattern over a shorter one.
        self._keys = sorted(prices, key=lambda key: ("*" in key, -len(key)))
        self._catalogue = Catalogue(provider, url) if "genai" in prices.values() else None
        self.of = lru_cache(_MOST)(self._of)

    def _of(self, *names: str) -> Priced | None:
        """The price of a model that goes by these names; None where nobody knows it."""
        called = [f"{self._upstream}/{name[:_LONGEST]}" for name in names]
        for key in self._keys:
            if any(map(glob(key).fullmatch, called)):
                price = self._prices[key]
                if price == "genai":
                    return self._catalogue.price(*names) if self._catalogue else None
                return price
        return None


class Catalogue:
    """The prices that come with genai-prices, of one provider: whose address it is, or its name."""

    def __init__(self, provider: str, url: str | None) -> None:
        from genai_prices.data_snapshot import get_snapshot  # takes half a second

        self._all = get_snapshot()
        self._provider: Provider | None = None
        with suppress(LookupError):
            self._provider = self._all.find_provider(None, None if url else provider, url)

    def price(self, *names: str) -> Priced | None:
        """The price of the first of these models that it has."""
        if self._provider is None:
            return None
        for name in names:
            asked = name[:_LONGEST].lower()
            if found := self._provider.find_model(asked, all_providers=self._all.providers):
                return Listed(found, self._provider)
        return None


class Listed:
    """A model's price in genai-prices."""

    def __init__(self, model: ModelInfo, provider: Provider) -> None:
        self._model = model
        self._provider = provider
        # It takes its time, and a record is read by several observers, one after the other.
        self._cost = lru_cache(16)(self._calculated)

    def of(self, usage: Usage) -> float | None:
        """Dollars for what was used, at what it costs today."""
        if usage.input is None and usage.output is None:
            return None
        return self._cost(usage.input, usage.output, usage.cached)

    def _calculated(
        self, asked: int | None, answered: int | None, cached: int | None
    ) -> float | None:
        from genai_prices import Usage as Used

        now = datetime.now(UTC)
        prices = self._model.get_prices(now)
        if prices.input_mtok is None or (answered and prices.output_mtok is None):
            return None
        try:
            used = Used(input_tokens=asked, output_tokens=answered, cache_read_tokens=cached)
            price = self._model.calc_price(used, self._provider, genai_request_timestamp=now)
        except ValueError:  # an upstream may say anything
            return None
        return float(price.total_price)
