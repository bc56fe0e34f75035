"""From a document to a plan: upstreams, chains and routes made of real objects, or every problem.

Nothing is opened here and nothing is asked; a plan is only made whole or not at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from headrace import transport
from headrace.attempts import Upstream
from headrace.budget import Budget
from headrace.call import Provider, Targets, Timeouts
from headrace.caller import Callers
from headrace.chain import Plugin
from headrace.config.around import middleware, observers, store_of
from headrace.config.callers import callers, check
from headrace.config.certificate import certificate_of
from headrace.config.chains import Chains, plugins_that
from headrace.config.document import Document, Path
from headrace.config.fingerprint import fingerprint
from headrace.config.handover import Handover
from headrace.config.parts import Parts, words
from headrace.config.plan import Plan, behind_who_asks, says
from headrace.config.problems import Problem, did_you_mean
from headrace.config.settings import (
    SECTIONS,
    RouteOptions,
    Server,
    Switch,
    TimeoutOptions,
    UpstreamOptions,
)
from headrace.config.targets import check_prices, levels, skipped, targets, without
from headrace.errors import ConfigError
from headrace.given import giving
from headrace.hands import Hands
from headrace.health import Probes
from headrace.options import Duration, Secret
from headrace.prices import PriceList
from headrace.registry import name_of
from headrace.rests import Rests
from headrace.routing import Route, Routes
from headrace.store import Store
from headrace.transport import Transport
from headrace.vitals import Vitals

_STORE: Path = ("server", "store")


def build(
    document: Document,
    *,
    through: Transport | None = None,
    keep: Store | None = None,
    before: Plan | None = None,
) -> Plan:
    """The plan a document describes. Raises `ConfigError` with every problem it has.

    Forwarders ask `through` a transport of their own if one is given, else the best there is;
    plugins share what they keep in `keep` if that is given, else where the document says. Of a
    document with values left unset, problems are found, but nobody can be asked by its plan.

    A plan that takes the place of the one `before` has its very parts where they did not change.
    """
    parts = Parts(document, Handover(before.handover.made if before else None))
    sections = _sections(parts)
    asked = through or (before.transport if before else transport.best())
    kept = parts.handover.same(_STORE, store_of(parts, sections["server"].get("store")))
    known = callers(parts, sections["callers"])
    keys = [Route(key=key, targets=()) for key in sections["routes"]]
    vitals = before.vitals if before else Vitals()
    things: dict[Callable[..., Any], object] = {
        Callers: known,
        Rests: vitals.rests,
        Routes: Routes(keys, sections["upstreams"]),
        Store: keep or kept,
        Transport: asked,
        Vitals: vitals,
    }
    with giving(things):
        plan = _Builder(parts, sections).plan(known, kept, asked, before)
    if parts.problems:
        raise ConfigError(_in_order(parts.problems, document))
    return plan


def _sections(parts: Parts) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, value in parts.document.value.items():
        if name not in SECTIONS:
            hint = did_you_mean(name, SECTIONS) or f"; there are {words(SECTIONS)}"
            parts.problem((name,), f"no section is called {name!r}{hint}", key=True)
        elif isinstance(value, dict):
            found[name] = value
        elif value is not None and parts.sure((name,)):
            parts.problem((name,), f"{name} must be a mapping: {SECTIONS[name]}")
    return found


class _Builder:
    """Makes the parts of a plan; where one cannot be made, a problem says why."""

    def __init__(self, parts: Parts, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self.parts = parts
        self.sections = sections
        self.chains = Chains(parts, sections["chains"])
        self.server = parts.fill(Server, ("server",), sections["server"], "server") or Server()
        self.disabled: list[str] = []
        self.broken: set[Path] = set()
        """Around which plugins something could not be made."""
        self.counting: dict[tuple[str, str], tuple[Path, Plugin]] = {}
        """Plugins that count in the store, and the first place of each, by kind and name."""
        self.probes: list[Probes] = []

    def plan(self, known: Callers, kept: Store, asked: Transport, before: Plan | None) -> Plan:
        """Everything there is."""
        server = self.sections["server"]
        chain = self._plugins(("server", "chain"), server, _FRONT)
        upstreams = [self._upstream(*item) for item in self.sections["upstreams"].items()]
        routes = [self._route(*item) for item in self.sections["routes"].items()]
        check_prices(self.parts, self.server.prices, self.sections["upstreams"])
        check(
            self.parts,
            [route for route, _ in routes],
            self.sections["upstreams"],
            limited=("server",) in self.broken
            or any(says(plugin, "enforces_limits") for plugin in behind_who_asks(chain)),
        )
        return Plan(
            name=self.server.name or (before.name if before else _some_name()),
            server=self.server,
            chain=chain,
            callers=known,
            upstreams={upstream.name: upstream for upstream in upstreams if upstream},
            disabled=tuple(self.disabled),
            routes=tuple(route for route, _ in routes),
            skipped={route.key: left_out for route, left_out in routes if left_out},
            observers=observers(self.parts, server.get("observers", self.server.observers)),
            middleware=middleware(self.parts, server.get("middleware")),
            store=kept,
            vitals=Vitals.of_server(),
            probes=tuple(self.probes),
            hands=self._hands(upstream.name for upstream in upstreams if upstream),
            transport=asked,
            counting=tuple(
                (self.parts.document.place(path), plugin) for path, plugin in self.counting.values()
            ),
            secrets=frozenset(self.parts.secrets(())),
            hash=self.parts.document.hash,
            document=self.parts.document,
            handover=self.parts.handover,
            certificate=certificate_of(self.parts, self.server.tls),
            unsure=("server",) in self.broken,
        )

    def _hands(self, upstreams: Iterable[str]) -> Hands | None:
        if self.server.admin is None:
            return None
        hands = Hands(store=Store.of_server(), rests=Rests.of_server(), upstreams=tuple(upstreams))
        return self.parts.handover.same(("server", "admin"), hands)

    # What can answer

    def _upstream(self, name: str, value: Any) -> Upstream | None:
        path: Path = ("upstreams", name)
        what = f"upstream {name!r}"
        if "/" in name or "*" in name or not name:
            self.parts.problem(path, "an upstream needs a name, without '/' and '*'", key=True)
        where: Path = (*path, "forwarder")
        if isinstance(value, str):
            value, where = {"forwarder": value}, path
        with self.parts.lenient(self._is_off(path, value, what)):
            written = self.parts.fill(UpstreamOptions, path, value, what)
            forwarder = self._forwarder(where, value)
            plugins = self._plugins((*path, "plugins"), value, _UPSTREAM)
        if written is None or forwarder is None or not written.enabled:
            self.disabled.append(name)
            return None
        inside = [plugin for plugin in plugins if says(plugin, "inside_attempt")]
        models = written.models
        timeouts = written.timeouts.over(self.server.timeouts.over(_suited(forwarder)))
        if written.health:
            asking = Probes(
                upstream=name,
                health=written.health,
                forward=forwarder,
                timeouts=timeouts,
                rests=Rests.of_server(),
            )
            self.probes.append(self.parts.handover.same(path, asking))
        hidden = tuple({*_secrets(forwarder), *_secrets(plugins), *self.parts.secrets(path)})
        return Upstream(
            name=name,
            forward=forwarder,
            plugins=tuple(plugin for plugin in plugins if not says(plugin, "inside_attempt")),
            brought=(*inside, *self._brought(where, forwarder, inside)),
            models=models if isinstance(models, dict) else {model: model for model in models},
            labels=written.labels,
            timeouts=timeouts,
            ask_usage=written.ask_usage,
            fingerprint=fingerprint([forwarder, *plugins]),
            budget=self.parts.handover.same(path, Budget(written.retry_budget)),
            secrets=hidden,
            address=str(getattr(forwarder, "base_url", "")),
            provider=Provider(_provider(forwarder), hidden),
            prices=PriceList(
                self.server.prices,
                name,
                provider=_provider(forwarder),
                url=getattr(forwarder, "base_url", None),
            ),
        )

    def _is_off(self, path: Path, value: Any, what: str) -> bool:
        """Whether an upstream is disabled; asked first, for of such a one less is judged."""
        if not isinstance(value, dict) or "enabled" not in value:
            return False
        found = self.parts.check(Switch, (*path, "enabled"), value["enabled"], f"{what}: enabled")
        return found is None or found is False

    def _forwarder(self, path: Path, around: Any) -> Any:
        """The forwarder of an upstream, or None; made even where something else is wrong there."""
        if not isinstance(around, dict) or "forwarder" not in around:
            return None
        return self.parts.make("forwarders", path, around["forwarder"])

    def _brought(self, path: Path, forwarder: Any, own: Sequence[Plugin]) -> Iterator[Plugin]:
        """What a forwarder brings along; a written plugin of the same kind takes its place."""
        for value in getattr(forwarder, "brings", ()):
            ((name, options),) = value.items()
            kind = self.parts.kind("plugins", path, name, repr(name))
            if kind and not any(type(plugin) is kind for plugin in own):
                brought = self.parts.fill(kind, path, options, f"{name}, which comes with it")
                yield from (self.parts.handover.same(path, brought),) if brought else ()

    # Who is asked, and how

    def _route(self, key: str, value: Any) -> tuple[Route, tuple[str, ...]]:
        """A route, and those of its targets that are left out."""
        path: Path = ("routes", key)
        where: Path = (*path, "targets")
        if not isinstance(value, dict | None):
            value, where = {"targets": value}, path
        self.parts.fill(RouteOptions, path, value, f"route {key!r}")
        chain = self._plugins((*path, "chain"), value, _ROUTE)
        asked: Targets = ()
        if value and "targets" in value:
            asked = targets(self.parts, where, value["targets"], self.sections["upstreams"])
            self._check_divided(key, where, asked, chain)
        left_out = tuple(map(str, skipped(asked, self.disabled)))
        targets_left = without(asked, self.disabled)
        route = Route(key=key, targets=targets_left, chain=chain, fingerprint=fingerprint(chain))
        return route, left_out

    def _check_divided(self, key: str, path: Path, asked: Targets, chain: Sequence[Plugin]) -> None:
        trying = [name_of("plugins", plugin) for plugin in _trying(chain)]
        needed = levels(asked)
        if needed <= len(trying) or ("routes", key) in self.broken:
            return
        if trying:
            message = (
                f"has targets in {needed} levels, but only {words(trying)} in its chain to try "
                "them; each level takes a plugin of this kind"
            )
        else:
            several = plugins_that("divides", "orders")
            such = f"one of {words(several)}" if len(several) > 1 else words(several)
            message = (
                f"has several targets, but nothing in its chain to try them; add {such} to it, "
                "or leave one target here"
            )
        self.parts.problem(path, f"route {key!r} {message}")

    def _plugins(self, path: Path, around: Any, place: Mapping[str, str]) -> tuple[Plugin, ...]:
        """The plugins at `path`, inside of `around`; what makes no sense there is a problem."""
        value = around.get(path[-1]) if isinstance(around, dict) else None
        placed = self.chains.plugins(path, value)
        for where, plugin in placed:
            if plugin is None:
                self.broken.add(path[:-1])
            elif says(plugin, "counts"):
                self._count(where, plugin)
            for attribute, message in place.items():
                if says(plugin, attribute):
                    self.parts.problem(where, f"{name_of('plugins', plugin)!r} {message}")
        return tuple(plugin for _, plugin in placed if plugin is not None)

    def _count(self, path: Path, plugin: Any) -> None:
        """Note a plugin that counts; what two count under one name would be neither's."""
        kind = name_of("plugins", plugin)
        where, first = self.counting.setdefault((kind, plugin.name), (path, plugin))
        if first is not plugin:
            self.parts.problem(
                path,
                f"two of {kind!r} count under the name {plugin.name!r}, the first at "
                f"{self.parts.document.place(where)}; give one of them another 'name'",
            )


def _some_name() -> str:
    return f"headrace-{secrets.token_hex(6)}"


def _trying(chain: Sequence[Plugin]) -> list[Plugin]:
    """The plugins that take a level of targets each.

    They divide it; or the last one orders it, and the first target is asked.
    """
    several = [plugin for plugin in chain if says(plugin, "divides") or says(plugin, "orders")]
    return [*(plugin for plugin in several[:-1] if says(plugin, "divides")), *several[-1:]]


_FRONT = {
    "needs_route": "must know the route of a call, which is looked up behind this chain; "
    "put it into the chain of a route",
    "divides": "tries several targets, but no call has any before its route is looked up; "
    "put it into the chain of a route",
    "orders": "orders targets, but no call has any before its route is looked up; "
    "put it into the chain of a route",
    "inside_attempt": "belongs inside an attempt, as it is written here; "
    "put it among the plugins of an upstream",
    "of_upstream": "is about a single upstream; put it among the plugins of one",
}
_LATE = {
    "authenticates": "finds out who asks, but here it is too late: callers have been granted "
    "their rights by then; put it into 'server: {chain: …}'"
}
_UPSTREAM = {
    **_LATE,
    "divides": "tries several targets, but a call to an upstream has one; "
    "put it into the chain of a route",
    "orders": "orders targets, but a call to an upstream has one; put it into the chain of a route",
}
_ROUTE = {**_LATE, **{name: _FRONT[name] for name in ("inside_attempt", "of_upstream")}}
"""What plugins say of themselves that makes no sense in a place, and why."""


def _suited(forwarder: Any) -> Timeouts:
    """The built-in timeouts, with what suits a forwarder in their place."""
    suits = getattr(forwarder, "timeouts", {})
    return TimeoutOptions(**{name: Duration.of(text) for name, text in suits.items()}).over(
        Timeouts()
    )


def _provider(forwarder: Any) -> str:
    """Whom a forwarder asks: what it says of itself, else its name."""
    return getattr(forwarder, "provider", None) or name_of("forwarders", forwarder)


def _secrets(part: Any) -> Iterator[str]:
    """Every secret among the fields of a part, however deep."""
    if isinstance(part, Secret):
        yield part.reveal()
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _secrets(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _secrets(value)
    elif is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            yield from _secrets(getattr(part, field.name))


def _in_order(problems: Sequence[Problem], document: Document) -> list[Problem]:
    """Each problem once, file by file and line by line."""
    files = {str(file): number for number, file in enumerate(document.files)}

    def order(problem: Problem) -> tuple[int, int, int]:
        place = problem.place
        return (files.get(place.file, -1), place.line, place.column) if place else (-2, 0, 0)

    return sorted(dict.fromkeys(problems), key=order)
