"""Many calls through `balance`: in which order it puts their targets, and whom traffic reaches."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from headrace import Attempt, Call, CallError, Plugin, Reply, Target, Targets, UpstreamError, leaves
from headrace.testing import Upstream, ask, call, says, text
from headrace.testing.script import Act


async def order(balance: Plugin, given: Call) -> Targets:
    """The targets as they are passed on."""
    [passed] = [call.targets for call in await passed_on(balance, given)]
    return passed


async def passed_on(balance: Plugin, given: Call) -> list[Call]:
    """The calls that are passed on."""
    passed: list[Call] = []

    async def keep(call: Call) -> Reply:
        passed.append(call)
        return Reply.plain({})

    await balance(given, keep)
    return passed


def shown(targets: Targets) -> str:
    """Targets as they would be written."""
    return " ".join(str(t) if isinstance(t, Target) else f"[{shown(t)}]" for t in targets)


async def firsts(balance: Plugin, *calls: Call, times: int = 1) -> Counter[str]:
    """How often which upstream comes first."""
    return Counter(
        [
            next(leaves(await order(balance, given))).upstream
            for given in calls
            for _ in range(times)
        ]
    )


def weighing(**weights: float) -> Targets:
    """Targets with these weights."""
    return tuple(Target(name, weight=weight) for name, weight in weights.items())


class World(Upstream):
    """Upstreams that take their time, each its own, and fail as often as `fails` says.

    For each token of `max_tokens` they take a hundredth of it more.
    """

    def __init__(self, **seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.fails: dict[str, float] = {}
        self.refuse: dict[str, Act] = {}
        self.told: list[tuple[float, str]] = []
        """When who was asked."""
        self._dice = random.Random(7)
        self.script(self._answer)

    async def _answer(self, upstream: Upstream, call: Call) -> Any:
        attempt = call.told(Attempt)
        assert attempt
        name = attempt.target.upstream
        self.told.append((_now(), name))
        if self._dice.random() < self.fails.get(name, 0):
            raise UpstreamError("scripted failure", code="upstream_500", said=500)
        if name in self.refuse:
            return await self.refuse[name](upstream, call)
        tokens = call.members.get("max_tokens", 2)
        await asyncio.sleep(self.seconds[name] * (1 + tokens / 100))
        return await says("hello", " world", usage=(3, tokens))(upstream, call)

    def share(self, name: str, since: float = 0, until: float = float("inf")) -> float:
        """Which part of the attempts in this time one upstream got."""
        asked = [told for at, told in self.told if since <= at < until]
        return asked.count(name) / len(asked)


async def traffic(
    world: World,
    *plugins: Plugin,
    rate: float,
    seconds: float,
    turns: Mapping[float, Callable[[], Any]] | None = None,
    targets: Sequence[Any] = ("a", "b"),
    tokens: Sequence[int] = (2,),
    **asked: Any,
) -> float:
    """Calls at an even rate; the part of them that is answered. `turns` happen on the way."""
    sizes = random.Random(7)
    began, due = _now(), sorted((turns or {}).items())
    tasks = []
    for at in _ticks(rate, seconds):
        await asyncio.sleep(max(0.0, began + at - _now()))
        while due and due[0][0] <= at:
            due.pop(0)[1]()
        if asked.get("operation", "chat") == "chat":
            asked["max_tokens"] = sizes.choice(tokens)
        given = call(targets=targets, **asked)
        tasks.append(asyncio.create_task(answered(ask(*plugins, upstream=world, call=given))))
    return sum(await asyncio.gather(*tasks)) / len(tasks)


async def answered(asked: Coroutine[Any, Any, Reply]) -> bool:
    """Whether a call is answered; its reply is read to its end."""
    try:
        await text(await asked)
    except CallError:
        return False
    return True


def _ticks(rate: float, seconds: float) -> Iterator[float]:
    return (n / rate for n in range(int(rate * seconds)))


def _now() -> float:
    return asyncio.get_running_loop().time()
