"""YAML as a tree of nodes that know their places, before they are values.

It is refused before it grows too large or too deep, whatever its aliases repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import yaml

from headrace.config.problems import is_option, looks_secret
from headrace.config.scalars import TAGS, resolved
from headrace.config.source import Refused, Source, Span
from headrace.config.syntax import explained

MAX_VALUES = 20_000
"""Values in one file; those behind an alias count wherever it is used, keys do not."""
MAX_DEPTH = 32
"""Mappings and lists inside each other."""


@dataclass(slots=True)
class Node:
    """A piece of YAML before it is a value."""

    kind: Literal["scalar", "list", "mapping"]
    span: Span
    """Where it stands; of an alias, the alias."""
    written: Span
    """Where it is written; of an alias, what has the anchor."""
    tag: str | None = None
    """`int` where somebody wrote `!!int`."""
    text: str = ""
    style: str | None = None
    """A scalar's: a quote, `|`, `>`, or nothing where it is plain."""
    items: list[Node] = field(default_factory=list)
    """A list's; a mapping's keys and values by turns."""
    size: int = 0
    """How many values it makes, itself included; none while it is open."""
    height: int = 0
    """How deep the collections go in it, itself included."""

    @property
    def plain(self) -> bool:
        """Whether it stands without quotes."""
        return self.style is None

    @property
    def empty(self) -> bool:
        """Whether it is null."""
        return self.kind == "scalar" and self.plain and resolved(self.text) is None


def compose(source: Source) -> Node | None:
    """The tree of a file, nothing where it is empty or cannot be read."""
    try:
        if source.fault is not None:
            raise source.fault
        return _Composer(source).root()
    except yaml.YAMLError as error:
        refused = explained(error, source)
    except Refused as error:
        refused = error
    Span(source, refused.at, refused.at).report(str(refused))
    return None


class _Composer:
    """Makes the tree of a file from the events of PyYAML's parser.

    That is the one in Python: the one in C is four times as fast, but is not everywhere, and says
    other things about the same mistake.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parser = yaml.SafeLoader(source.text)
        self.anchors: dict[str | None, Node] = {}
        self.total = 0

    def root(self) -> Node | None:
        self.next()  # the stream begins
        if isinstance(self.next(), yaml.StreamEndEvent):
            return None
        root = self.node(self.next(), 1)
        self.next()  # the document ends
        more = self.next()
        if not isinstance(more, yaml.StreamEndEvent):
            self.span(more).report("a second document begins here; a configuration is one")
        return root

    def node(self, event: yaml.Event, depth: int) -> Node:
        """The node that begins with `event`, the `depth`th inside each other."""
        span = self.span(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, span, depth)
        before = self.total
        self.grow(1, span)
        node = Node("scalar", span, span)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self.anchors[event.anchor] = node
        if isinstance(event, yaml.CollectionStartEvent):
            self.collection(node, event, depth)
        elif isinstance(event, yaml.ScalarEvent):
            node.style = event.style
            node.text = _whole(event.value, span)
            node.tag = _tag(event.tag, span, *TAGS)
        node.size = self.total - before
        return node

    def collection(self, node: Node, start: yaml.CollectionStartEvent, depth: int) -> None:
        """Read a list or a mapping to its end."""
        if depth > MAX_DEPTH:
            raise Refused(node.span.start, f"this is more than {MAX_DEPTH} levels deep")
        node.kind = "list" if isinstance(start, yaml.SequenceStartEvent) else "mapping"
        _tag(start.tag, node.span, "seq" if node.kind == "list" else "map")
        while not isinstance(event := self.next(), yaml.CollectionEndEvent):
            item = self.node(event, depth + 1)
            node.items.append(item)
            if node.kind == "mapping":
                self.total -= item.size
                node.items.append(self.below(item, depth + 1))
        node.height = 1 + max((item.height for item in node.items), default=0)
        # A block ends where the next thing begins; its first item is what one can point at.
        end = self.span(event) if start.flow_style or not node.items else node.items[0].span
        node.span = node.written = node.span._replace(end=end.end)

    def below(self, key: Node, depth: int) -> Node:
        """The value of a key, hidden where the key's name says that it is a secret."""
        if not looks_secret(key.text):
            return self.node(self.next(), depth)
        hidden = self.source.hidden
        at = len(hidden)
        hidden.append((key.span.end + 1, len(self.source.text)))  # should the parser stop in it
        value = self.node(self.next(), depth)
        hidden[at : at + 1] = _secrets(value, everywhere=key.text.endswith("s"))
        return value

    def alias(self, anchor: str | None, span: Span, depth: int) -> Node:
        """What has the anchor, if it is complete by now."""
        target = self.anchors.get(anchor)
        if target is None or target.size == 0:
            found = "no anchor above has this name" if target is None else "this is inside itself"
            span.report(f"{found}; if it is text and no alias, put it in quotes")
            target = Node("scalar", span, span, size=1)
        self.grow(target.size, span)
        if depth - 1 + target.height > MAX_DEPTH:
            raise Refused(span.start, f"this is more than {MAX_DEPTH} levels deep")
        return replace(target, span=span)

    def grow(self, size: int, span: Span) -> None:
        self.total += size
        if self.total > MAX_VALUES:
            message = f"this file has more than {MAX_VALUES} values, with those its aliases repeat"
            raise Refused(span.start, message)

    def next(self) -> yaml.Event:
        try:
            event: yaml.Event = self.parser.get_event()  # type: ignore[no-untyped-call]
        except (ValueError, OverflowError):
            # For "\UFFFFFFFF", and for a %YAML with thousands of digits.
            message = "YAML has no number as large as this"
            raise Refused(self.parser.index, message) from None
        except yaml.MarkedYAMLError as error:
            if error.context == "while parsing a flow node":  # it says no more than where it is
                error.context_mark = self.parser.marks[-1]
            raise
        return event

    def span(self, event: yaml.Event) -> Span:
        start, end = event.start_mark, event.end_mark
        return Span(self.source, start.index if start else 0, end.index if end else 0)


def _tag(tag: str | None, span: Span, *allowed: str) -> str | None:
    """The short name of a tag of the core schema that fits."""
    if tag is None:
        return None
    name = tag.removeprefix("tag:yaml.org,2002:")
    if name in allowed:
        return name
    at = span.source.text.find("!", span.start)
    message = "tags are not used here; take it away, or put the text in quotes"
    span._replace(start=at, end=at + 1).report(message)
    return "str"


def _whole(text: str, span: Span) -> str:
    """`text` with the two halves that JSON writes for a rare character put together."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if whole.count("�") > text.count("�"):
        span.report("this holds half a character, a surrogate without its other half")
    return whole


def _secrets(node: Node, *, everywhere: bool) -> Iterator[tuple[int, int]]:
    """What to hide of a secret: all texts in it but, if not `everywhere`, the names of options."""
    if node.kind == "scalar":
        if node.text != "$":  # half of a `${…}` that lacks quotes
            yield node.written.start, node.written.end
        return
    for number, item in enumerate(node.items):
        key = node.kind == "mapping" and number % 2 == 0
        if everywhere or not (key and is_option(item.text)):
            yield from _secrets(item, everywhere=everywhere)
