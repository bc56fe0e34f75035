"""Names to classes: everything that can be named in `gateway.yaml` comes in by an entry point.

The built-in plugins use the same door as anyone's package (packaging.python.org, "Entry points
specification"): groups `headrace.plugins`, `.forwarders`, `.dialects`, `.observers`, `.stores`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, cast

from headrace.dialect import Translation
from headrace.errors import HeadraceError

Group = Literal["plugins", "forwarders", "dialects", "observers", "stores"]


class Unknown(HeadraceError):
    """No such name in this group. `known` are those there are."""

    def __init__(self, group: Group, name: str) -> None:
        self.known = names(group)
        super().__init__(f"no {group.removesuffix('s')} is called {name!r}")


@cache
def _found(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"headrace.{group}")}


def names(group: Group) -> list[str]:
    """All names of a group, sorted."""
    return sorted(_found(group))


def named(group: Group, name: str) -> type[Any]:
    """The class of that name. Raises `Unknown`, or `ImportError` where an extra is missing."""
    if name not in _found(group):
        raise Unknown(group, name)
    return cast("type[Any]", _found(group)[name].load())


def by_default(group: Group) -> list[str]:
    """The names whose class says `by_default`: they are there where nothing else is written."""
    found = []
    for name in names(group):
        with suppress(ImportError):
            if getattr(named(group, name), "by_default", False):
                found.append(name)
    return found


def name_of(group: Group, thing: object) -> str:
    """The name under which the class of `thing` is registered, else the class's own."""
    kind = type(thing)
    for name, point in _found(group).items():
        if point.value == f"{kind.__module__}:{kind.__qualname__}":
            return name
    return kind.__name__


def translation(name: str) -> Translation:
    """The upstream side of the dialect of that name."""
    return cast("Translation", named("dialects", name)())
