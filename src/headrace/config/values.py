"""The values of a tree, with every `<<` merged and every `${…}` replaced."""

from __future__ import annotations

from typing import Any, NamedTuple

from headrace.config.expansion import Expansion
from headrace.config.scalars import Scalar, kind, resolved, tagged
from headrace.config.source import Span
from headrace.config.surroundings import Surroundings
from headrace.config.tree import Node

Path = tuple[str | int, ...]
"""The way to a value: `("routes", "fast", "targets", 0)`."""

Pairs = dict[str, tuple[Node, Node]]
"""The keys and values of a mapping, by the keys' text."""


class Spot(NamedTuple):
    """Where a value stands, and its key if it has one."""

    key: Span | None
    value: Span


class Values:
    """What a tree says, and what is known of each value in it."""

    def __init__(self, root: Node, around: Surroundings) -> None:
        self.around = around
        self.spots: dict[Path, Spot] = {}
        self.expanded: set[Path] = set()
        self.unset: set[Path] = set()
        self.value = self._value(root, (), None)

    def _value(self, node: Node, path: Path, key: Span | None) -> Any:
        self.spots[path] = Spot(key, node.span)
        match node.kind:
            case "list":
                items = enumerate(node.items)
                return [self._value(item, (*path, index), None) for index, item in items]
            case "mapping":
                return {
                    name: self._value(value, (*path, name), key.span)
                    for name, (key, value) in pairs(node).items()
                }
            case "scalar":
                return self._scalar(node, path)

    def _scalar(self, node: Node, path: Path) -> Scalar:
        expansion = Expansion(node, self.around)
        text = expansion.text()
        if expansion.expanded:
            self.expanded.add(path)
        if expansion.unset:
            self.unset.add(path)
            return text
        if node.tag is not None:
            try:
                return tagged(text, node.tag)
            except ValueError as error:
                node.span.report(str(error))
                return text
        if not node.plain:
            return text
        return (text or None) if expansion.expanded else resolved(text)


def pairs(node: Node) -> Pairs:
    """The keys and values of a mapping, those of its `<<` first, its own above them."""
    own: Pairs = {}
    for key, value in zip(node.items[::2], node.items[1::2], strict=True):
        name = _name(key)
        if name in own:
            given_twice(key, own[name][0])
        elif name is not None:
            own[name] = key, value
    if "<<" not in own or not own["<<"][0].plain:
        return own
    _, value = own.pop("<<")
    merged: Pairs = {}
    for other in value.items if value.kind == "list" else [value]:
        if other.kind == "mapping":
            merged = merged | pairs(other) | merged  # the first wins
        else:
            other.span.report("`<<` takes a mapping, or a list of mappings")
    return merged | own


def given_twice(key: Node, first: Node) -> None:
    """Say that a key is there again."""
    named = "this key" if first.span.source.hides(first.span.start) else repr(key.text)
    key.span.report(f"{named} is given twice; the first time at {first.span.place()}")


def _name(key: Node) -> str | None:
    """A key as text, or nothing where it cannot be one."""
    if key.kind != "scalar":
        key.span.report("a key must be text, not a list or a mapping")
        return None
    found = "text" if key.tag or not key.plain else kind(resolved(key.text))
    if found != "text":
        key.span.report(f"this key is {found} to YAML, not text; put it in quotes")
    elif "${" in key.text:
        key.span.report("`${…}` works in values, not in keys")
    return key.text
