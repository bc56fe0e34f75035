"""From a document to a plan: upstreams, chains and routes made of real objects, or every problem.

Nothing is opened here and nothing is asked; a plan is only made whole or not at all.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from headrace import registry, store, transport
from headrace.attempts import Upstream
from headrace.call import Target, Targets, Timeouts
from headrace.chain import Plugin
from headrace.config.document import Document, Path
from headrace.config.parts import Parts, words
from headrace.config.problems import did_you_mean
from headrace.config.settings import (
    SECTIONS,
    RouteOptions,
    Server,
    TimeoutOptions,
    UpstreamOptions,
)
from headrace.errors import ConfigError
from headrace.options import Secret
from headrace.record import Observer
from headrace.routing import Route
from headrace.store import Store
from headrace.transport import Transport


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a configuration says, as objects; `Gateway` makes it run."""

    name: str
    server: Server
    chain: tuple[Plugin, ...]
    upstreams: Mapping[str, Upstream]
    disabled: tuple[str, ...]
    routes: tuple[Route, ...]
    observers: tuple[Observer, ...]
    middleware: tuple[tuple[Any, Mapping[str, Any]], ...]
    store: Store
    transport: Transport
    files: tuple[str, ...] = ()

    @property
    def authenticates(self) -> bool:
        """Whether every call must show who asks."""
        return any(getattr(plugin, "authenticates", False) for plugin in self.chain)


def build(document: Document, *, through: Transport | None = None) -> Plan:
    """The plan a document describes. Raises `ConfigError` with every problem it has.

    Forwarders ask `through` a transport of their own if one is given, else the best there is. Of a
    document with values left unset, problems are found but no plan may be used.
    """
    return _Builder(document, through or transport.best()).plan()


class _Builder:
    def __init__(self, document: Document, through: Transport) -> None:
        self.parts = Parts(document)
        self.document = document
        self.sections: dict[str, Any] = {}
        self.chains: dict[str, tuple[Plugin, ...]] = {}
        self.transport = through

    def plan(self) -> Plan:
        """Everything, in the order of the file."""
        self._split()
        with_transport = transport.being_built.set(self.transport)
        kept = self._store()
        with_store = store.being_built.set(kept)
        try:
            return self._plan(kept)
        finally:
            store.being_built.reset(with_store)
            transport.being_built.reset(with_transport)

    def _plan(self, kept: Store) -> Plan:
        written = self.sections["server"]
        server = self.parts.fill(Server, ("server",), written, "server") or Server()
        defaults = server.timeouts.over(Timeouts())
        if server.attempts < 1:
            self.parts.problem(("server", "attempts"), "server: attempts must be at least 1")
        for name in self.sections["chains"]:
            self._chain(name, ())
        disabled: list[str] = []
        upstreams = {
            name: upstream
            for name, value in self.sections["upstreams"].items()
            if (upstream := self._upstream(str(name), value, defaults, disabled))
        }
        routes = [
            route
            for key, value in self.sections["routes"].items()
            if (route := self._route(str(key), value, set(disabled)))
        ]
        chain = self._plugins(("server", "chain"), _part(written, "chain"))
        observers = self._observers(server.observers)
        middleware = self._middleware(server.middleware)
        if self.parts.problems:
            raise ConfigError(
                sorted(self.parts.problems, key=lambda p: _order(p.place, self.document))
            )
        return Plan(
            name=server.name or f"headrace-{secrets.token_hex(6)}",
            server=server,
            chain=chain,
            upstreams=upstreams,
            disabled=tuple(disabled),
            routes=tuple(routes),
            observers=observers,
            middleware=middleware,
            store=kept,
            transport=self.transport,
            files=tuple(str(file) for file in self.document.files),
        )

    def _split(self) -> None:
        for key, value in self.document.value.items():
            if key not in SECTIONS:
                hint = did_you_mean(str(key), SECTIONS) or f"; there are {words(SECTIONS)}"
                self.parts.problem((key,), f"no section is called {key!r}{hint}", key=True)
            elif value is not None and not isinstance(value, dict):
                self.parts.problem((key,), f"{key} must be a mapping: {SECTIONS[key]}")
            else:
                self.sections[key] = value or {}
        for key in SECTIONS:
            self.sections.setdefault(key, {})

    # The parts

    def _store(self) -> Store:
        path: Path = ("server", "store")
        value = self.sections["server"].get("store", "memory://")
        before = len(self.parts.problems)
        if isinstance(value, str) and "://" in value:
            scheme = value.partition("://")[0]
            try:
                kind = registry.named("stores", scheme)
            except (registry.Unknown, ImportError) as error:
                hint = f"; there are {words(registry.names('stores'))}"
                self.parts.problem(path, f"no store is reached by {scheme}://: {error}{hint}")
            else:
                made = kind.from_url(value) if hasattr(kind, "from_url") else kind()
                return made  # type: ignore[no-any-return]
        elif path not in self.document.unset and (made := self.parts.make("stores", path, value)):
            return made  # type: ignore[no-any-return]
        elif len(self.parts.problems) == before:
            self.parts.problem(path, "expected a store: a URL, or its name with options")
        return Store.of_server()

    def _upstream(
        self, name: str, value: Any, defaults: Timeouts, disabled: list[str]
    ) -> Upstream | None:
        path: Path = ("upstreams", name)
        if "/" in name or "*" in name:
            self.parts.problem(path, "an upstream's name has no '/' and no '*'", key=True)
        if isinstance(value, str):
            value = {"forwarder": value}
        written = self.parts.fill(UpstreamOptions, path, value, f"upstream {name!r}")
        if written is None:
            return None
        with self.parts.lenient(not written.enabled):
            forwarder = self.parts.make("forwarders", (*path, "forwarder"), written.forwarder)
            plugins = self._plugins((*path, "plugins"), _part(value, "plugins"))
        if not written.enabled:
            disabled.append(name)
            return None
        if forwarder is None:
            return None
        suited = self._suited(forwarder).over(Timeouts())
        inside = tuple(p for p in plugins if getattr(p, "inside_attempt", False))
        models = written.models
        return Upstream(
            name=name,
            forward=forwarder,
            plugins=tuple(plugin for plugin in plugins if plugin not in inside),
            brought=(*inside, *_brought(forwarder, inside)),
            models=models if isinstance(models, dict) else {model: model for model in models},
            labels=written.labels,
            timeouts=written.timeouts.over(_later(suited, defaults)),
            ask_usage=written.ask_usage,
            secrets=tuple(_secrets(forwarder)),
        )

    def _suited(self, forwarder: Any) -> TimeoutOptions:
        suits = getattr(forwarder, "timeouts", {})
        return self.parts.fill(TimeoutOptions, (), dict(suits), "timeouts") or TimeoutOptions()

    def _route(self, key: str, value: Any, disabled: set[str]) -> Route | None:
        path: Path = ("routes", key)
        if isinstance(value, str | list):
            value = {"targets": value}
        written = self.parts.fill(RouteOptions, path, value, f"route {key!r}")
        if written is None:
            return None
        where = (*path, "targets") if "targets" in self.sections["routes"][key] else path
        targets = self._targets(where, written.targets)
        chain = self._plugins((*path, "chain"), _part(value, "chain"))
        self._check_divided(key, where, targets, chain)
        return Route(key=key, targets=_without(targets, disabled), chain=chain)

    def _check_divided(
        self, key: str, path: Path, targets: Targets, chain: tuple[Plugin, ...]
    ) -> None:
        dividing = sum(1 for plugin in chain if getattr(plugin, "divides", False))
        if (levels := _levels(targets)) > dividing:
            self.parts.problem(
                path,
                f"route {key!r} has {'several targets' if levels == 1 else 'groups of targets'}, "
                f"but its chain has {dividing or 'no'} plugin to try them with; "
                "add one such as 'fallback'",
            )

    def _targets(self, path: Path, value: Any) -> Targets:
        if not isinstance(value, list):
            value = [value]
            paths = [path]
        else:
            paths = [(*path, index) for index in range(len(value))]
        if not value:
            self.parts.problem(path, "a route needs at least one target")
        targets: list[Target | Targets] = []
        for where, item in zip(paths, value, strict=True):
            if isinstance(item, list):
                targets.append(self._targets(where, item))
            elif target := self._target(where, item):
                targets.append(target)
        return tuple(targets)

    def _target(self, path: Path, value: Any) -> Target | None:
        found = self.parts.named(path, value, "a target")
        if found is None:
            return None
        written, where, options = found
        upstream, _, model = written.partition("/")
        if upstream not in self.sections["upstreams"]:
            hint = did_you_mean(upstream, map(str, self.sections["upstreams"]))
            self.parts.problem(path, f"no upstream is called {upstream!r}{hint}")
            return None
        if "*" in model:
            self.parts.problem(
                path, "a target has no '*'; name the upstream alone to pass the model on"
            )
        filled = self.parts.fill(_TargetOptions, where, options, f"target {written!r}")
        return filled and Target(upstream, model or None, weight=filled.weight)

    # Chains

    def _plugins(self, path: Path, value: Any, within: tuple[str, ...] = ()) -> tuple[Plugin, ...]:
        """The plugins of a chain's name or of a list, chains inside it opened."""
        if value is None:
            return ()
        if isinstance(value, str) and value in self.sections["chains"]:
            return self._chain(value, within)
        if not isinstance(value, list):
            if isinstance(value, str) and value not in registry.names("plugins"):
                self._no_plugin(path, value)
                return ()
            return self._plugin(path, value, within)
        return tuple(
            plugin
            for index, item in enumerate(value)
            for plugin in self._plugin((*path, index), item, within)
        )

    def _plugin(self, path: Path, value: Any, within: tuple[str, ...]) -> tuple[Plugin, ...]:
        if isinstance(value, str):
            if value in self.sections["chains"]:
                return self._chain(value, within)
            if value not in registry.names("plugins"):
                self._no_plugin(path, value)
                return ()
        made = self.parts.make("plugins", path, value)
        return () if made is None else (made,)

    def _no_plugin(self, path: Path, name: str) -> None:
        known = [*registry.names("plugins"), *map(str, self.sections["chains"])]
        self.parts.problem(
            path, f"no plugin or chain is called {name!r}{did_you_mean(name, known)}"
        )

    def _chain(self, name: str, within: tuple[str, ...]) -> tuple[Plugin, ...]:
        if name in self.chains:
            return self.chains[name]
        path: Path = ("chains", name)
        if name in within:
            self.parts.problem(path, f"chain {name!r} contains itself", key=True)
            return ()
        if name in registry.names("plugins"):
            self.parts.problem(
                path, f"{name!r} is a plugin's name; call the chain otherwise", key=True
            )
        plugins = self._plugins(path, self.sections["chains"][name], (*within, name))
        self.chains.setdefault(name, plugins)
        return self.chains[name]

    # Around the gateway

    def _observers(self, written: list[Any]) -> tuple[Observer, ...]:
        path: Path = ("server", "observers")
        made = [
            self.parts.make("observers", (*path, index), value)
            for index, value in enumerate(written)
        ]
        return tuple(observer for observer in made if observer is not None)

    def _middleware(self, written: list[Any]) -> tuple[tuple[Any, Mapping[str, Any]], ...]:
        found = []
        for index, value in enumerate(written):
            path: Path = ("server", "middleware", index)
            named = self.parts.named(path, value, "a middleware")
            if named is None:
                continue
            name, _, options = named
            module, _, attribute = name.partition(":")
            try:
                found.append((getattr(importlib.import_module(module), attribute), options))
            except (ImportError, AttributeError, ValueError) as error:
                self.parts.problem(
                    path, f"no middleware at {name!r} (expected 'package.module:Class'): {error}"
                )
        return tuple(found)


@dataclass(kw_only=True)
class _TargetOptions:
    weight: float = 1.0
    """Its share among the targets of its list, for a plugin that weighs them."""


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _later(suited: Timeouts, defaults: Timeouts) -> Timeouts:
    """The server's timeouts, and what suits a forwarder where the server has the built-in ones."""
    own = {
        name: getattr(suited, name)
        for name, value in vars(Timeouts()).items()
        if getattr(defaults, name) == value
    }
    return Timeouts(**{**vars(defaults), **own})


def _brought(forwarder: Any, written: tuple[Plugin, ...]) -> Iterator[Plugin]:
    """What a forwarder brings along; a written plugin of the same kind takes its place."""
    for value in getattr(forwarder, "brings", ()):
        ((name, options),) = value.items()
        kind = registry.named("plugins", name)
        if not any(type(plugin) is kind for plugin in written):
            yield kind(**options)


def _without(targets: Targets, disabled: set[str]) -> Targets:
    kept: list[Target | Targets] = []
    for target in targets:
        if isinstance(target, Target):
            if target.upstream not in disabled:
                kept.append(target)
        elif inner := _without(target, disabled):
            kept.append(inner)
    return tuple(kept)


def _levels(targets: Targets) -> int:
    """How many plugins it takes to get from here to one target."""
    groups = [target for target in targets if not isinstance(target, Target)]
    if groups:
        return 1 + max(map(_levels, groups))
    return 1 if len(targets) > 1 else 0


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


def _order(place: Any, document: Document) -> tuple[int, int, int]:
    if place is None:
        return (-1, 0, 0)
    files = [str(file) for file in document.files]
    return (files.index(place.file) if place.file in files else 0, place.line, place.column)
