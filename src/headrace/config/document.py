"""YAML as plain values that remember where they stand, with `include` and `${…}`.

The values are those of YAML 1.2's core schema (yaml.org/spec/1.2.2, 10.3): `no`, `on`, `12:30` and
`1_000` are text, `010` is ten. Anchors and `<<` work; tags that make objects do not. Nothing here
knows what a gateway is.

PyYAML's parser gives events, `_Composer` makes nodes of them within limits, `_Values` makes values
of the nodes, `_Reading` puts the files together. What is wrong is collected on the way, all of it,
and never raised.
"""

from __future__ import annotations

import codecs
import glob
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from yaml.reader import ReaderError

from headrace.config.problems import Place, Problem, cover, looks_secret

KeyPath = tuple[str | int, ...]
"""The way to a value: `("routes", "fast", "targets", 0)`."""

MAX_FILE = 1024 * 1024
MAX_SECRET = 64 * 1024
"""Bytes in the file of a `${file:…}`."""
MAX_VALUES = 20_000
"""Values in one file; those behind an alias count wherever it is used, keys do not."""
MAX_DEPTH = 32
"""Mappings and lists inside each other."""
MAX_INCLUDES = 8
"""Files that include each other in a row."""

UNSET = "unset"
"""What stands for a value that could not be had."""


def load(
    path: str | os.PathLike[str], environ: Mapping[str, str], *, unset_ok: bool = False
) -> Document:
    """Read the configuration at `path` and all that it includes.

    With `unset_ok`, a variable that is not set or a `${file:…}` that is not there is no problem.
    """
    path = Path(path)
    reading = _Reading(environ, unset_ok)
    data = reading.open(path, None)
    reading.add(_Source(str(path), data), path.parent, (os.path.realpath(path),))
    return reading.document()


def parse(
    text: str | bytes,
    name: str,
    environ: Mapping[str, str],
    *,
    base: str | os.PathLike[str] = ".",
    unset_ok: bool = False,
) -> Document:
    """Read a configuration that is not a file; `base` is where its relative paths begin."""
    reading = _Reading(environ, unset_ok)
    reading.add(_Source(name, text), Path(base), (os.path.realpath(Path(base, name)),))
    return reading.document()


@dataclass(kw_only=True)
class Document:
    """What a configuration says, and where it says it."""

    value: dict[str, Any]
    """The sections of all files together."""
    problems: list[Problem]
    """What is wrong with the YAML itself, in the order of the files and their lines."""
    expanded: set[KeyPath]
    """Values that came, wholly or partly, from `${…}`: never to be printed."""
    unset: set[KeyPath]
    """Values that could not be had; what stands there instead means nothing."""
    files: list[Path]
    """Every file that was asked for, those of `${file:…}` included."""
    _spots: dict[KeyPath, _Spot] = field(repr=False)

    def place(self, path: KeyPath) -> Place:
        """Where the value at `path` stands, or the nearest one around it."""
        return self._nearest(path).value.place()

    def key_place(self, path: KeyPath) -> Place:
        """Where the key of the value at `path` stands, or the nearest one around it."""
        spot = self._nearest(path)
        return (spot.key or spot.value).place()

    def _nearest(self, path: KeyPath) -> _Spot:
        ways = (path[:length] for length in range(len(path), -1, -1))
        return next(self._spots[way] for way in ways if way in self._spots)


class _Span(NamedTuple):
    """Characters of a file."""

    source: _Source
    start: int
    end: int

    def place(self) -> Place:
        return self.source.place(self.start, self.end)


class _Spot(NamedTuple):
    """Where a value stands, and its key if it has one."""

    key: _Span | None
    value: _Span


class _Source:
    """The text of a file: says where an offset stands, and what of it may be shown."""

    def __init__(self, name: str, data: str | bytes) -> None:
        self.name = name
        self.fault: tuple[int, str] | None = None
        self.text = self._decoded(data) if isinstance(data, bytes) else data.removeprefix("\ufeff")
        if len(data) > MAX_FILE:
            self.fault = 0, f"this is larger than {MAX_FILE // 1024} KiB; `include` parts of it"
        self.hidden: list[tuple[int, int]] = []
        self.starts = [0, *(end.end() for end in _LINE_END.finditer(self.text))]

    def place(self, start: int, end: int) -> Place:
        # Not PyYAML's line and column: it ends lines at U+0085 and U+2028 too, which no editor does.
        line = bisect_right(self.starts, start) - 1
        source = self.lines[line]
        column = start - self.starts[line]
        width = len(source[column : column + end - start].rstrip())
        return Place(self.name, line + 1, column + 1, max(1, width), source)

    @cached_property
    def lines(self) -> list[str]:
        """The lines as they may be shown; to be asked for when `hidden` is complete."""
        shown: list[str] = []
        at = 0
        for start, end in sorted(self.hidden):
            if end > at:
                start = max(start, at)
                shown += [self.text[at:start], cover(self.text[start:end])]
                at = end
        return _LINE_END.split("".join(shown) + self.text[at:])

    def hides(self, offset: int) -> bool:
        """Whether what stands there must not be named in a message either."""
        return any(start <= offset < end for start, end in self.hidden)

    def _decoded(self, data: bytes) -> str:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self.fault = 0, "this file is UTF-16; save it as UTF-8"
            return ""
        data = data.removeprefix(codecs.BOM_UTF8)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            before = len(data[: error.start].decode())
            self.fault = before, "this is not UTF-8; save the file as UTF-8"
            return data.decode(errors="replace")


_LINE_END = re.compile(r"\r\n|\r|\n")


class _Reading:
    """One configuration being read: the sections so far, and what was found on the way."""

    def __init__(self, environ: Mapping[str, str], unset_ok: bool) -> None:
        self.environ = environ
        self.unset_ok = unset_ok
        self.value: dict[str, Any] = {}
        self.spots: dict[KeyPath, _Spot] = {}
        self.expanded: set[KeyPath] = set()
        self.unset: set[KeyPath] = set()
        self.files: list[Path] = []
        self.included: dict[str, _Span] = {}
        self.sources: list[_Source] = []
        self.problems: list[Problem] = []
        self.found: dict[tuple[_Span, str], None] = {}  # once each: aliases find things twice

    def document(self) -> Document:
        """All that was read, its problems in the order of the files."""
        number = {source: index for index, source in enumerate(self.sources)}
        found = sorted(self.found, key=lambda item: (number[item[0].source], item[0].start))
        self.problems += [Problem(span.place(), message) for span, message in found]
        return Document(
            value=self.value,
            problems=self.problems,
            expanded=self.expanded,
            unset=self.unset,
            files=list(dict.fromkeys(self.files)),
            _spots={(): _Spot(None, _Span(self.sources[0], 0, 0)), **self.spots},
        )

    def report(self, span: _Span, message: str) -> None:
        self.found.setdefault((span, message))

    def open(self, path: Path, by: _Span | None) -> bytes:
        """The bytes of a configuration, empty where it cannot be read."""
        self.files.append(path)
        try:
            # Only what was named on the command line may be a pipe: another could never end.
            return _bytes(path, MAX_FILE, regular=by is not None)
        except (OSError, ValueError) as error:
            message = f"cannot read {path}: {_reason(error)}"
            self.report(by, message) if by else self.problems.append(Problem(None, message))
            return b""

    def add(self, source: _Source, folder: Path, trail: tuple[str, ...]) -> None:
        """Take in a file and what it includes; `trail` are the files that led here, itself last."""
        self.sources.append(source)
        values = _Values(source, folder, self)
        value = values.read()
        include = value.pop("include", None)
        self.merge(value, values.spots)
        listed = isinstance(include, list)
        for index, pattern in enumerate(include if listed else [include]):
            path: KeyPath = ("include", index) if listed else ("include",)
            if path in self.unset or pattern is None:
                continue
            span = values.spots[path].value
            if isinstance(pattern, str):
                self.include(pattern, span, folder, trail)
            else:
                self.report(span, "`include` takes names of files, such as teams/*.yaml")

    def merge(self, value: dict[str, Any], spots: dict[KeyPath, _Spot]) -> None:
        """Add the sections of one file to those of the others, key by key."""
        for section, new in value.items():
            old = self.value.get(section)
            twice: list[KeyPath] = []
            if old is None:
                self.value[section] = new
                self.spots.pop((section,), None)
            elif isinstance(old, dict) and isinstance(new, dict):
                twice = [(section, key) for key in new if key in old]
                self.value[section] = old | new | old
            elif new is not None:
                twice = [(section,)]
            for path in twice:
                first, again = (spot.key or spot.value for spot in (self.spots[path], spots[path]))
                self.report(again, _twice(path[-1], first))
        for path, spot in spots.items():
            self.spots.setdefault(path, spot)

    def include(self, pattern: str, span: _Span, folder: Path, trail: tuple[str, ...]) -> None:
        """Take in the files that one entry of `include` names."""
        names = sorted(glob.glob(pattern, root_dir=folder)) if "\0" not in pattern else []
        if not names and not glob.has_magic(pattern):
            self.report(span, "there is no such file")
        for name in names:
            path = folder / name
            real = os.path.realpath(path)
            first = self.included.setdefault(real, span)
            if real in trail:
                self.report(span, f"{path} includes itself")
            elif first is not span:
                self.report(span, f"{path} is included twice; the first time at {first.place()}")
            elif len(trail) > MAX_INCLUDES:
                self.report(span, f"more than {MAX_INCLUDES} files include each other in a row")
            else:
                source = _Source(str(path), self.open(path, span))
                self.add(source, path.parent, (*trail, real))


class _Values:
    """The values of one file."""

    def __init__(self, source: _Source, folder: Path, reading: _Reading) -> None:
        self.source = source
        self.folder = folder
        self.reading = reading
        self.report = reading.report
        self.spots: dict[KeyPath, _Spot] = {}

    def read(self) -> dict[str, Any]:
        root = _compose(self.source, self.report)
        if root is None:
            return {}
        value = self.value(root, (), None)
        if isinstance(value, dict):
            return value
        if value is not None:
            message = "a configuration is a mapping of sections, such as `upstreams:` and `routes:`"
            self.report(root.span, message)
        return {}

    def value(self, node: _Node, path: KeyPath, key: _Span | None) -> Any:
        self.spots[path] = _Spot(key, node.span)
        node = node.target
        match node.kind:
            case "list":
                items = enumerate(node.items)
                return [self.value(item, (*path, index), None) for index, item in items]
            case "mapping":
                return {
                    name: self.value(value, (*path, name), key.span)
                    for name, (key, value) in self.pairs(node).items()
                    if path or not name.startswith("x-")
                }
            case _:
                return self.scalar(node, path)

    def pairs(self, node: _Node) -> dict[str, tuple[_Node, _Node]]:
        """The keys and values of a mapping, those of its `<<` first, its own above them."""
        own: dict[str, tuple[_Node, _Node]] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            name = self.name(key)
            if name in own:
                self.report(key.span, _twice(name, own[name][0].span))
            elif name is not None:
                own[name] = key, value
        if "<<" not in own:
            return own
        _, merge = own.pop("<<")
        merged: dict[str, tuple[_Node, _Node]] = {}
        for other in merge.target.items if merge.target.kind == "list" else [merge]:
            if other.target.kind == "mapping":
                merged = self.pairs(other.target) | merged
            else:
                self.report(other.span, "`<<` takes a mapping, or a list of mappings")
        return merged | own

    def name(self, key: _Node) -> str | None:
        """A key as text, or nothing where it cannot be one."""
        node = key.target
        if node.kind != "scalar":
            self.report(key.span, "a key must be text, not a list or a mapping")
            return None
        if node.plain and node.tag != "str" and not isinstance(_resolved(node.text), str):
            self.report(key.span, "this key is not text to YAML; put it in quotes")
        elif "${" in node.text:
            self.report(key.span, "`${…}` works in values, not in keys")
        return node.text

    def scalar(self, node: _Node, path: KeyPath) -> Any:
        text = _Expansion(self, node, path).text() if "$" in node.text else node.text
        if path in self.reading.unset or node.tag == "str":
            return text
        if node.tag is not None:
            return self.tagged(node, text)
        if path in self.reading.expanded:
            return text or (None if node.plain else "")
        return _resolved(text) if node.plain else text

    def tagged(self, node: _Node, text: str) -> Any:
        """A scalar with `!!int` and the like in front."""
        value = _resolved(text)
        match node.tag, value:
            case ("null", None) | ("bool", bool()) | ("float", float()):
                return value
            case ("int", int()) if not isinstance(value, bool):
                return value
            case ("float", int()) if not isinstance(value, bool):
                return float(value)
        self.report(node.span, f"this is not what its tag `!!{node.tag}` says")
        return text


class _Expansion:
    """The `${…}` of one scalar, replaced by what they stand for.

    What is put in is not looked at again. A reference that is not used, such as the default of a
    variable that is set, need not be there.
    """

    def __init__(self, values: _Values, node: _Node, path: KeyPath) -> None:
        self.values = values
        self.reading = values.reading
        self.node = node
        self.path = path

    def text(self) -> str:
        try:
            text, _ = self.run(0, 0, wanted=True)
        except _Malformed as error:
            self.missing(error.start, error.start + len("${"), error.message)
            return UNSET
        return text

    def run(self, at: int, depth: int, wanted: bool) -> tuple[str, int]:
        """The text from `at` on and where it ends: inside a reference, behind the `}` of that."""
        start, braces = at - len("${"), 0
        done: list[str] = []
        for_text = self.node.text
        while found := _PART.search(for_text, at):
            done.append(for_text[at : found.start()])
            at = found.end()
            part = found[0]
            if part == "$$":
                part = "$"
            elif part == "${":
                part, at = self.reference(found.start(), depth, wanted)
            elif depth and part == "{":
                braces += 1
            elif depth and part == "}":
                if not braces:
                    return "".join(done), at
                braces -= 1
            done.append(part)
        if depth:
            raise _Malformed(start, "x")
        return "".join(done) + for_text[at:], len(for_text)
