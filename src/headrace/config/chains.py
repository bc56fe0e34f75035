"""Plugins in order: from a chain's name, or from a list, to the plugins themselves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from headrace import registry
from headrace.chain import Plugin, Plugins
from headrace.config.document import Path
from headrace.config.parts import Parts


class Placed(NamedTuple):
    """A plugin and the place it was named at, alone or with the others of its chain."""

    path: Path
    plugin: Plugin | None
    """None where it could not be made."""


class Chains:
    """The section `chains`. A chain is made once, wherever it stands, and judged if nowhere."""

    def __init__(self, parts: Parts, written: Mapping[str, Any]) -> None:
        self._parts = parts
        self._written = written
        self._made: dict[str, tuple[Plugin | None, ...]] = {}
        parts.chain = self._inside
        taken = registry.names("plugins")
        self._names = [name for name in written if name not in taken]
        for name in written:
            if name in taken:
                message = f"{name!r} is the name of a plugin; give the chain another"
                parts.problem(("chains", name), message, key=True)
            self._chain(name, ())

    def plugins(self, path: Path, value: Any, within: tuple[str, ...] = ()) -> list[Placed]:
        """What stands where a chain stands: its name, a list, or nothing; chains in it opened."""
        if value is None:
            return []
        if not isinstance(value, list):
            return [Placed(path, plugin) for plugin in self._item(path, value, within)]
        return [
            Placed((*path, index), plugin)
            for index, item in enumerate(value)
            for plugin in self._item((*path, index), item, within)
        ]

    def _inside(self, path: Path, value: Any) -> Plugins:
        """The plugins that are the option of another one."""
        placed = self.plugins(path, value)
        return tuple(plugin for _, plugin in placed if plugin is not None)

    def _item(self, path: Path, value: Any, within: tuple[str, ...]) -> tuple[Plugin | None, ...]:
        found = self._parts.named(path, value, "a plugin or a chain")
        if found is None:
            return (None,)
        if found.name not in self._names:
            return (self._parts.made("plugins", path, found, others=self._names),)
        if found.options:
            message = f"{found.name!r} is a chain and takes no options; its plugins do"
            self._parts.problem(path, message)
        if found.name in within:
            way = " > ".join([*within[within.index(found.name) :], found.name])
            self._parts.problem(path, f"chain {found.name!r} contains itself: {way}")
            return (None,)
        return self._chain(found.name, within)

    def _chain(self, name: str, within: tuple[str, ...]) -> tuple[Plugin | None, ...]:
        if name not in self._made:
            placed = self.plugins(("chains", name), self._written[name], (*within, name))
            self._made[name] = tuple(plugin for _, plugin in placed)
        return self._made[name]


def plugins_that(*attributes: str) -> list[str]:
    """The names of all plugins whose class says one of these: `divides`, `orders`."""
    found = []
    for name in registry.names("plugins"):
        with suppress(Exception):  # importing it runs a stranger's code
            plugin = registry.named("plugins", name)
            if any(getattr(plugin, attribute, False) is True for attribute in attributes):
                found.append(name)
    return found
