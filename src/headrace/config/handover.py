"""What the plan that takes another one's place leaves as it is: parts that would be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar

Part = TypeVar("Part")
Room: TypeAlias = tuple[type[Any], tuple[str, ...]]
"""A part's class, and the names on the way to its place; the number in a list does not count."""


class Handover:
    """Parts of a plan by their rooms, and what becomes of those of the plan before."""

    def __init__(self, before: Mapping[Room, list[Any]] | None = None) -> None:
        self._left = {room: list(parts) for room, parts in (before or {}).items()}
        self._new: dict[Room, list[Any]] = {}
        self.made: dict[Room, list[Any]] = {}
        """The parts of this plan; the next one's `before`."""

    def same(self, path: tuple[int | str, ...], part: Part) -> Part:
        """The part that the plan before had there, if it is like this one; else this one."""
        room = type(part), tuple(key for key in path if isinstance(key, str))
        left = self._left.get(room, [])
        for number, old in enumerate(left):
            if alike(old, part):
                part = left.pop(number)
                break
        else:
            self._new.setdefault(room, []).append(part)
        self.made.setdefault(room, []).append(part)
        return part

    def succeed(self) -> None:
        """Let each new part follow the one whose place it takes, if it wants to."""
        for room, new in self._new.items():
            for part, old in zip(new, self._left.get(room, ()), strict=False):
                if follows := getattr(part, "follows", None):
                    follows(old)


def alike(one: object, other: object) -> bool:
    """Whether two parts have the same options, and were given the same by the server."""
    if type(one) is not type(other) or not is_dataclass(one):
        return False
    names = [field.name for field in fields(one) if field.init and field.name[0] != "_"]
    return all(_equal(getattr(one, name), getattr(other, name)) for name in names)


def _equal(one: object, other: object) -> bool:
    return one is other or bool(one == other)
