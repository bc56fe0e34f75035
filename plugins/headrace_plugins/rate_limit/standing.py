"""The limits that somebody may have met: who operates the gateway asks for them by a name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product

from headrace import Callers, Quota, Routes, Step
from headrace_plugins.rate_limit.aspects import Said, digest
from headrace_plugins.rate_limit.policies import CALLER, Aspect, Limit, Policy, rule_of

_WHO: dict[Aspect, tuple[str, ...]] = {
    "caller": ("entry", "key", "id"),
    "id": ("key", "id"),
    "tenant": ("tenant", "key", "id"),
    "key": ("sha256", "key", "id"),
    "address": ("address",),
}
"""What a caller can be counted as, by what a policy goes by."""
_ISSUED = ("tenant", "id")
"""What each issuer of tokens has names of its own for."""


def limits_of(
    who: str,
    policies: Sequence[Policy],
    *,
    name: str,
    callers: Callers,
    routes: Routes,
    issuers: Collection[str],
) -> Iterator[Limit]:
    """Every limit that counts somebody called `who`, be it an entry, an id, a tenant, a key.

    An id and a tenant are meant of whichever of `issuers` they are.

    A policy that goes by the model or the upstream, too, counts by each route that there is.
    """
    granted = callers.named(who)
    found: list[tuple[str, Quota, Sequence[Said]]] = []
    if granted and granted.listed:
        found += [(CALLER, granted.limits, [each]) for each in _called(who, ("entry",), issuers)]
    elif callers.default:
        persons = _called(who, _WHO["id"], issuers)
        found += [(CALLER, callers.default.limits, [each]) for each in persons]
    for policy in policies:
        if any(aspect in _WHO for aspect in policy.aspects):
            ways = [_ways(aspect, who, routes, issuers) for aspect in policy.aspects]
            found += [(policy.called, policy, said) for said in product(*ways)]
    for called, quota, said in found:
        if quota:
            key = f"{{{name}}}{called}:{digest(said)}"
            yield Limit(policy=called, key=key, quota=quota, rule=rule_of(quota), tokens=0)


def _ways(aspect: Aspect, who: str, routes: Routes, issuers: Collection[str]) -> list[Said]:
    if aspect in _WHO:
        return _called(who, _WHO[aspect], issuers)
    return [(aspect, name) for name in (*routes.keys, *routes.upstreams)]


def _called(who: str, kinds: Sequence[str], issuers: Collection[str]) -> list[Said]:
    """Everybody of these kinds who goes by a name."""
    return [
        (kind, who, issuer)
        for kind in kinds
        for issuer in ("", *(issuers if kind in _ISSUED else ()))
    ]


def forgetting(limit: Limit) -> Step:
    """The step that forgets all that was counted."""
    return Step(key=limit.key, run=lambda *_: (None, ()), lua="return nil, {}", ttl=1)
