"""A configuration for those who have none: made of what the forwarders find on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import yaml

from headrace import registry
from headrace.forwarder import Found


async def look(environ: Mapping[str, str]) -> list[tuple[str, Found]]:
    """Every upstream that can be used as it is, with its forwarder's name, the best first."""
    named = [(name, registry.named("forwarders", name)) for name in registry.names("forwarders")]
    able = [(name, kind) for name, kind in named if hasattr(kind, "find")]
    found = await asyncio.gather(*(kind.find(environ) for _, kind in able))
    pairs = [(name, one) for (name, _), some in zip(able, found, strict=True) for one in some]
    pairs.sort(key=lambda pair: pair[1].rank)
    real = [pair for pair in pairs if pair[1].rank < Found.STAND_IN]
    return real or pairs


def written(found: list[tuple[str, Found]]) -> str:
    """The `gateway.yaml` that serves what was found.

    Each model is a route of its own; for any other model the first upstream is asked.
    """
    upstreams: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    for forwarder, one in found:
        options: Any = {forwarder: dict(one.options)} if one.options else forwarder
        upstreams[one.name] = {"forwarder": options}
        if one.models:
            upstreams[one.name]["models"] = list(one.models)
        for model in one.models:
            if "*" not in model and not model.startswith("/"):
                routes.setdefault(model, f"{one.name}/{model}")
    if found:
        first = found[0][1]
        routes["*"] = f"{first.name}/{first.models[0]}" if first.models else first.name
    return yaml.safe_dump({"upstreams": upstreams, "routes": routes}, sort_keys=False)
