"""Targets that are better left alone for a while, and until when.

One that asked us to wait is asked only where nobody else can answer; one that is closed is not
asked at all: a breaker has opened, a probe has failed, or somebody said so.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

from headrace.call import Call, Target, Targets, leaves
from headrace.errors import UpstreamError
from headrace.given import given

_MOST = 10_000
"""Targets that are remembered."""


@dataclass(frozen=True)
class Rest:
    """Until when a target rests, by the loop's clock, and why."""

    until: float
    why: str
    closed: bool = False
    """Whether it is not asked at all."""

    @property
    def left(self) -> float:
        """Seconds that are left; never below zero."""
        return max(0.0, self.until - asyncio.get_running_loop().time())


Place: TypeAlias = tuple[str, str | None]
"""An upstream and a model there, or a route that leads to it; None stands for all of it."""


class Rests:
    """The targets of one gateway that rest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, Rest] = OrderedDict()

    @staticmethod
    def of_server() -> Rests:
        """Those of the gateway that is being built; outside of one, some of their own."""
        return given(Rests) or Rests()

    def rest(self, place: Place, seconds: float, *, why: str, closed: bool = False) -> None:
        """Let a target rest. The longer of two rests counts, and a closed one before others."""
        until = asyncio.get_running_loop().time() + seconds
        known = self._kept.get(place)
        if known and known.left and (known.closed, known.until) > (closed, until):
            return
        self._kept[place] = Rest(until, why, closed)
        self._kept.move_to_end(place)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def resume(self, place: Place) -> None:
        """Let it be asked again, at once."""
        self._kept.pop(place, None)

    def at(self, place: Place) -> Rest | None:
        """The rest of a target, or of its whole upstream; None where it may be asked."""
        found = None
        for each in (place, (place[0], None)):
            rest = self._kept.get(each)
            if rest and not rest.left:
                del self._kept[each]
            elif rest and (found is None or rest.closed):
                found = rest
        return found

    def of(self, target: Target, call: Call) -> Rest | None:
        """The rest of a target, for a call that would ask it."""
        return self.at(place_of(target, call))

    def awake_first(self, call: Call) -> Targets:
        """The call's targets, those that rest behind the others; a group rests if all of it does.

        Among those that rest, the ones that are asked at all come first.
        """

        def tired(target: Target | Targets) -> Literal[0, 1, 2]:
            rests = [self.of(leaf, call) for leaf in leaves((target,))]
            if not all(rests):
                return 0
            return 2 if all(rest and rest.closed for rest in rests) else 1

        return tuple(sorted(call.targets, key=tired))

    @property
    def all(self) -> dict[Place, Rest]:
        """Every target that rests."""
        return {place: rest for place, rest in self._kept.items() if rest.left}


def place_of(target: Target, call: Call) -> Place:
    """What is watched as one: an upstream and a model that the configuration names.

    Of models that clients name freely, and of paths, all of a route are one: as many as anybody can
    think of would never fail often enough, one by one.
    """
    route = call.record.route
    free = target.model is None or route == f"{target.upstream}/*"
    return target.upstream, route if free else target.model


def resting(target: Target, call: Call, seconds: float) -> UpstreamError:
    """The refusal of a call that a target is not asked for; `seconds` are left."""
    call.record.resting[target] = asyncio.get_running_loop().time() + seconds
    return UpstreamError(
        "this upstream is not asked for the moment",
        code="upstream_resting",
        status=503,
        again=False,
        retry_after=seconds,
        decided=True,
    )
