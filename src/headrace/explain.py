"""What a configuration means: as an outline, and for one request up to the bytes that would leave.

Nothing is opened. The outgoing request is made by the real plugins, attempt, dialect and forwarder
in front of a transport that keeps what it is given; plugins that ask who is asking are left out.
Secrets are masked in all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
from starlette.datastructures import Headers

from headrace.attempts import Attempts, Upstream
from headrace.call import PASSTHROUGH, Call, Deadline, Target, Targets, leaves
from headrace.caller import Caller, Entry
from headrace.chain import Plugins, compose
from headrace.config.build import build
from headrace.config.document import Document
from headrace.config.fields import options_of, part_in
from headrace.config.plan import Plan
from headrace.config.problems import looks_secret, mask
from headrace.dialect import OPENAI
from headrace.errors import CallError, HeadraceError
from headrace.options import Duration, Sha256
from headrace.record import Record
from headrace.registry import Group, name_of
from headrace.routing import Route, Routes, reached
from headrace.store.memory import Memory
from headrace.transport import Request, Response, Transport

_SHORT = 6
"""A shorter secret could be part of any word; it is masked where it stands alone."""


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


def plan_of(document: Document) -> Plan:
    """The plan to explain: its parts reach no upstream and no store."""
    return build(document, through=Capture(), keep=Memory())


def outline(plan: Plan) -> dict[str, Any]:
    """Server, routes and upstreams as JSON, in the order in which a call meets them."""
    shown = _Shown(plan)
    server = {**shown.options(plan.server), "host": plan.server.host, "port": plan.server.port}
    return {
        "server": {name: server[name] for name in server if name not in _ELSEWHERE},
        "who_may_ask": _who(plan),
        "middleware": [
            {_import_path(kind): shown.plain(options)} for kind, options in plan.middleware
        ],
        "chain": shown.parts("plugins", plan.chain),
        "callers": {entry.name: _granted(entry, shown) for entry in plan.callers.written},
        "attempts": plan.server.attempts,
        "observers": shown.parts("observers", plan.observers),
        "store": shown.part("stores", plan.store),
        "routes": {
            route.key: _route(plan, route, shown) for route in sorted(plan.routes, key=_looked_up)
        },
        "upstreams": {name: _upstream(one, shown) for name, one in plan.upstreams.items()},
        "disabled": list(plan.disabled),
    }


_ELSEWHERE = ("attempts", "auth", "chain", "middleware", "observers", "store", "timeouts")


async def request_of(
    plan: Plan,
    *,
    method: str,
    path: str,
    model: str | None,
    body: bytes | None,
    caller: str | None = None,
) -> dict[str, Any]:
    """The route of one request, its plugins, and what would be sent to each of its targets.

    `caller` is an entry of `callers`; without it, whoever asks may use everything. Raises
    `HeadraceError` where there is no such entry.
    """
    shown = _Shown(plan)
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
        "who_may_ask": _who(plan),
        "caller": caller,
        "passes": shown.parts("plugins", plan.chain),
        **_route(plan, route, shown),
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


def _granted(entry: Entry, shown: _Shown) -> dict[str, Any]:
    """What an entry of `callers` says, what the default filled in too."""
    told = {
        "match": {name: list(values) for name, values in entry.match.items() if name != "key"},
        "keys": len(entry.match.get("key", ())),
        "models": None if entry.models is None else list(entry.models),
        "limits": shown.options(entry.limits),
        "only": shown.plain(entry.only),
    }
    return {name: value for name, value in told.items() if value or name == "models"}


def _import_path(kind: Any) -> str:
    """The import path of a middleware, which may be a function, or made by one."""
    return f"{kind.__module__}:{getattr(kind, '__qualname__', type(kind).__qualname__)}"


def _who(plan: Plan) -> list[str] | str:
    """The plugins that ask who is asking; without one, whom the gateway lets in."""
    found = [name_of("plugins", p) for p in plan.chain if getattr(p, "authenticates", False)]
    return found or ("everybody" if plan.server.auth == "none" else "this machine")


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
    plan: Plan, route: Route, call: Call, target: Target, shown: _Shown
) -> dict[str, Any]:
    """What would leave for one target of a route."""
    upstream = plan.upstreams[target.upstream]
    told: dict[str, Any] = {
        "target": shown.plain(str(target)),
        "passes": shown.parts("plugins", (*upstream.plugins, *upstream.brought)),
    }
    open_to_all = [p for p in plan.chain if not getattr(p, "authenticates", False)]
    ask = compose((*open_to_all, *route.chain), Attempts(plan.upstreams))
    record = Record(id=call.id, method=call.method, path=call.path)
    try:
        reply = await ask(call.replace(record=record).towards(target))
        await reply.aclose()
        told["refused"] = "it answers by itself, without a request"
    except Kept as kept:
        told |= shown.request(kept.request)
    except CallError as error:
        told["refused"] = shown.text(error.message)
    if record.cache and record.cache.status == "bypass":
        told["not_cached"] = record.cache.why
    return told


def _route(plan: Plan, route: Route, shown: _Shown) -> dict[str, Any]:
    dividing = [p for p in route.chain if getattr(p, "divides", False)]
    return {
        "chain": shown.parts("plugins", route.chain),
        "tried_by": [name_of("plugins", plugin) for plugin in dividing],
        "targets": shown.plain(_nested(route.targets)),
        "skipped": shown.plain(plan.skipped.get(route.key, ())),
    }


def _looked_up(route: Route) -> tuple[bool, bool, bool, int]:
    """Routes in the order in which they are tried: exact, long patterns, short ones, `*`."""
    pattern = len(route.key) if route.is_pattern else 0
    return route.is_path, route.key == "*", route.is_pattern, -pattern


def _upstream(upstream: Upstream, shown: _Shown) -> dict[str, Any]:
    return {
        "forwarder": shown.part("forwarders", upstream.forward),
        "plugins": shown.parts("plugins", upstream.plugins),
        "brings": shown.parts("plugins", upstream.brought),
        "models": shown.plain(upstream.models),
        "labels": shown.plain(upstream.labels),
        "timeouts": {name: str(Duration(value)) for name, value in vars(upstream.timeouts).items()},
        "ask_usage": upstream.ask_usage,
    }


def _nested(targets: Targets) -> list[Any]:
    return [_target(t) if isinstance(t, Target) else _nested(t) for t in targets]


def _target(target: Target) -> Any:
    """A target's name, or its name with options, as `gateway.yaml` has it."""
    weight = float(target.weight)
    if weight == 1:
        return str(target)
    return {str(target): {"weight": int(weight) if weight.is_integer() else weight}}


class _Shown:
    """Turns things into JSON, with every secret masked that the plan knows of."""

    def __init__(self, plan: Plan) -> None:
        known = {*plan.secrets, *(s for one in plan.upstreams.values() for s in one.secrets)}
        self._secrets = sorted(filter(None, known), key=len, reverse=True)

    def parts(self, group: Group, things: Iterable[object]) -> list[dict[str, Any]]:
        """Several of a kind."""
        return [self.part(group, thing) for thing in things]

    def part(self, group: Group, thing: object) -> dict[str, Any]:
        """The name of a thing and its options, as `gateway.yaml` has them."""
        return {name_of(group, thing): self.options(thing)}

    def options(self, thing: object) -> dict[str, Any]:
        """The options of a thing that differ from their defaults."""
        return {
            option.name: self.parts("plugins", value)
            if option.kind == Plugins
            else self.member(option.name, value)
            for option in options_of(type(thing)).values()
            if (value := getattr(thing, option.name)) != option.default
        }

    def member(self, name: str, value: Any) -> Any:
        """A value by its name; of a mapping of keys, the names of those whose keys they are."""
        if isinstance(value, Mapping) and any(isinstance(key, Sha256) for key in value):
            return [self.plain(getattr(inner, "name", inner)) for inner in value.values()]
        return "***" if looks_secret(name) and value is not None else self.plain(value)

    def plain(self, value: Any) -> Any:
        """Any value."""
        match value:
            case Mapping():
                return {str(key): self.member(str(key), inner) for key, inner in value.items()}
            case list() | tuple():
                return [self.plain(inner) for inner in value]
            case None | bool():
                return value
            case int() | float() if type(value) in (int, float):
                return value
            case _ if part_in(type(value)):
                return self.options(value)
            case _:
                text = str(value)
                return "***" if text in self._secrets else mask(self.text(text))

    def text(self, text: str) -> str:
        """Text in which secrets may stand."""
        for secret in self._secrets:
            if len(secret) >= _SHORT:
                text = text.replace(secret, "***")
        return text

    def request(self, request: Request) -> dict[str, Any]:
        """What would be sent, its body as JSON where it is."""
        body: Any = request.body.decode("utf-8", "replace")
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(request.body)
        return {
            "method": request.method,
            "url": mask(self.text(request.url)),
            "headers": {name: self._header(name, value) for name, value in request.headers},
            "body": self._body(body),
        }

    def _body(self, value: Any) -> Any:
        match value:
            case dict():
                return {self.text(key): self._body(inner) for key, inner in value.items()}
            case list():
                return [self._body(inner) for inner in value]
            case str():
                return self.text(value)
            case _:
                return value

    def _header(self, name: str, value: str) -> str:
        if not looks_secret(name):
            return mask(self.text(value))
        scheme, space, _ = value.partition(" ")
        return f"{scheme} ***" if space else "***"
