"""A configuration for those who have none: made of what the forwarders find on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headrace import registry
from headrace.config.document import Document, parse
from headrace.forwarder import Found


def default_file(environ: Mapping[str, str]) -> Path | None:
    """The configuration that is served where none is named; None where there is none."""
    if named := environ.get("HEADRACE_CONFIG"):
        return Path(named)
    return Path("gateway.yaml") if Path("gateway.yaml").exists() else None


async def look(environ: Mapping[str, str]) -> list[tuple[str, Found]]:
    """Every upstream that can be used as it is, with its forwarder's name, the best first."""
    able = [(name, kind) for name, kind in _forwarders() if hasattr(kind, "find")]
    found = await asyncio.gather(*(kind.find(environ) for _, kind in able))
    pairs = [(name, one) for (name, _), some in zip(able, found, strict=True) for one in some]
    pairs.sort(key=lambda pair: pair[1].rank)
    real = [pair for pair in pairs if pair[1].rank < Found.STAND_IN]
    return real or pairs


def document_of(found: Iterable[tuple[str, Found]], environ: Mapping[str, str]) -> Document:
    """The configuration that serves what was found."""
    return parse(written(found), "what was found", environ)


def written(found: Iterable[tuple[str, Found]]) -> str:
    """The `gateway.yaml` that serves what was found, in the JSON that is YAML too.

    Each model is a route of its own; for any other model the first upstream is asked.
    """
    upstreams: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    default: str | None = None
    for forwarder, one in found:
        options: Any = {forwarder: dict(one.options)} if one.options else forwarder
        # Elsewhere in a configuration these characters mean something.
        models = [m for m in one.models if not ("*" in m or "$" in m or m.startswith("/"))]
        upstreams[one.name] = {"forwarder": options, "models": models}
        for model in models:
            routes.setdefault(model, f"{one.name}/{model}")
        default = default or (f"{one.name}/{models[0]}" if models else one.name)
    if default:
        routes["*"] = default
    return json.dumps({"upstreams": upstreams, "routes": routes}, indent=2)


def _forwarders() -> Iterator[tuple[str, type[Any]]]:
    """Those that can be loaded."""
    for name in registry.names("forwarders"):
        with suppress(ImportError):
            yield name, registry.named("forwarders", name)
