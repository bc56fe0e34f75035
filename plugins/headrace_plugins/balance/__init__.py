"""Spread calls over the targets of a route: by weight, by load, by latency, or always the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, TypeAlias

from headrace import Call, Duration, Next, Reply, Rests, Target, Targets, leaves
from headrace_plugins.balance.lots import by_chance, by_key, drawn
from headrace_plugins.balance.measures import Measures, Seen, kind_of
from headrace_plugins.balance.sticky import key_of

Score: TypeAlias = Callable[["Target | Targets"], float]
"""How good a target is; the lower, the better."""


@dataclass(kw_only=True)
class Balance:
    """Spread calls over the targets of a route.

    It puts the targets of each call in order and passes all of them on: alone, the first one is
    asked; with `fallback` behind it, the others are asked when that fails. Those that rest, because
    they asked to wait or have failed too often, come last. A group counts as one target, with the
    weights and the load of all its members.
    """

    by: Literal["weight", "in_flight", "latency"] = "weight"
    """What decides: chance, so that each target is asked as often as its weight says; the fewest
    attempts under way, for its weight; or the shortest wait, of two targets that chance picks."""
    sticky: Literal["caller", "conversation"] | dict[Literal["header"], str] | None = None
    """What calls have in common that go to the same target as long as it can be asked: who asks,
    how their conversation began, or the value of a header."""
    decay: Duration = field(default_factory=lambda: Duration(10))
    """How soon what was measured is forgotten, two thirds of it in this time, so that a target that
    was slow or has failed is tried again."""
    rests: Rests = field(default_factory=Rests.of_server)

    orders: ClassVar = True
    keeps_answers: ClassVar = True
    shorthand: ClassVar = "by"

    def __post_init__(self) -> None:
        if not self.decay:
            raise ValueError("decay must be more than 0s; write a time such as 10s")
        if self.sticky == {}:
            raise ValueError("sticky must name its header, e.g. {header: x-user}")
        self.random = random.Random()  # noqa: S311  no secret depends on it
        self._measures = Measures(self.decay)

    def follows(self, before: Self) -> None:
        """Go on with what was measured, unless it is forgotten at another pace now."""
        if self.decay == before.decay:
            self._measures = before._measures

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask with the best target first."""
        watching = () if self.by == "weight" else (self._measures,)
        ordered = call.replace(
            targets=self._ordered(call), each_attempt=(*call.each_attempt, *watching)
        )
        return await call_next(ordered.replace(targets=self.rests.awake_first(ordered)))

    def _ordered(self, call: Call) -> Targets:
        """Every target once, the best first."""
        if key := key_of(call, self.sticky):
            return drawn(call.targets, by_key(key))
        lots = drawn(call.targets, by_chance(self.random))
        if self.by == "weight":
            return lots
        score = self._score(call)
        if self.by == "in_flight":
            return tuple(sorted(lots, key=score))
        best, *other = sorted(lots[:2], key=score)
        return best, *sorted((*other, *lots[2:]), key=score)

    def _score(self, call: Call) -> Score:
        """What a target costs, times the attempts there with this one, for its weight.

        A group costs what the best of its members does that are known.
        """
        kind, now = kind_of(call), asyncio.get_running_loop().time()

        def cost(seen: Seen) -> float | None:
            return seen.wait(kind, now) if self.by == "latency" else 1.0 + seen.failing(now)

        def score(target: Target | Targets) -> float:
            members = list(leaves((target,)))
            seen = [self._measures.of(member) for member in members]
            known = [it for it in map(cost, seen) if it is not None]
            load = (sum(it.running for it in seen) + 1) / sum(it.weight for it in members)
            return min(known, default=0.0) * load

        return score
