"""A gateway of a few lines of YAML, with scripted upstreams in place of real ones."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.chain import Next
from headrace.config.build import build
from headrace.config.document import parse
from headrace.gateway import Gateway


def gateway(
    text: str = "",
    *,
    upstream: Next | None = None,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> Gateway:
    """The gateway that `text` describes; `upstream` answers in place of every forwarder.

    Without a word it has one upstream, `a`, that answers for every model. Enter its lifespan before
    you ask it. `options` are those of `Gateway`; it is open unless they say otherwise.
    """
    written = textwrap.dedent(text) or "upstreams: {a: mock}\nroutes: {'*': a}\n"
    plan = build(parse(written, "gateway.yaml", environ or {}))
    if upstream is not None:
        replaced = {name: replace(u, forward=upstream) for name, u in plan.upstreams.items()}
        probes = tuple(replace(asking, forward=upstream) for asking in plan.probes)
        plan = replace(plan, upstreams=replaced, probes=probes)
    return Gateway(plan, **{"open": True, **options})
