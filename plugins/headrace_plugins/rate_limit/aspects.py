"""Whose calls are counted together: what a policy goes by, as a key that no client can choose."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import TypeAlias

from headrace import PASSTHROUGH, BadRequest, Call, Routes, Target, network
from headrace_plugins.rate_limit.policies import Aspect

Said: TypeAlias = tuple[str, ...]
"""Of what kind it is by which a call is counted, and which one."""

_NOBODY = "-"


class Granted:
    """Told to those below the plugin that has applied what `callers` grants: it holds once."""


def digest(said: Iterable[Said]) -> str:
    """A key of one length for all that was said, in whatever order, and for nothing else."""
    return blake2b(repr(sorted(said)).encode(), digest_size=16).hexdigest()


def said_of(call: Call, aspect: Aspect, routes: Routes) -> Said:
    """What a call is by one aspect, and which one that is.

    A caller that is not known yet goes by its address, one without a tenant or a key by itself.
    """
    caller = call.caller
    match aspect:
        case "model":
            return aspect, _model(call, routes)
        case "route":
            return aspect, _route(call, routes)
        case "upstream":
            target = call.targets[0] if call.targets else None
            return aspect, target.upstream if isinstance(target, Target) else _NOBODY
        case _ if aspect == "address" or caller is None:
            return "address", network(call.record.client) or _NOBODY, ""
        case "caller":
            return caller.identity
        case "tenant":
            return caller.owner
        case "key" if caller.key:
            return "sha256", caller.key, ""
        case _:
            return caller.person


def _route(call: Call, routes: Routes) -> str:
    """The key of the call's route, which the front chain looks up before the router does."""
    if call.record.route:
        return call.record.route
    route = routes.exact_path(call.path)
    if route is None and call.operation == PASSTHROUGH:
        found = routes.for_path(call.path)
        route = found and found[0]
    elif route is None and call.method == "POST":
        with suppress(BadRequest):  # the router says what is wrong
            route = routes.for_model(call.dialect.asked(call))
    return route.key if route else _NOBODY


def _model(call: Call, routes: Routes) -> str:
    """The model of the call's only target, else its route.

    Never the mere name that a client sends: as many as it can think of would fit a route with `*`,
    each with a limit of its own.
    """
    match call.targets:
        case (Target(upstream, str(model)),) if call.record.route != f"{upstream}/*":
            return model
    return _route(call, routes)
