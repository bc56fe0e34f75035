"""`include`: the sections of several files put together."""

from __future__ import annotations

import glob
import os
import pathlib
from dataclasses import replace

from headrace.config.source import MAX_FILE, Source, Span
from headrace.config.surroundings import Surroundings, reason
from headrace.config.tree import Node, compose
from headrace.config.values import Pairs, Values, given_twice, pairs

MAX_INCLUDES = 8
"""Files that include each other in a row."""


class Sections:
    """The sections of a file and of all that it includes."""

    def __init__(self, first: Source, around: Surroundings) -> None:
        self.around = around
        self.pairs: Pairs = {}
        self.span = Span(first, 0, 0)
        self.sources: list[Source] = []
        self.patterns: list[str] = []
        self.names: list[str] = []
        """What those have matched."""
        self.included: dict[str, Span] = {}
        self.add(first, ())

    def tree(self) -> Node:
        """All sections as one mapping."""
        return Node("mapping", self.span, self.span, items=_items(self.pairs))

    def add(self, source: Source, trail: tuple[str, ...]) -> None:
        """Take in a file and what it includes; `trail` are the files that led to it."""
        self.sources.append(source)
        root = compose(source)
        if root is None or root.empty:
            return
        if root.kind != "mapping":
            root.span.report(
                "a configuration is a mapping of sections, such as `upstreams:` and `routes:`"
            )
            return
        if not trail:
            self.span = root.span
        sections = pairs(root)
        _, include = sections.pop("include", (None, None))
        for name, (key, value) in sections.items():
            if not name.startswith("x-"):
                self.merge(name, key, value)
        if include:
            for entry in include.items if include.kind == "list" else [include]:
                self.include(entry, (*trail, os.path.realpath(source.name)))

    def merge(self, name: str, key: Node, value: Node) -> None:
        """Add a section to the one of the same name, key by key."""
        first, known = self.pairs.get(name, (key, None))
        if known is None or known.empty:
            self.pairs[name] = key, value
        elif known.kind == value.kind == "mapping":
            old, new = pairs(known), pairs(value)
            for twice in new.keys() & old.keys():
                given_twice(new[twice][0], old[twice][0])
            self.pairs[name] = first, replace(known, items=_items(old | new | old))
        elif not value.empty:
            given_twice(key, first)

    def include(self, entry: Node, trail: tuple[str, ...]) -> None:
        """Take in the files that one entry of `include` names."""
        pattern = Values(entry, self.around)
        if pattern.unset or pattern.value is None:
            return
        if not isinstance(pattern.value, str):
            entry.span.report("`include` takes names of files, such as teams/*.yaml")
            return
        folder = glob.escape(str(entry.span.source.folder))
        files = os.path.join(folder, pattern.value)
        self.patterns.append(files)
        names = matching(files)
        self.names += names
        if not names and not glob.has_magic(pattern.value):
            entry.span.report("there is no such file")
        for path in map(pathlib.Path, names):
            self.open(path, entry.span, trail)

    def open(self, path: pathlib.Path, span: Span, trail: tuple[str, ...]) -> None:
        """Take in the file at `path`, unless that is a problem."""
        real = os.path.realpath(path)
        first = self.included.setdefault(real, span)
        if real in trail:
            span.report(f"{path} includes itself")
        elif first is not span:
            span.report(f"{path} is included twice; the first time at {first.place()}")
        elif len(trail) > MAX_INCLUDES:
            span.report(f"more than {MAX_INCLUDES} files include each other in a row")
        else:
            try:
                data = self.around.read(path, MAX_FILE)
            except (OSError, ValueError) as error:
                span.report(f"cannot read {path}: {reason(error)}")
            else:
                self.add(Source(str(path), data, path.parent), trail)


def matching(pattern: str) -> list[str]:
    """The names of the files that an `include` takes in."""
    return [] if "\0" in pattern else sorted(glob.glob(pattern))  # which is in no file's name


def _items(pairs: Pairs) -> list[Node]:
    """What a mapping's node holds: keys and values by turns."""
    return [node for pair in pairs.values() for node in pair]
