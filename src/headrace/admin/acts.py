"""What the administration does: each act is asked of the gateway, for a target, with what was said.

An act's name is what the audit calls it; its first line is what `GET /admin` tells of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from headrace.config.plan import Plan, says
from headrace.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    HeadraceError,
    NoSource,
    NotFound,
)
from headrace.explain import plan_of, request_of
from headrace.hands import Hands
from headrace.keeping import all_under
from headrace.options import Duration
from headrace.registry import name_of
from headrace.version import __version__

if TYPE_CHECKING:
    from headrace.admin.door import Operated

Said: TypeAlias = Mapping[str, Any]
Act: TypeAlias = Callable[["Operated", str, Said], Awaitable[Any]]

_LONGEST = 7 * 86400.0
"""Seconds for which an upstream can be laid down."""


async def index(gateway: Operated, target: str, said: Said) -> Any:
    """What there is."""
    return {f"{verb} {path}": (act.__doc__ or "").splitlines()[0] for verb, path, act, _ in ACTS}


async def health(gateway: Operated, target: str, said: Said) -> Any:
    """How the gateway is: configuration, upstreams, store, calls under way."""
    plan, vitals = gateway.plan, gateway.plan.vitals
    config = vitals.config
    return {
        "status": "degraded" if plan.store.fault or vitals.refused else "ok",
        "version": __version__,
        "process": os.getpid(),
        "workers": gateway.workers,
        "began": vitals.began.isoformat(),
        "seconds": round((datetime.now(UTC) - vitals.began).total_seconds()),
        "calls": vitals.calls,
        "config": {
            "hash": plan.hash,
            "files": list(plan.files),
            "since": config.since.isoformat() if config else None,
            "reloads": dict(vitals.reloads),
            "refused": vitals.refused,
        },
        "store": {"kind": name_of("stores", plan.store), "fault": plan.store.fault},
        "upstreams": {
            name: {
                "state": _state(plan, name),
                "models": list(upstream.models),
                "rests": [
                    {
                        "model": place[1],
                        "asked": not rest.closed,
                        "why": rest.why,
                        "seconds": round(rest.left, 1),
                    }
                    for place, rest in vitals.rests.all.items()
                    if place[0] == name
                ],
            }
            for name, upstream in plan.upstreams.items()
        },
        "disabled": list(plan.disabled),
        "lost": dict(vitals.lost),
    }


async def reload(gateway: Operated, target: str, said: Said) -> Any:
    """Take the configuration as it is written now; all workers of the port do."""
    try:
        changed = await gateway.reload()
    except ConfigError as error:
        message = f"the configuration stays as it was; the new one has problems:\n{error}"
        raise BadRequest(message, code="config_refused") from None
    except NoSource as error:
        raise Conflict(str(error), code="no_file") from None
    except Exception as error:  # noqa: BLE001  a part that cannot be opened is anyone's
        message = f"the configuration stays as it was: {type(error).__name__}; the log says more"
        raise Conflict(message, code="config_refused") from None
    gateway.tell_others()
    return {"changed": changed, "hash": gateway.plan.hash}


async def explain(gateway: Operated, target: str, said: Said) -> Any:
    """Say for a `model`, a `path` or a whole `body` what would be asked of whom, asking nobody."""
    document = gateway.plan.document
    if document is None:
        raise Conflict("this gateway was not made of a file", code="no_file")
    body = said.get("body")
    plan = await asyncio.to_thread(plan_of, document, reads=gateway.plan.store)
    try:
        return await request_of(
            plan,
            method=said.get("method") and str(said["method"]),
            path=str(said.get("path") or "/v1/chat/completions"),
            model=said.get("model") and str(said["model"]),
            body=None if body is None else orjson.dumps(body),
            caller=said.get("caller") and str(said["caller"]),
            tenant=said.get("tenant") and str(said["tenant"]),
            looks=True,
        )
    except HeadraceError as error:
        raise BadRequest(str(error)) from None


async def clear_cache(gateway: Operated, target: str, said: Said) -> Any:
    """Forget kept answers: of a `tenant`, of a `route`, or with `all=true` every one."""
    plan = gateway.plan
    tenant, route = said.get("tenant"), said.get("route")
    if bool(tenant or route) == (str(said.get("all")).lower() == "true"):
        raise BadRequest("say what to forget: tenant=…, route=…, both of them, or all=true")
    _check_shared(gateway)
    names = sorted({getattr(part, "name", "") for part in plan.parts if says(part, "caches")})
    if not names:
        raise NotFound("this gateway has no cache", code="no_cache")
    known = [*(route.key for route in plan.routes), *(f"{name}/*" for name in plan.upstreams)]
    if route and route not in known:
        raise NotFound(f"no route is called {route!r}", code="no_route")
    found = [p for name in names for p in all_under(name, known, tenant=tenant, route=route)]
    return {"cleared": sum([await plan.store.clear(prefix) for prefix in found])}


async def limits(gateway: Operated, target: str, said: Said) -> Any:
    """What is left of the limits of a caller: an entry of `callers`, an id, a tenant, a key."""
    _check_shared(gateway)
    told = [vars(each) for part in _counting(gateway.plan) for each in await part.counted(target)]
    return {"id": target, "listed": bool(gateway.plan.callers.named(target)), "limits": told}


async def forget_limits(gateway: Operated, target: str, said: Said) -> Any:
    """Let a caller begin anew: what was counted of it is forgotten."""
    _check_shared(gateway)
    return {
        "id": target,
        "forgotten": sum([await part.forget(target) for part in _counting(gateway.plan)]),
    }


async def rest(gateway: Operated, target: str, said: Said) -> Any:
    """Let an upstream rest `for` a time, an hour where nothing is said: nobody asks it."""
    try:
        seconds = float(Duration.of(said.get("for", "1h")))
    except ValueError as error:
        raise BadRequest(f"for {error}", param="for") from None
    if not 0 < seconds <= _LONGEST:
        raise BadRequest("for must be more than 0 and at most 7d", param="for")
    await _hands(gateway).rest(_upstream(gateway, target), seconds)
    return {"upstream": target, "rests": seconds}


async def resume(gateway: Operated, target: str, said: Said) -> Any:
    """Let an upstream be asked again, whyever it rests."""
    await _hands(gateway).resume(_upstream(gateway, target))
    return {"upstream": target, "rests": 0}


def _hands(gateway: Operated) -> Hands:
    _check_shared(gateway)
    assert gateway.plan.hands, "they are there where an administration is"
    return gateway.plan.hands


def _upstream(gateway: Operated, name: str) -> str:
    if name not in gateway.plan.upstreams:
        known = ", ".join(gateway.plan.upstreams)
        raise NotFound(f"no upstream is called {name!r}; there are {known}", code="no_upstream")
    return name


def _check_shared(gateway: Operated) -> None:
    """Refuse what one of several workers would do for itself alone."""
    if gateway.workers > 1 and not gateway.plan.store.shared:
        raise Conflict(
            f"{gateway.workers} workers share no store, so that one of them alone would do this; "
            "let them share one: server: {store: redis://…}",
            code="not_shared",
        )


def _counting(plan: Plan) -> list[Any]:
    return [part for part in plan.parts if says(part, "counts") and hasattr(part, "counted")]


def _state(plan: Plan, name: str) -> str:
    rest = plan.vitals.rests.at((name, None))
    if rest and rest.closed:
        return "resting"
    own = [rest for place, rest in plan.vitals.rests.all.items() if place[0] == name]
    return "partly" if own else "asked"


ACTS: tuple[tuple[str, str, Act, tuple[str, ...]], ...] = (
    ("GET", "/admin", index, ()),
    ("GET", "/health/detailed", health, ()),
    ("POST", "/admin/reload", reload, ()),
    ("POST", "/admin/explain", explain, ("model", "path", "method", "body", "caller", "tenant")),
    ("DELETE", "/admin/cache", clear_cache, ("tenant", "route", "all")),
    ("GET", "/admin/ratelimit/{id}", limits, ()),
    ("DELETE", "/admin/ratelimit/{id}", forget_limits, ()),
    ("POST", "/admin/upstreams/{name}/rest", rest, ("for",)),
    ("POST", "/admin/upstreams/{name}/resume", resume, ()),
)
"""Method, path with `{…}` for the target, what is done there, and what can be said with it."""
