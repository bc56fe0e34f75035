"""The limits that somebody may have met: who operates the gateway asks for them by a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from headrace import Callers, Quota, Routes, Step
from headrace_plugins.rate_limit.aspects import digest
from headrace_plugins.rate_limit.policies import CALLER, Aspect, Limit, Policy, rule_of

_WHO: dict[Aspect, tuple[str, ...]] = {
    "caller": ("entry", "id"),
    "id": ("id",),
    "tenant": ("tenant", "id"),
    "key": ("key", "id"),
    "address": ("address",),
}
"""What a caller can be counted as, by what a policy goes by."""


def limits_of(
    who: str, policies: Sequence[Policy], *, name: str, callers: Callers, routes: Routes
) -> Iterator[Limit]:
    """Every limit that counts somebody called `who`, be it an entry, an id, a tenant, a key.

    A policy that goes by the model or the upstream, too, counts by each route that there is.
    """
    granted = callers.named(who)
    found: list[tuple[str, Quota, Sequence[tuple[str, str]]]] = []
    if granted and granted.listed:
        found.append((CALLER, granted.limits, [("entry", who)]))
    elif callers.default:
        found.append((CALLER, callers.default.limits, [("id", who)]))
    for policy in policies:
        if any(aspect in _WHO for aspect in policy.aspects):
            ways = [_ways(aspect, who, routes) for aspect in policy.aspects]
            found += [(policy.called, policy, said) for said in product(*ways)]
    for called, quota, said in found:
        if quota:
            key = f"{{{name}}}{called}:{digest(said)}"
            yield Limit(policy=called, key=key, quota=quota, rule=rule_of(quota), tokens=0)


def _ways(aspect: Aspect, who: str, routes: Routes) -> list[tuple[str, str]]:
    if aspect in _WHO:
        return [(kind, who) for kind in _WHO[aspect]]
    return [(aspect, name) for name in (*routes.keys, *routes.upstreams)]


def forgetting(limit: Limit) -> Step:
    """The step that forgets all that was counted."""
    return Step(key=limit.key, run=lambda *_: (None, ()), lua="return nil, {}", ttl=1)
