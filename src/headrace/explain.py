"""What a configuration means: as an outline, and for one request up to the bytes that would leave.

Nothing is opened. The outgoing request is made by the real attempt, dialect and forwarder in front
of a transport that keeps what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import orjson
from starlette.datastructures import Headers

from headrace.attempts import Attempts, Upstream
from headrace.call import PASSTHROUGH, Call, Deadline, Target, Targets, leaves
from headrace.config.build import Plan
from headrace.config.parts import options_of
from headrace.dialect import OPENAI
from headrace.errors import CallError, HeadraceError
from headrace.record import Record
from headrace.registry import Group, name_of
from headrace.routing import Route, Routes
from headrace.transport import Request, Response


class Kept(HeadraceError):
    """Carries the request that would have been sent."""

    def __init__(self, request: Request) -> None:
        super().__init__("nothing was sent")
        self.request = request


class Capture:
    """A transport that sends nothing: it raises `Kept` with what it was given."""

    name = "capture"

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Raise `Kept`."""
        raise Kept(request)

    async def aclose(self) -> None:
        """Nothing is open."""


def outline(plan: Plan) -> dict[str, Any]:
    """Server, upstreams and routes as JSON, in the order in which a call meets them."""
    return {
        "chain": [_part("plugins", plugin) for plugin in plan.chain],
        "observers": [_part("observers", observer) for observer in plan.observers],
        "store": _part("stores", plan.store),
        "upstreams": {name: _upstream(upstream) for name, upstream in plan.upstreams.items()},
        "disabled": list(plan.disabled),
        "routes": {route.key: _route(plan, route) for route in plan.routes},
    }


def outlined(explained: dict[str, Any]) -> str:
    """The outline as text."""
    lines = ["every call"]
    lines += _indented([f"passes {_shown(plugin)}" for plugin in explained["chain"]])
    lines += _indented([f"is told to {_shown(observer)}" for observer in explained["observers"]])
    lines += ["", "upstreams"]
    for name, upstream in explained["upstreams"].items():
        lines.append(f"  {name}: {_shown(upstream['forwarder'])}")
        lines += _indented([f"plugin {_shown(plugin)}" for plugin in upstream["plugins"]], 4)
        lines += _indented([f"brings {_shown(plugin)}" for plugin in upstream["brings"]], 4)
        models = [k if k == v else f"{k} (there {v})" for k, v in upstream["models"].items()]
        lines += _indented([f"models {', '.join(models)}"] if models else [], 4)
    lines += [f"  {name}: disabled" for name in explained["disabled"]]
    lines += ["", "routes"]
    for key, route in explained["routes"].items():
        through = " > ".join(map(_shown, route["chain"]))
        lines.append(f"  {key} -> {_targets_shown(route['targets'])}")
        lines += _indented([f"through {through}"] if through else [], 4)
    return "\n".join(lines)


async def request_of(
    plan: Plan, capture: Capture, *, path: str, model: str | None, body: bytes | None
) -> dict[str, Any]:
    """The route of one request, its plugins, and what would be sent to each of its targets."""
    call = _call(path, model, body)
    routes = Routes(plan.routes, plan.upstreams)
    if call.operation == PASSTHROUGH:
        asked, route = path, routes.for_path(path)
    else:
        asked = OPENAI.asked(call)
        route = routes.for_model(asked)
    if route is None:
        return {"asked": asked, "route": None, "chain": [], "targets": []}
    attempts = Attempts(plan.upstreams)
    sent = [
        await _sent(plan.upstreams[target.upstream], attempts, call, target)
        for target in leaves(route.targets)
    ]
    return {
        "asked": asked,
        "route": route.key,
        "chain": [_part("plugins", plugin) for plugin in (*plan.chain, *route.chain)],
        "order": _nested(route.targets),
        "targets": sent,
    }


def told(explained: dict[str, Any]) -> str:
    """One request as text."""
    if explained["route"] is None:
        return f"{explained['asked']}: no route; the client gets a 404"
    lines = [f"{explained['asked']} takes the route {explained['route']}"]
    lines += _indented([f"passes {_shown(plugin)}" for plugin in explained["chain"]])
    for number, target in enumerate(explained["targets"], 1):
        lines += ["", f"{number}. {target['target']}"]
        lines += _indented([f"passes {_shown(plugin)}" for plugin in target["plugins"]])
        if "refused" in target:
            lines.append(f"  is not asked: {target['refused']}")
            continue
        lines.append(f"  {target['method']} {target['url']}")
        lines += [f"  {name}: {value}" for name, value in target["headers"].items()]
        body = target["body"]
        lines.append(f"  {body if isinstance(body, str) else orjson.dumps(body).decode()}")
    return "\n".join(lines)


def _call(path: str, model: str | None, body: bytes | None) -> Call:
    if body is None:
        said = {"role": "user", "content": "Say hello."}
        body = orjson.dumps({"model": model, "messages": [said]})
    record = Record(id="explained", method="POST", path=path)
    call = Call(
        id=record.id,
        method="POST",
        path=path,
        query="",
        headers=Headers({"content-type": "application/json"}),
        body=body,
        dialect=OPENAI,
        operation=OPENAI.operation("POST", path) or PASSTHROUGH,
        deadline=Deadline.after(60),
        record=record,
    )
    return call.edit(model=model) if model and call.members.get("model") != model else call


async def _sent(
    upstream: Upstream, attempts: Attempts, call: Call, target: Target
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "target": str(target),
        "plugins": [_part("plugins", plugin) for plugin in upstream.plugins]
        + [_part("plugins", plugin) for plugin in upstream.brought],
    }
    try:
        reply = await attempts.attempt(upstream, call.towards(target))
        await reply.aclose()
        told["refused"] = "it answers by itself, without a request"
    except Kept as kept:
        request = kept.request
        body = _masked(request.body.decode("utf-8", "replace"), upstream.secrets)
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(body)
        told |= {
            "method": request.method,
            "url": _masked(request.url, upstream.secrets),
            "headers": {n: _masked(v, upstream.secrets) for n, v in request.headers},
            "body": body,
        }
    except CallError as error:
        told["refused"] = error.message
    return told


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _upstream(upstream: Upstream) -> dict[str, Any]:
    return {
        "forwarder": _part("forwarders", upstream.forward),
        "plugins": [_part("plugins", plugin) for plugin in upstream.plugins],
        "brings": [_part("plugins", plugin) for plugin in upstream.brought],
        "models": dict(upstream.models),
        "labels": dict(upstream.labels),
        "timeouts": vars(upstream.timeouts),
    }


def _route(plan: Plan, route: Route) -> dict[str, Any]:
    return {
        "targets": _nested(route.targets),
        "chain": [_part("plugins", plugin) for plugin in route.chain],
    }


def _nested(targets: Targets) -> list[Any]:
    return [str(t) if isinstance(t, Target) else _nested(t) for t in targets]


def _part(group: Group, thing: object) -> dict[str, Any]:
    """The name of a plugin and the options that differ from their defaults."""
    options = {
        option.name: _plain(value)
        for option in options_of(type(thing)).values()
        if (value := getattr(thing, option.name)) != option.default
    }
    return {name_of(group, thing): options}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if type(value) in (str, int, float, bool, type(None)) else str(value)


def _shown(part: dict[str, Any]) -> str:
    ((name, options),) = part.items()
    if not options:
        return str(name)
    inner = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"{name} {{{inner}}}"


def _targets_shown(targets: Sequence[Any]) -> str:
    return (
        ", then ".join(t if isinstance(t, str) else f"[{_targets_shown(t)}]" for t in targets)
        or "nobody: every upstream of it is disabled"
    )


def _indented(lines: Iterable[str], by: int = 2) -> Iterator[str]:
    return (" " * by + line for line in lines)
