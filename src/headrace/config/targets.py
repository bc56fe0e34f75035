"""Who may answer: from `upstream/model`, and lists of it, to targets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from headrace.call import Target, Targets, fitting, leaves
from headrace.config.document import Path
from headrace.config.parts import Parts, words
from headrace.config.problems import did_you_mean
from headrace.config.settings import Share


@dataclass(kw_only=True)
class TargetOptions:
    """An upstream, or one of its models, that may answer."""

    weight: Share = 1.0
    """Its share among the targets of its list, for a plugin that weighs them."""


def targets(parts: Parts, path: Path, value: Any, upstreams: Collection[str]) -> Targets:
    """The targets that stand at `path`; a list inside the list is a group."""
    if not isinstance(value, list):
        target = _target(parts, path, value, upstreams)
        return (target,) if target else ()
    if not value:
        parts.problem(path, "there must be at least one target here")
    found: list[Target | Targets] = []
    for index, item in enumerate(value):
        where = (*path, index)
        if isinstance(item, list):
            found.append(targets(parts, where, item, upstreams))
        elif target := _target(parts, where, item, upstreams):
            found.append(target)
    return tuple(found)


def levels(targets: Targets) -> int:
    """How many plugins it takes, one inside the other, to get from here to one target."""
    inner = max((levels(group) for group in targets if not isinstance(group, Target)), default=-1)
    return max(inner + 1, 1 if len(targets) > 1 else 0)


def without(targets: Targets, disabled: Collection[str]) -> Targets:
    """The targets that are left when some upstreams are disabled, no group of them empty."""
    return fitting(targets, lambda target: target.upstream not in disabled)


def skipped(targets: Targets, disabled: Collection[str]) -> tuple[Target, ...]:
    """The others."""
    return tuple(target for target in leaves(targets) if target.upstream in disabled)


def check_prices(parts: Parts, prices: Collection[str], upstreams: Collection[str]) -> None:
    """Note each key of `server: {prices: …}` that no target can have."""
    for key in prices:
        upstream, slash, _ = key.partition("/")
        if "*" in upstream or (slash and upstream in upstreams):
            continue
        path: Path = ("server", "prices", key)
        if slash:
            message = f"no upstream is called {upstream!r}{did_you_mean(upstream, upstreams)}"
        else:
            message = f"a price is that of a model of an upstream: '{key}/*', or '*/{key}'"
        parts.problem(path, message, key=True)


def _target(parts: Parts, path: Path, value: Any, upstreams: Collection[str]) -> Target | None:
    found = parts.named(path, value, "a target")
    if found is None:
        return None
    shown = parts.quoted(path, found.name)
    options = parts.fill(TargetOptions, found.where, found.options, f"target {shown}")
    upstream, _, model = found.name.partition("/")
    if upstream not in upstreams:
        known = f"; known here: {words(upstreams)}" if upstreams else ""
        hint = did_you_mean(upstream, upstreams) or known
        parts.problem(path, f"no upstream is called {parts.quoted(path, upstream)}{hint}")
        return None
    if "*" in model:
        parts.problem(path, f"a target has no '*'; {upstream!r} alone passes the model on")
    if options is None:
        return None
    return Target(upstream, model or None, weight=options.weight)
