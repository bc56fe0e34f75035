"""What a configuration means: as an outline, and for one request up to the bytes that would leave.

Nothing is opened. The outgoing request is made by the real plugins, attempt, dialect and forwarder
in front of a transport that keeps what it is given; plugins that ask who is asking are left out.
Secrets are masked in all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.datastructures import Headers

from headrace.attempts import Attempts
from headrace.call import PASSTHROUGH, Call, Deadline, Target, leaves
from headrace.caller import Caller
from headrace.chain import Plugin, compose
from headrace.config.build import build
from headrace.config.document import Document
from headrace.config.outline import Shown, of_route, who
from headrace.config.plan import Plan, says
from headrace.config.problems import looks_secret, mask
from headrace.dialect import OPENAI
from headrace.errors import CallError, HeadraceError
from headrace.options import sha256
from headrace.record import Cached, Record
from headrace.routing import Route, Router, Routes, reached
from headrace.store import Store
from headrace.store.memory import Memory
from headrace.transport import Request, Response, Transport


class Kept(HeadraceError):
    """Carries the request that would have been sent."""

    def __init__(self, request: Request) -> None:
        super().__init__("nothing was sent")
        self.request = request


class Capture(Transport):
    """A transport that sends nothing: it raises `Kept` with what it was given."""

    name = "capture"

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Raise `Kept`."""
        raise Kept(request)

    async def aclose(self) -> None:
        """Nothing is open."""


@dataclass(kw_only=True, eq=False)
class Reading(Memory):
    """A store that reads what another one keeps, and writes nothing there."""

    behind: Store

    async def get(self, key: str) -> bytes | None:
        """What the other one keeps."""
        return await self.behind.get(key)


def plan_of(document: Document, *, reads: Store | None = None) -> Plan:
    """The plan to explain: its parts reach no upstream, and no store but the one it `reads`."""
    return build(document, through=Capture(), keep=Reading(behind=reads) if reads else Memory())


async def request_of(
    plan: Plan,
    *,
    method: str | None = None,
    path: str,
    model: str | None,
    body: bytes | None,
    caller: str | None = None,
    tenant: str | None = None,
    looks: bool = False,
) -> dict[str, Any]:
    """The route of one request, its plugins, and what would be sent to each of its targets.

    Without a `method` it is a POST where a `model` or a `body` is given. `caller` is an entry of
    `callers`; without it, whoever asks may use everything. With `looks`, it says what a cache would
    make of the call, as its store is now: for a `tenant`, or a key or id that has none. Raises
    `HeadraceError` where there is no such entry.
    """
    shown = Shown(plan)
    method = method or ("POST" if model or body is not None else "GET")
    told: dict[str, Any] = {"method": method, "path": path, "asked": None, "route": None}
    routes = Routes(plan.routes, plan.upstreams)
    asks = _somebody(plan, caller)
    try:
        call = _call(method, path, model, body)
        if call.operation == PASSTHROUGH or routes.exact_path(path):
            call = call.replace(operation=PASSTHROUGH)
            found = routes.for_path(path)
            route, may = (found[0], asks.may_pass(found[1])) if found else (None, False)
        elif call.operation in _ANSWERED:
            return {
                **told,
                "refused": f"the gateway itself answers this, {_ANSWERED[call.operation]}",
            }
        else:
            told["asked"] = OPENAI.asked(call)
            route, may = routes.for_model(told["asked"]), asks.may(told["asked"])
    except CallError as error:
        return {**told, "refused": f"the client gets a {error.status}: {error.message}"}
    if route is None:
        return {**told, "refused": "no route fits; the client gets a 404"}
    if not may:
        return {**told, "refused": f"{asks.name} may not use this; the client gets a 404"}
    if not route.targets:
        told["refused"] = "the client gets a 503"
    route = replace(route, targets=reached(route, plan.upstreams, asks))
    if not route.targets and "refused" not in told:
        told["refused"] = f"{asks.name} gets a 403: none of its upstreams has the wanted labels"
    return {
        **told,
        "route": route.key,
        "who_may_ask": who(plan),
        "caller": caller,
        "passes": shown.parts("plugins", plan.chain),
        "attempts": plan.server.attempts,
        **of_route(plan, route, shown),
        **(await _kept(plan, call, asks, tenant or caller) if looks else {}),
        "requests": [
            await _sent(plan, route, call, target, shown) for target in leaves(route.targets)
        ],
    }


_ANSWERED = {"models": "with its list of models", "me": "with what it knows of who asks"}


def _somebody(plan: Plan, entry: str | None) -> Caller:
    found = plan.callers.named(entry) if entry else Caller("somebody")
    if found is None:
        names = [entry.name for entry in plan.callers.written]
        known = f"there are {', '.join(names)}" if names else "there is none"
        raise HeadraceError(f"no caller is called {entry!r}; {known}")
    return found


def _call(method: str, path: str, model: str | None, body: bytes | None) -> Call:
    operation = OPENAI.operation(method, path) or PASSTHROUGH
    if body is None and model:
        body = orjson.dumps({"model": model, **_SAMPLES.get(operation, {})})
    record = Record(id="explained", method=method, path=path)
    call = Call(
        id=record.id,
        method=method,
        path=path,
        query="",
        headers=Headers({"content-type": "application/json"} if body else {}),
        body=body or b"",
        dialect=OPENAI,
        operation=operation,
        caller=Caller("somebody"),
        deadline=Deadline.after(60),
        record=record,
    )
    return call.edit(model=model) if model and call.members.get("model") != model else call


_SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Say hello."}]},
    "completion": {"prompt": "Say hello."},
    "embedding": {"input": "Say hello."},
}
"""What is asked where only a model is given, by the operation of the path."""


async def _sent(
    plan: Plan, route: Route, call: Call, target: Target, shown: Shown
) -> dict[str, Any]:
    """What would leave for one target of a route."""
    upstream = plan.upstreams[target.upstream]
    told: dict[str, Any] = {
        "target": shown.plain(str(target)),
        "passes": shown.parts("plugins", (*upstream.plugins, *upstream.brought)),
    }
    ask = compose((*_open_to_all(plan), *route.chain), Attempts(plan.upstreams))
    record = Record(id=call.id, method=call.method, path=call.path)
    try:
        reply = await ask(call.replace(record=record).towards(target))
        await reply.aclose()
        told["refused"] = "it answers by itself, without a request"
    except Kept as kept:
        told |= _request(kept.request, shown)
    except CallError as error:
        told["refused"] = shown.text(error.message)
    if record.cache and record.cache.status == "bypass":
        told["not_cached"] = record.cache.why
    return told


async def _kept(plan: Plan, call: Call, asks: Caller, owner: str | None) -> dict[str, Any]:
    """What a cache would make of the call; nothing where it meets none."""
    callers: list[Caller | None] = [None]
    if owner:  # a tenant, or what has none; who may be meant is known to the one who let it in
        of_key = replace(asks, id=owner, key=sha256(owner), tenant=None)
        named = (replace(asks, tenant=owner), replace(of_key, key=None))
        issued = [replace(each, issuer=i) for i in plan.vitals.issuers for each in named]
        callers = [*named, of_key, *issued]
    found = [cached for each in callers if (cached := await _met(plan, call.replace(caller=each)))]
    if not found:
        return {}
    best = next((one for one in found if one.status in ("hit", "stale")), found[0])
    told = {"status": best.status, "why": best.why, "age": best.age and round(best.age)}
    return {"cache": {name: value for name, value in told.items() if value not in ("", None)}}


async def _met(plan: Plan, call: Call) -> Cached | None:
    record = Record(id=call.id, method=call.method, path=call.path)
    router = Router(plan.routes, plan.upstreams, Attempts(plan.upstreams), dialects=(OPENAI,))
    with suppress(Kept, CallError):
        reply = await compose(_open_to_all(plan), router)(call.replace(record=record))
        record.cache = reply.cached or record.cache
        await reply.aclose()
    return record.cache


def _open_to_all(plan: Plan) -> list[Plugin]:
    """The front chain without the plugins that ask who is asking."""
    return [plugin for plugin in plan.chain if not says(plugin, "authenticates")]


def _request(request: Request, shown: Shown) -> dict[str, Any]:
    """What would be sent, its body as JSON where it is."""
    body: Any = request.body.decode("utf-8", "replace")
    with suppress(orjson.JSONDecodeError):
        body = orjson.loads(request.body)
    return {
        "method": request.method,
        "url": mask(shown.text(request.url)),
        "headers": {name: _header(name, value, shown) for name, value in request.headers},
        "body": _body(body, shown),
    }


def _body(value: Any, shown: Shown) -> Any:
    match value:
        case dict():
            return {shown.text(key): _body(inner, shown) for key, inner in value.items()}
        case list():
            return [_body(inner, shown) for inner in value]
        case str():
            return shown.text(value)
        case _:
            return value


def _header(name: str, value: str, shown: Shown) -> str:
    if not looks_secret(name):
        return mask(shown.text(value))
    scheme, space, _ = value.partition(" ")
    return f"{scheme} ***" if space else "***"
