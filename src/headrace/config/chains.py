"""Plugins in order: from a chain's name, or from a list, to the plugins themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace import registry
from headrace.chain import Plugin
from headrace.config.document import Path
from headrace.config.parts import Parts


class Chains:
    """The section `chains`. A chain is made once, wherever it stands, and judged if nowhere."""

    def __init__(self, parts: Parts, written: Mapping[str, Any]) -> None:
        self._parts = parts
        self._written = written
        self._made: dict[str, tuple[Plugin, ...]] = {}
        taken = registry.names("plugins")
        self._names = [name for name in written if name not in taken]
        for name in written:
            if name in taken:
                message = f"{name!r} is the name of a plugin; give the chain another"
                parts.problem(("chains", name), message, key=True)
            self._chain(name, ())

    def plugins(
        self, path: Path, value: Any, within: tuple[str, ...] = ()
    ) -> tuple[Plugin, ...]:
        """What stands where a chain stands: its name, a list, or nothing; chains in it opened."""
        if value is None:
            return ()
        listed = enumerate(value) if isinstance(value, list) else ()
        items = [((*path, index), item) for index, item in listed]
        if not isinstance(value, list):
            items = [(path, value)]
        return tuple(plugin for where, item in items for plugin in self._item(where, item, within))

    def _item(self, path: Path, value: Any, within: tuple[str, ...]) -> tuple[Plugin, ...]:
        found = self._parts.named(path, value, "a plugin or a chain")
        if found is None:
            return ()
        if found.name not in self._names:
            made = self._parts.made("plugins", path, found, others=self._names)
            return () if made is None else (made,)
        if found.options:
            message = f"{found.name!r} is a chain and takes no options; its plugins do"
            self._parts.problem(path, message)
        if found.name in within:
            way = " > ".join([*within[within.index(found.name) :], found.name])
            self._parts.problem(path, f"chain {found.name!r} contains itself: {way}")
            return ()
        return self._chain(found.name, within)

    def _chain(self, name: str, within: tuple[str, ...]) -> tuple[Plugin, ...]:
        if name not in self._made:
            path: Path = ("chains", name)
            self._made[name] = self.plugins(path, self._written[name], (*within, name))
        return self._made[name]
