"""Limit how often callers ask, how many tokens they use, and how many calls they run at a time."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from starlette.datastructures import MutableHeaders

from headrace import (
    Allowance,
    Allowances,
    Call,
    CallError,
    Callers,
    ConfigError,
    Count,
    Duration,
    Limited,
    Memory,
    Next,
    Quota,
    Reply,
    Routes,
    Store,
    Unavailable,
    Vitals,
    until_closed,
)
from headrace_plugins.rate_limit.aspects import Granted, Said, digest, said_of
from headrace_plugins.rate_limit.counter import Counter
from headrace_plugins.rate_limit.estimates import Estimate, estimate
from headrace_plugins.rate_limit.found import Found
from headrace_plugins.rate_limit.policies import BUCKET, CALLER, NAME, Limit, Policy, rule_of
from headrace_plugins.rate_limit.refusals import not_counted, too_large, used_up
from headrace_plugins.rate_limit.standing import limits_of
from headrace_plugins.rate_limit.telling import Speech
from headrace_plugins.rate_limit.visit import Visit

__all__ = ["Policy", "RateLimit"]

_STOPPED = 0.5
"""Seconds that no store takes: each of its questions has a tenth of that."""


@dataclass(kw_only=True)
class RateLimit:
    """Limit how often callers ask, how many tokens they use, and how many calls they run at a time.

    It keeps the limits that `callers` grants, and policies of its own. A call takes what it needs
    from all of its limits or, where one has not enough, from none. Tokens are put aside by an
    estimate before the call is asked, and settled by what was used when it is over.
    """

    name: str = "rate_limit"
    """What it counts under in the store; the same name goes on counting where it was."""
    policies: list[Policy] = field(default_factory=list)
    """Limits beside those that `callers` grants."""
    on_store_error: Literal["local", "open", "closed"] = "local"
    """What holds while the store does not answer: this process's own share, nothing, or a 503."""
    replicas: int = 1
    """How many processes there are, each with that part of every limit as its own share."""
    dry_run: bool = False
    """Whether it only counts and writes down what it would have refused."""
    per_worker: bool = False
    """Whether it is meant that each worker counts for itself, as it does without a shared store."""
    answer: Count = field(default_factory=lambda: Count(1000))
    """Tokens to put aside for an answer to which the call sets no bound, as `max_tokens` does."""
    lease: Duration = field(default_factory=lambda: Duration(60))
    """How long what a call holds stays taken after its process has died."""
    store: Store = field(default_factory=Store.of_server)
    routes: Routes = field(default_factory=Routes.of_server)
    callers: Callers = field(default_factory=Callers.of_server)
    vitals: Vitals = field(default_factory=Vitals.of_server)

    enforces_limits: ClassVar = True
    counts: ClassVar = True
    keeps_answers: ClassVar = True

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("name must be at most 64 letters, digits, '.', '_' and '-'")
        if self.replicas < 1 or self.lease <= 0:
            raise ValueError("replicas must be 1 or more, and lease more than 0")
        for name, times in Tally(policy.called for policy in self.policies).items():
            if times > 1:
                raise ValueError(
                    f"{times} policies are called {name!r}; give each a name of its own"
                )
        self._counter = Counter(self.store, self.name, self.lease)
        self._memory = Memory()
        self._local = Counter(self._memory, self.name, self.lease)

    def follows(self, before: Self) -> None:
        """Go on with what was counted while the store did not answer."""
        self._memory = before._memory
        self._local = Counter(self._memory, self.name, self.lease)

    async def __aenter__(self) -> Self:
        self._counter.holds.open()
        self._local.holds.open()
        strategies = {policy.strategy for policy in self.policies} - {BUCKET}
        try:
            _ = strategies and self._counter.windows
        except NotImplementedError as error:
            said = f"rate_limit cannot count by {', '.join(sorted(strategies))}: {error}"
            raise ConfigError([said]) from None
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._counter.holds.aclose()
        await self._local.holds.aclose()

    async def counted(self, who: str) -> list[Allowance]:
        """What is left to somebody of the limits that have counted it.

        `who` is an entry of `callers`, an id, a tenant, a key or an address. Raises `Unavailable`.
        """
        found = await self._counter.look(self._limits_of(who))
        return [each for one in found if one.is_used for each in one.allowances(taken=False)]

    async def forget(self, who: str) -> int:
        """Let somebody begin anew; how many limits had counted it. Raises `Unavailable`."""
        limits = self._limits_of(who)
        used = sum(one.is_used for one in await self._counter.look(limits))
        await self._counter.forget(limits)
        return used

    def _limits_of(self, who: str) -> list[Limit]:
        return list(
            limits_of(
                who,
                self.policies,
                name=self.name,
                callers=self.callers,
                routes=self.routes,
                issuers=self.vitals.issuers,
            )
        )

    @until_closed
    async def __call__(self, call: Call, call_next: Next) -> AsyncIterator[Reply]:
        """Take what the call needs, ask, and give back what it did not use after the last byte."""
        visit = self._visit(call)
        if not visit.limits:
            yield await call_next(call)
            return
        try:
            yield await self._answer(visit, call_next)
        finally:
            await visit.settle()

    def _visit(self, call: Call) -> Visit:
        """The call, and what it meets here: policies, and what its caller was granted, once."""
        met: list[tuple[str, Quota, list[Said]]] = [
            (policy.called, policy, [said_of(call, each, self.routes) for each in policy.aspects])
            for policy in self.policies
        ]
        if call.caller and call.caller.limits and not call.told(Granted):
            met.append((CALLER, call.caller.limits, [call.caller.identity]))
        rules = [rule_of(quota) for _, quota, _ in met]
        counts_tokens = any(rule.largest for rule in rules)
        wanted = estimate(call, self.answer) if counts_tokens else Estimate()
        limits = [
            Limit(
                policy=name,
                key=f"{{{self.name}}}{name}:{digest(said)}",
                quota=quota,
                rule=rule,
                tokens=min(wanted.input + wanted.output, int(rule.largest)),
            )
            for (name, quota, said), rule in zip(met, rules, strict=True)
        ]
        return Visit(call=call, limits=limits, estimate=wanted, dry_run=self.dry_run)

    async def _answer(self, visit: Visit, call_next: Next) -> Reply:
        """The reply from below, or why there is none; either tells what is left of the limits."""
        above = visit.call.told(Speech)
        speech = above or Speech()
        refusal = await self._admit(visit)
        if self.dry_run:
            return await call_next(visit.watched)
        speech.said[self.name] = visit.allowances
        try:
            if refusal:
                raise refusal
            reply = await call_next(self._telling(visit, speech))
        except CallError as error:
            if above is None:
                error.headers = speech.over(error.headers)
            raise
        if above is None:
            reply.headers = MutableHeaders(speech.over(reply.headers))
        return reply

    def _telling(self, visit: Visit, speech: Speech) -> Call:
        """The call to ask below, with what those there want to know."""
        told = visit.call.told(Allowances) or Allowances(())
        facts = [speech, Allowances((*told.all, *speech.said[self.name]))]
        granted = any(limit.policy == CALLER for limit in visit.limits)
        return visit.watched.telling(*facts, *([Granted()] if granted else []))

    async def _admit(self, visit: Visit) -> CallError | None:
        """Take what the call needs, else say why it is not let in."""
        for limit in visit.limits:
            if visit.estimate.input > limit.rule.largest > 0:
                visit.note(Limited(policy=limit.policy, outcome="refused"))
                return too_large(limit, visit.estimate.input)
        try:
            refusing = await self._taken(visit)
        except Unavailable:
            if self.on_store_error == "closed":
                return not_counted()
            if self.on_store_error == "open":
                for limit in visit.limits:
                    visit.note(Limited(policy=limit.policy, outcome="unchecked"))
                return None
            shares = [limit.shared(self.replicas) for limit in visit.limits]
            refusing = await visit.take(self._local, shares, local=True)
        return used_up(refusing) if refusing else None

    async def _taken(self, visit: Visit) -> list[Found]:
        """Take from the store. Raises `Unavailable` where it does not answer."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await visit.take(self._counter, visit.limits)
        except Unavailable:
            if loop.time() - began < _STOPPED:
                raise
        # It was this process that was stopped meanwhile, and the store is as well as it was.
        visit.begin_anew()
        return await visit.take(self._counter, visit.limits)
