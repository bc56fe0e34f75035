"""A plan as an outline: what a call meets, in that order, as JSON in which no secret is shown.

What is not shown can still be compared: see `Covered`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import orjson

from headrace.attempts import Upstream
from headrace.call import Target, Targets
from headrace.caller import Entry
from headrace.chain import Plugins
from headrace.config.fields import Option, options_of, part_in
from headrace.config.plan import Plan, says
from headrace.config.problems import looks_secret, mask
from headrace.options import Duration, File, Secret, Sha256
from headrace.registry import Group, name_of
from headrace.routing import Route

_SHORT = 6
"""A shorter secret could be part of any word; it is masked where it stands alone."""
_ID = 12
"""As many digits of a key's SHA-256 are its id."""
_ELSEWHERE = ("attempts", "auth", "chain", "middleware", "observers", "store", "timeouts")
"""Options of the server that stand in other parts of an outline."""


def outline(plan: Plan) -> dict[str, Any]:
    """Server, routes and upstreams as JSON, in the order in which a call meets them."""
    shown = Shown(plan)
    probed = {each.upstream: shown.options(each.health) for each in plan.probes}
    server = shown.options(plan.server)
    for name in ("host", "port"):
        server.setdefault(name, getattr(plan.server, name))
    for name in _ELSEWHERE:
        server.pop(name, None)
    return {
        "server": server,
        "who_may_ask": who(plan),
        "middleware": [
            {_import_path(kind): Options(shown.plain(options))} for kind, options in plan.middleware
        ],
        "chain": shown.parts("plugins", plan.chain),
        "callers": {entry.name: _granted(entry, shown) for entry in plan.callers.written},
        "attempts": plan.server.attempts,
        "observers": shown.parts("observers", plan.observers),
        "store": shown.part("stores", plan.store),
        "routes": {
            route.key: of_route(plan, route, shown) for route in sorted(plan.routes, key=_looked_up)
        },
        "upstreams": {
            name: {**_upstream(one, shown), "health": probed.get(name)}
            for name, one in plan.upstreams.items()
        },
        "disabled": list(plan.disabled),
    }


def who(plan: Plan) -> list[str] | str:
    """The plugins that ask who is asking; without one, whom the gateway lets in."""
    found = [name_of("plugins", p) for p in plan.chain if says(p, "authenticates")]
    return found or ("everybody" if plan.server.auth == "none" else "this machine")


def of_route(plan: Plan, route: Route, shown: Shown) -> dict[str, Any]:
    """A route's plugins and targets."""
    dividing = [p for p in route.chain if says(p, "divides")]
    return {
        "chain": shown.parts("plugins", route.chain),
        "tried_by": [name_of("plugins", plugin) for plugin in dividing],
        "targets": _nested(route.targets, shown),
        "skipped": shown.plain(plan.skipped.get(route.key, ())),
    }


class Covered(str):
    """Text as it may be shown; of two that show the same, those are equal that mean the same."""

    __slots__ = ("_meant",)
    _meant: object

    @classmethod
    def over(cls, meant: object, shown: str = "***") -> Self:
        """`shown` in place of what is meant, which nobody can read here."""
        covered = cls(shown)
        covered._meant = meant
        return covered

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        return same and self._meant == other._meant if isinstance(other, Covered) else same

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Options(dict[str, Any]):
    """What a part's options say that differ from their defaults; of another one, its default."""

    def __init__(self, written: Mapping[str, Any], defaults: Mapping[str, Any] = {}) -> None:
        super().__init__(written)
        self._defaults = defaults

    def __missing__(self, name: str) -> Any:
        return self._defaults[name]


def part_of(value: Any) -> str | None:
    """The name of a part, if that is what a value is: its name, and its options."""
    match value:
        case Mapping() if len(value) == 1 and isinstance(next(iter(value.values())), Options):
            return str(next(iter(value)))
    return None


def said(value: Any) -> str:
    """A value of an outline as text for people."""
    match value:
        case Mapping() if name := part_of(value):
            return f"{name} {said(value[name])}" if value[name] else name
        case Mapping():
            return f"{{{options_said(value)}}}"
        case list():
            return f"[{', '.join(map(said, value))}]"
        case bool() | None:
            return orjson.dumps(value).decode()
        case _:
            return str(value)


def options_said(options: Mapping[str, Any]) -> str:
    """The same of options, without the braces around them."""
    return ", ".join(f"{name}: {said(value)}" for name, value in options.items())


class Shown:
    """Turns things into JSON, with every secret masked that the plan knows of."""

    def __init__(self, plan: Plan) -> None:
        known = {*plan.secrets, *(s for one in plan.upstreams.values() for s in one.secrets)}
        self._secrets = sorted(filter(None, known), key=len, reverse=True)
        self._defaults: dict[type[object], Mapping[str, Any]] = {}
        self._parts: dict[int, dict[str, Any]] = {}

    def parts(self, group: Group, things: Iterable[object]) -> list[dict[str, Any]]:
        """Several of a kind."""
        return [self.part(group, thing) for thing in things]

    def part(self, group: Group, thing: object) -> dict[str, Any]:
        """The name of a thing and its options, as `gateway.yaml` has them."""
        if id(thing) not in self._parts:  # many routes have the same chain
            self._parts[id(thing)] = {name_of(group, thing): self.options(thing)}
        return self._parts[id(thing)]

    def options(self, thing: object) -> Options:
        """The options of a thing that differ from their defaults."""
        kind = type(thing)
        known = options_of(kind)
        if kind not in self._defaults:
            optional = [option for option in known.values() if not option.required]
            self._defaults[kind] = {o.name: self._option(o, o.default) for o in optional}
        written = {
            name: self._option(option, value)
            for name, option in known.items()
            if (value := getattr(thing, name)) != option.default
        }
        return Options(written, self._defaults[kind])

    def _option(self, option: Option, value: Any) -> Any:
        plugins = option.kind == Plugins
        return self.parts("plugins", value) if plugins else self.member(option.name, value)

    def member(self, name: str, value: Any) -> Any:
        """A value by its name; of a mapping of keys, the names of those whose keys they are."""
        if isinstance(value, Mapping) and any(isinstance(key, Sha256) for key in value):
            return [
                Covered.over((key, inner), str(self.plain(getattr(inner, "name", inner))))
                for key, inner in value.items()
            ]
        shown = value is None or isinstance(value, File) or not looks_secret(name)
        return self.plain(value) if shown else Covered.over(value)

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
            case Secret():
                return Covered.over(value)
            case _ if part_in(type(value)):
                return self.options(value)
            case _:
                text = str(value)
                shown = "***" if text in self._secrets else mask(self.text(text))
                return text if shown == text else Covered.over(Secret(text), shown)

    def text(self, text: str) -> str:
        """Text in which secrets may stand."""
        for secret in self._secrets:
            if len(secret) >= _SHORT:
                text = text.replace(secret, "***")
        return text


def _granted(entry: Entry, shown: Shown) -> dict[str, Any]:
    """What an entry of `callers` says, what the default filled in too."""
    told = {
        "match": {name: list(values) for name, values in entry.match.items() if name != "key"},
        "keys": [key[:_ID] for key in entry.match.get("key", ())],
        "models": None if entry.models is None else list(entry.models),
        "limits": shown.options(entry.limits),
        "only": shown.plain(entry.only),
    }
    return {name: value for name, value in told.items() if value or name == "models"}


def _import_path(kind: Any) -> str:
    """The import path of a middleware, which may be a function, or made by one."""
    return f"{kind.__module__}:{getattr(kind, '__qualname__', type(kind).__qualname__)}"


def _looked_up(route: Route) -> tuple[bool, bool, bool, int]:
    """Routes in the order in which they are tried: exact, long patterns, short ones, `*`."""
    pattern = len(route.key) if route.is_pattern else 0
    return route.is_path, route.key == "*", route.is_pattern, -pattern


def _upstream(upstream: Upstream, shown: Shown) -> dict[str, Any]:
    return {
        "forwarder": shown.part("forwarders", upstream.forward),
        "plugins": shown.parts("plugins", upstream.plugins),
        "brings": shown.parts("plugins", upstream.brought),
        "models": shown.plain(upstream.models),
        "labels": shown.plain(upstream.labels),
        "timeouts": {name: str(Duration(value)) for name, value in vars(upstream.timeouts).items()},
        "ask_usage": upstream.ask_usage,
        "retry_budget": upstream.budget.share,
    }


def _nested(targets: Targets, shown: Shown) -> list[Any]:
    return [_target(t, shown) if isinstance(t, Target) else _nested(t, shown) for t in targets]


def _target(target: Target, shown: Shown) -> Any:
    """A target's name, or its name with options, as `gateway.yaml` has it."""
    name, weight = shown.plain(str(target)), float(target.weight)
    if weight == 1:
        return name
    return {name: Options({"weight": int(weight) if weight.is_integer() else weight})}
