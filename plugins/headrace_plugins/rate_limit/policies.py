"""What is limited: a policy as it is written, and the limit it comes to for one call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from headrace import Quota, Rate, Step
from headrace_plugins.rate_limit import lua
from headrace_plugins.rate_limit.bucket import Answer, Bucket, Numbers, peek, renew, settle, take

Aspect: TypeAlias = Literal[
    "caller", "id", "tenant", "key", "model", "route", "upstream", "address"
]
Strategy: TypeAlias = Literal["token_bucket", "fixed_window", "moving_window", "sliding_window"]

Run: TypeAlias = Callable[[Numbers, float, Sequence[float]], tuple[Any, Answer]]

BUCKET: Strategy = "token_bucket"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CALLER = "caller"
"""The policy of what `callers` grants; no other one may have this name."""

_OWED = 10
"""Debts of tokens are known for so many times as long as their bucket takes to fill."""


@dataclass(frozen=True, kw_only=True)
class Policy(Quota):
    """A limit: how much, how often, and whose calls are counted together."""

    name: str = ""
    """What messages, headers and logs call it; else what it goes by, such as by-tenant-model."""
    by: Aspect | tuple[Aspect, ...] = "caller"
    """What calls that are counted together have in common; an empty list counts all together."""
    strategy: Strategy = BUCKET
    """How `requests` are counted: by a bucket that fills evenly, or in windows of time."""

    def __post_init__(self) -> None:
        if not self:
            raise ValueError("must limit something: requests, tokens or concurrent")
        if self.burst is not None and not (self.burst and self.requests):
            raise ValueError("need requests beside a burst, and a burst of 1 or more")
        if not NAME.fullmatch(self.called) or self.called == CALLER:
            raise ValueError(
                "need names of at most 64 letters, digits, '.', '_' and '-', other than "
                f"{CALLER!r}, which is for the limits that 'callers' grants"
            )
        if self.strategy == BUCKET:
            return
        if self.tokens or self.concurrent is not None or self.burst is not None:
            raise ValueError(
                f"count requests alone by {self.strategy}; tokens, concurrent and burst need the "
                f"{BUCKET}, which holds where no strategy is written"
            )
        if any(rate.period % 1 for rate in self.rates("requests")):
            raise ValueError(f"need whole seconds for a {self.strategy}")

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """What it goes by."""
        return (self.by,) if isinstance(self.by, str) else self.by

    @property
    def called(self) -> str:
        """Its name, be it written or not."""
        return self.name or "-".join(("by", *self.aspects) if self.aspects else ("everybody",))


class Rule(NamedTuple):
    """What a quota comes to."""

    buckets: tuple[Bucket, ...]
    slots: int | None
    largest: float
    """How many tokens one call can put aside; 0 where none are counted."""
    lasts: float
    """Seconds until nothing of what was counted matters any more."""
    numbers: tuple[float, ...]
    """The buckets, as steps take them."""


@lru_cache(maxsize=4096)
def rule_of(quota: Quota, replicas: int = 1) -> Rule:
    """What a quota comes to, or the share in it that one of several replicas has."""
    requests = [_bucket("requests", rate, replicas) for rate in _differing(quota.rates("requests"))]
    if quota.burst is not None and requests:  # of the shortest time: it says how many come at once
        requests[0] = requests[0]._replace(capacity=max(1.0, quota.burst / replicas))
    tokens = [_bucket("tokens", rate, replicas) for rate in _differing(quota.rates("tokens"))]
    slots = quota.concurrent and max(1, quota.concurrent // replicas)
    full = [bucket.capacity * bucket.period / bucket.amount for bucket in requests]
    return Rule(
        buckets=(*requests, *tokens),
        slots=slots,
        largest=min((bucket.capacity for bucket in tokens), default=0),
        lasts=max([1, *full, *(bucket.period * _OWED for bucket in tokens)]),
        numbers=tuple(number for bucket in (*requests, *tokens) for number in bucket.numbers),
    )


def _bucket(counts: Literal["requests", "tokens"], rate: Rate, replicas: int) -> Bucket:
    amount = rate.amount / replicas
    return Bucket(counts, amount, float(rate.period), max(1.0, amount))


def _differing(rates: Iterable[Rate]) -> list[Rate]:
    """The shortest time first; of several for the same time, the smallest."""
    smallest = {rate.period: rate for rate in sorted(rates, key=lambda rate: -rate.amount)}
    return [smallest[period] for period in sorted(smallest)]


class Limit(NamedTuple):
    """A policy for one call: where it is counted, and what the call puts aside there."""

    policy: str
    key: str
    quota: Quota
    rule: Rule
    tokens: int

    @property
    def strategy(self) -> Strategy:
        """How its requests are counted."""
        return self.quota.strategy if isinstance(self.quota, Policy) else BUCKET

    @property
    def of_upstream(self) -> bool:
        """Whether it is about an upstream, so that another one may answer a call it refuses."""
        return isinstance(self.quota, Policy) and "upstream" in self.quota.aspects

    @property
    def holds(self) -> bool:
        """Whether the call has something to give back."""
        return self.tokens > 0 or self.rule.slots is not None

    def shared(self, replicas: int) -> Limit:
        """The part of it that one of several replicas may keep for itself."""
        rule = rule_of(self.quota, replicas)
        return self._replace(rule=rule, tokens=min(self.tokens, int(rule.largest)))

    def take(self, group: int, lease: float) -> Step:
        """Take what the call needs; what it holds is the group's, and lapses with that."""
        return self._step(take, lua.TAKE, lease, group if self.holds else 0, *self._wanted(lease))

    def peek(self) -> Step:
        """Tell what there is to take."""
        return self._step(peek, lua.PEEK, 0, 0, *self._wanted(0))

    def settle(self, group: int, used: float, lease: float) -> Step:
        """Give back what the call holds, but for what it used."""
        numbers = (group, self.tokens, used, *self.rule.numbers)
        return self._step(settle, lua.SETTLE, lease, *numbers)

    def renew(self, groups: Iterable[int], lease: float) -> Step:
        """Let what these groups hold lapse no sooner than in `lease` seconds."""
        return self._step(renew, lua.RENEW, lease, lease, *groups)

    def _wanted(self, lease: float) -> tuple[float, ...]:
        slots = -1 if self.rule.slots is None else self.rule.slots
        return lease, slots, self.tokens, *self.rule.numbers

    def _step(self, run: Run, twin: str, lease: float, *arguments: float) -> Step:
        ttl = max(self.rule.lasts, 2 * lease if self.holds else 0)
        return Step(key=self.key, run=run, lua=twin, arguments=arguments, ttl=ttl)
