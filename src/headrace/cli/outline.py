"""What `headrace explain` says, as text for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from headrace.call import Timeouts
from headrace.cli.address import is_loopback
from headrace.config.outline import options_said, said
from headrace.options import Duration

_DEFAULTS = {name: str(Duration(value)) for name, value in vars(Timeouts()).items()}


def outlined(told: Mapping[str, Any]) -> str:
    """An outline: what every call passes, the routes, the upstreams."""
    return "\n\n".join(
        "\n".join(block)
        for block in (
            _section("every call", _every_call(told)),
            *(
                [_section("callers, the first that fits", _callers(told))]
                if told["callers"]
                else []
            ),
            _section("routes, the first that fits", _routes(told)),
            _section("upstreams", _upstreams(told)),
        )
    )


def followed(told: Mapping[str, Any]) -> str:
    """One request: its route, what it passes, what leaves for each of its targets."""
    asks = f" for {told['asked']}" if told["asked"] else ""
    head = f"{told['method']} {told['path']}{asks}"
    if told["route"] is None:
        return f"{head}: {told['refused']}"
    of = f", for {told['caller']}," if told["caller"] else ""
    lines = [f"{head}{of} takes the route {told['route']}"]
    lines += _indented(f"passes {said(part)}" for part in told["passes"])
    lines += _indented(_route(told, told["attempts"]))
    if told["targets"]:
        lines.append(f"  makes at most {_attempts(told['attempts'])}, repeated ones included")
    lines += _indented([told["refused"]] if "refused" in told else [])
    lines += _indented(_cached(told["cache"]) if "cache" in told else [])
    for number, request in enumerate(told["requests"], 1):
        lines += ["", f"{number}. {request['target']}", *_indented(_request(request))]
    return "\n".join(lines)


def _cached(found: Mapping[str, Any]) -> Iterator[str]:
    """What a cache would make of it."""
    why = f": {found['why']}" if "why" in found else ""
    match found["status"]:
        case "hit" | "stale" as status:
            yield f"is answered from the cache ({status}, {found['age']} s old); nobody is asked"
        case "bypass":
            yield f"is not looked for in the cache{why}"
        case _:
            yield f"is not in the cache{why}"


def _every_call(told: Mapping[str, Any]) -> Iterator[str]:
    server = told["server"]
    yield f"reaches {server['host']}:{server['port']}, {_who(told)}"
    if rest := {name: value for name, value in server.items() if name not in ("host", "port")}:
        yield f"is served with {options_said(rest)}"
    for middleware in told["middleware"]:
        yield f"passes the middleware {said(middleware)}"
    for plugin in told["chain"]:
        yield f"passes {said(plugin)}"
    yield f"takes its route, with at most {_attempts(told['attempts'])}"
    observers = ", ".join(map(said, told["observers"]))
    yield f"is told to {observers or 'nobody'}"
    yield f"shares what must be shared in {said(told['store'])}"


def _who(told: Mapping[str, Any]) -> str:
    match told["who_may_ask"]:
        case [*plugins]:
            return f"from whoever {' and '.join(plugins)} lets in"
        case "everybody":
            return "from everybody, for it says 'auth: none'"
    if is_loopback(told["server"]["host"]):
        return "from everybody on this machine; on another address it would not start"
    return "but it does not start on that address: no plugin authenticates"


def _callers(told: Mapping[str, Any]) -> Iterator[str]:
    for name, caller in told["callers"].items():
        yield name
        matches = [
            f"{key} {' or '.join(values)}" for key, values in caller.get("match", {}).items()
        ]
        if keys := caller.get("keys"):
            matches.append(f"one of {len(keys)} keys" if len(keys) > 1 else "a key")
        yield (
            f"  is whoever has {' and '.join(matches)}"
            if name != "default"
            else "  is everybody else"
        )
        models = caller["models"]
        yield f"  may use {'every model' if models is None else ', '.join(models) or 'no model'}"
        if "limits" in caller:
            yield f"  at most {options_said(caller['limits'])}"
        if "only" in caller:
            yield f"  only of upstreams with {options_said(caller['only'])}"


def _routes(told: Mapping[str, Any]) -> Iterator[str]:
    if not told["routes"]:
        yield "none"
    others = [key for key in told["routes"] if key == "*" or key.startswith("/")]
    for key, route in told["routes"].items():
        if others[:1] == [key]:
            yield from _named_upstreams(told)
        yield key
        yield from _indented(_route(route, told["attempts"]))
    if not others:
        yield from _named_upstreams(told)


def _named_upstreams(told: Mapping[str, Any]) -> Iterator[str]:
    if told["upstreams"]:
        yield " ".join(f"{name}/…" for name in told["upstreams"])
        yield "  that upstream, for the model behind the slash"


def _upstreams(told: Mapping[str, Any]) -> Iterator[str]:
    if not (told["upstreams"] or told["disabled"]):
        yield "none"
    for name, upstream in told["upstreams"].items():
        yield f"{name}: {said(upstream['forwarder'])}"
        yield from _indented(_upstream(upstream))
    for name in told["disabled"]:
        yield f"{name}: disabled"


def _upstream(told: Mapping[str, Any]) -> Iterator[str]:
    for plugin in told["plugins"]:
        yield f"passes {said(plugin)}"
    for plugin in told["brings"]:
        yield f"passes {said(plugin)}, inside each attempt"
    models = [k if k == v else f"{k} (there {v})" for k, v in told["models"].items()]
    if models:
        yield f"models {', '.join(models)}"
    if told["labels"]:
        yield f"labels {options_said(told['labels'])}"
    timeouts = {n: value for n, value in told["timeouts"].items() if value != _DEFAULTS[n]}
    if timeouts:
        yield f"timeouts {options_said(timeouts)}"
    if not told["ask_usage"]:
        yield "is not asked for token counts"


def _attempts(count: int) -> str:
    return f"{count} attempt{'s' if count != 1 else ''}"


def _route(told: Mapping[str, Any], attempts: int) -> Iterator[str]:
    """The plugins of a route, each above what it is wrapped around, down to the targets."""
    if told["targets"]:
        yield from _tree(told["chain"], told["targets"], told["tried_by"])
    elif told["skipped"]:
        yield "nobody: every upstream of it is disabled"
    else:
        yield "nobody"
    for target in told["skipped"]:
        yield f"skips {target}: disabled"
    count = len(list(_leaves(told["targets"])))
    if count > attempts:
        yield f"asks at most {attempts} of these {count}, as many as a call may make attempts"


def _tree(
    chain: Sequence[Mapping[str, Any]], targets: Sequence[Any], dividing: Sequence[str]
) -> Iterator[str]:
    if not chain:
        yield from _leaves(targets)
        return
    first, *rest = chain
    yield said(first)
    if next(iter(first)) not in dividing:
        yield from _indented(_tree(rest, targets, dividing))
        return
    for target in targets:
        yield from _indented(
            _tree(rest, target if isinstance(target, list) else [target], dividing)
        )


def _leaves(targets: Iterable[Any]) -> Iterator[str]:
    for target in targets:
        if isinstance(target, list):
            yield from _leaves(target)
        else:
            yield target if isinstance(target, str) else said(target)


def _request(told: Mapping[str, Any]) -> Iterator[str]:
    for plugin in told["passes"]:
        yield f"passes {said(plugin)}"
    if "refused" in told:
        yield f"is not asked: {told['refused']}"
        return
    if "not_cached" in told:
        yield f"is not cached: {told['not_cached']}"
    chosen = re.sub(r":0(?=/|$)", ":(a free port)", told["url"])
    yield f"{told['method']} {chosen}"
    for name, value in told["headers"].items():
        yield f"{name}: {value}"
    if body := told["body"]:
        yield ""
        text = body if isinstance(body, str) else orjson.dumps(body, option=orjson.OPT_INDENT_2)
        yield from (text if isinstance(text, str) else text.decode()).splitlines()


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [title, *_indented(lines)]


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}".rstrip() for line in lines)
