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
import math
import os
import pathlib
import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import yaml
from yaml.reader import ReaderError

from headrace.config.problems import Place, Problem, cover, looks_secret

Path = tuple[str | int, ...]
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
    file = pathlib.Path(path)
    reading = _Reading(environ, unset_ok)
    data = reading.open(file, None)
    reading.add(_Source(str(file), data), file.parent, (os.path.realpath(file),))
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
    folder = pathlib.Path(base)
    reading.add(_Source(name, text), folder, (os.path.realpath(folder / name),))
    return reading.document()


@dataclass(kw_only=True)
class Document:
    """What a configuration says, and where it says it."""

    value: dict[str, Any]
    """The sections of all files together."""
    problems: list[Problem]
    """What is wrong with the YAML itself, in the order of the files and their lines."""
    expanded: set[Path]
    """Values that came, wholly or partly, from `${…}`: never to be printed."""
    unset: set[Path]
    """Values that could not be had; what stands there instead means nothing."""
    files: list[pathlib.Path]
    """Every file that was asked for, those of `${file:…}` included."""
    _spots: dict[Path, _Spot] = field(repr=False)

    def place(self, path: Path) -> Place:
        """Where the value at `path` stands, or the nearest one around it."""
        return self._nearest(path).value.place()

    def key_place(self, path: Path) -> Place:
        """Where the key of the value at `path` stands, or the nearest one around it."""
        spot = self._nearest(path)
        return (spot.key or spot.value).place()

    def _nearest(self, path: Path) -> _Spot:
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
        self.text = self._decoded(data)
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
            if end > at and self.text[start:end] != "$":  # half of a `${…}` that lacks quotes
                start = max(start, at)
                shown += [self.text[at:start], cover(self.text[start:end])]
                at = end
        return _LINE_END.split("".join(shown) + self.text[at:])

    def hides(self, offset: int) -> bool:
        """Whether what stands there must not be named in a message either."""
        return any(start <= offset < end for start, end in self.hidden)

    def _decoded(self, data: str | bytes) -> str:
        if len(data) > MAX_FILE:
            self.fault = 0, f"this is larger than {MAX_FILE // 1024} KiB; `include` parts of it"
            return ""
        if isinstance(data, str):
            return data.removeprefix("\ufeff")
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
        self.spots: dict[Path, _Spot] = {}
        self.expanded: set[Path] = set()
        self.unset: set[Path] = set()
        self.files: list[pathlib.Path] = []
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

    def open(self, path: pathlib.Path, by: _Span | None) -> bytes:
        """The bytes of a configuration, none where it cannot be read."""
        self.files.append(path)
        try:
            # Only what was named on the command line may be a pipe: another could never end.
            return _bytes(path, MAX_FILE, regular=by is not None)
        except (OSError, ValueError) as error:
            message = f"cannot read {path}: {_reason(error)}"
        if by:
            self.report(by, message)
        else:
            self.problems.append(Problem(None, message))
        return b""

    def add(self, source: _Source, folder: pathlib.Path, trail: tuple[str, ...]) -> None:
        """Take in a file and what it includes; `trail` are the files that led here, itself last."""
        self.sources.append(source)
        values = _Values(source, folder, self)
        value = values.read()
        include = value.pop("include", None)
        self.merge(value, values)
        listed = isinstance(include, list)
        for index, pattern in enumerate(include if listed else [include]):
            path: Path = ("include", index) if listed else ("include",)
            if path in values.unset or pattern is None:
                continue
            span = values.spots[path].value
            if isinstance(pattern, str):
                self.include(pattern, span, folder, trail)
            else:
                self.report(span, "`include` takes names of files, such as teams/*.yaml")

    def merge(self, value: dict[str, Any], values: _Values) -> None:
        """Add the sections of one file to those of the others, key by key."""
        for section, new in value.items():
            old = self.value.get(section)
            twice: list[Path] = []
            if old is None:
                self.value[section] = new
                self.spots.pop((section,), None)
            elif isinstance(old, dict) and isinstance(new, dict):
                twice = [(section, key) for key in new if key in old]
                self.value[section] = old | new | old  # the old keys first, and as they were
            elif new is not None:
                twice = [(section,)]
            for path in twice:
                first, again = self.spots[path], values.spots[path]
                message = _twice(path[-1], first.key or first.value)
                self.report(again.key or again.value, message)
        for path, spot in values.spots.items():
            self.spots.setdefault(path, spot)
        self.expanded |= values.expanded
        self.unset |= values.unset

    def include(
        self, pattern: str, span: _Span, folder: pathlib.Path, trail: tuple[str, ...]
    ) -> None:
        """Take in the files that one entry of `include` names."""
        try:
            names = sorted(glob.glob(pattern, root_dir=folder))
        except ValueError:  # a null byte is in no file's name
            names = []
        if not names and not glob.has_magic(pattern):
            self.report(span, "there is no such file")
        for path in map(folder.joinpath, names):
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

    def __init__(self, source: _Source, folder: pathlib.Path, reading: _Reading) -> None:
        self.source = source
        self.folder = folder
        self.reading = reading
        self.report = reading.report
        self.spots: dict[Path, _Spot] = {}
        self.expanded: set[Path] = set()
        self.unset: set[Path] = set()

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

    def value(self, node: _Node, path: Path, key: _Span | None) -> Any:
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
        merge: dict[str, tuple[_Node, _Node]] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            name = self.name(key)
            known = merge if name == "<<" and key.target.plain else own
            if name in known:
                self.report(key.span, _twice(name, known[name][0].span))
            elif name is not None:
                known[name] = key, value
        merged: dict[str, tuple[_Node, _Node]] = {}
        for _, value in merge.values():
            for other in value.target.items if value.target.kind == "list" else [value]:
                if other.target.kind == "mapping":
                    merged = merged | self.pairs(other.target) | merged  # the first wins
                else:
                    self.report(other.span, "`<<` takes a mapping, or a list of mappings")
        return merged | own

    def name(self, key: _Node) -> str | None:
        """A key as text, or nothing where it cannot be one."""
        node = key.target
        if node.kind != "scalar":
            self.report(key.span, "a key must be text, not a list or a mapping")
            return None
        kind = "text" if node.tag or not node.plain else _kind(_resolved(node.text))
        if kind != "text":
            self.report(key.span, f"this key is {kind} to YAML, not text; put it in quotes")
        elif "${" in node.text:
            self.report(key.span, "`${…}` works in values, not in keys")
        return node.text

    def scalar(self, node: _Node, path: Path) -> Any:
        text = _Expansion(self, node, path).text() if "$" in node.text else node.text
        if path in self.unset or node.tag == "str":
            return text
        if node.tag is not None:
            return self.tagged(node, text)
        if path in self.expanded:
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

    What is put in is not looked at again. What is not used, such as the default of a variable that
    is set, need not be there.
    """

    def __init__(self, values: _Values, node: _Node, path: Path) -> None:
        self.values = values
        self.node = node
        self.path = path
        self.reading = values.reading

    def text(self) -> str:
        try:
            text, _ = self.run(0, (), wanted=True)
        except _Malformed as error:
            self.missing(error.start, error.start + len("${"), str(error), unset=False)
            return UNSET
        return text

    def run(self, at: int, within: tuple[int, ...], wanted: bool) -> tuple[str, int]:
        """The text from `at` on, and its end: the scalar's, or that of the reference around it."""
        done: list[str] = []
        braces = 0
        while part := _PART.search(self.node.text, at):
            done.append(self.node.text[at : part.start()])
            at = part.end()
            match part[0]:
                case "$$":
                    done.append("$")
                    continue
                case "${":
                    value, at = self.reference(part.start(), within, wanted)
                    done.append(value)
                    continue
                case "{":
                    braces += 1
                case "}" if within and not braces:
                    return "".join(done), at
                case "}":
                    braces -= 1
            done.append(part[0])
        if within:
            raise _Malformed(within[-1], "this `${` has no `}`")
        return "".join(done) + self.node.text[at:], len(self.node.text)

    def reference(self, start: int, within: tuple[int, ...], wanted: bool) -> tuple[str, int]:
        """What the `${…}` that begins at `start` stands for, and its end."""
        head = _REFERENCE.match(self.node.text, start)
        if head is None:
            raise _Malformed(
                start,
                "`${` is followed by NAME}, NAME:-default}, NAME:+value} or file:/path}; "
                "a plain dollar sign before a brace is `$$`",
            )
        if len(within) > 1:
            raise _Malformed(start, "a default may hold one `${…}`, and that no other")
        self.values.expanded.add(self.path)
        name, sign = head.groups()
        value = self.reading.environ.get(name, "") if name else ""
        if sign == "}":
            if wanted and name not in self.reading.environ:
                message = f"{name} is not set; set it, or give a default: ${{{name}:-…}}"
                self.missing(start, head.end(), f"the environment variable {message}")
                value = UNSET
            return value, head.end()
        used = wanted and (name is None or (sign == ":-") == (not value))
        inner, end = self.run(head.end(), (*within, start), used)
        if not used:
            return value if sign == ":-" else "", end
        return self.file(inner, start, end) if name is None else inner, end

    def file(self, name: str, start: int, end: int) -> str:
        """The text of a file, as secrets are mounted: without the line end that editors add."""
        path = self.values.folder / name
        self.reading.files.append(path)
        try:
            data = _bytes(path, MAX_SECRET)
            if len(data) > MAX_SECRET:
                raise ValueError(f"it is larger than {MAX_SECRET // 1024} KiB")
            return data.decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            absent = isinstance(error, FileNotFoundError)
            self.missing(start, end, f"cannot read this file: {_reason(error)}", unset=absent)
            return UNSET

    def missing(self, start: int, end: int, message: str, *, unset: bool = True) -> None:
        self.values.unset.add(self.path)
        if not (unset and self.reading.unset_ok):
            self.reading.report(self.span(start, end), message)

    def span(self, start: int, end: int) -> _Span:
        """Where the `${` at `start` of the text stands in the file.

        Quotes, escapes and folded lines move everything else, so the dollar signs are counted.
        """
        if start not in self.dollars:
            return self.node.span
        begin = self.dollars[start]
        return _Span(self.node.span.source, begin, begin + end - start)

    @cached_property
    def dollars(self) -> dict[int, int]:
        """Offsets in the file by those in the text; none where an escape hides a dollar sign."""
        source, begin, end = self.node.span
        if self.node.style in ("|", ">"):
            begin = source.text.find("\n", begin)  # the header's comment may hold some
        in_file = [match.start() for match in _DOLLARS.finditer(source.text, begin, end)]
        in_text = [match.start() for match in _DOLLARS.finditer(self.node.text)]
        return dict(zip(in_text, in_file, strict=True)) if len(in_text) == len(in_file) else {}


class _Malformed(Exception):
    """A `${` that nobody can read; what follows it cannot be either."""

    def __init__(self, start: int, message: str) -> None:
        super().__init__(message)
        self.start = start


_PART = re.compile(r"\$\$|\$\{|[{}]")
_DOLLARS = re.compile(r"\$\$|\$\{")
_REFERENCE = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(\}|:-|:\+)|file:)")


def _resolved(text: str) -> str | int | float | bool | None:
    """What a plain scalar is in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 300:  # Python and most others give up on longer numbers
        return text
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _kind(value: object) -> str:
    """What to call a scalar."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case _:
            return "text"


_WORDS: dict[str, bool | float | None] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"), None)
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf)
    | dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
)
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(slots=True)
class _Node:
    """A piece of YAML before it is a value."""

    kind: Literal["scalar", "list", "mapping", "alias"]
    span: _Span
    tag: str | None = None
    """`int` where somebody wrote `!!int`."""
    text: str = ""
    style: str | None = None
    """A scalar's: a quote, `|`, `>`, or nothing where it is plain."""
    items: list[_Node] = field(default_factory=list)
    """A list's; a mapping's keys and values by turns; what an alias stands for."""
    size: int = 0
    """How many values it makes, itself included; none while it is open."""
    height: int = 0
    """How deep the collections go in it, itself included."""

    @property
    def target(self) -> _Node:
        return self.items[0] if self.kind == "alias" else self

    @property
    def plain(self) -> bool:
        return self.style is None


def _compose(source: _Source, report: Report) -> _Node | None:
    """The tree of a file, nothing where it is empty or cannot be read."""
    parser = None
    try:
        if source.fault is not None:
            raise _Refused(*source.fault)
        parser = yaml.SafeLoader(source.text)
        return _Composer(source, parser, report).root()
    except _Refused as error:
        at, message = error.at, str(error)
    except ReaderError as error:
        at = int(error.position)
        message = f"YAML does not allow the character U+{ord(source.text[at]):04X}"
    except yaml.MarkedYAMLError as error:
        at, message = _explained(error, source)
    except (ValueError, OverflowError):
        # PyYAML's own, for "\UFFFFFFFF" and for a %YAML with thousands of digits.
        at, message = (int(parser.index) if parser else 0, "YAML has no number as large as this")
    report(_Span(source, at, at), message)
    return None


class _Refused(Exception):
    """A file that is not read any further."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


class _Composer:
    """Makes the tree of a file from PyYAML's events, and refuses what would grow too large.

    The parser is the one in Python: the one in C is four times as fast, but is not everywhere, and
    says other things about the same mistake.
    """

    def __init__(self, source: _Source, parser: yaml.SafeLoader, report: Report) -> None:
        self.source = source
        self.parser = parser
        self.report = report
        self.anchors: dict[str | None, _Node] = {}
        self.total = 0

    def root(self) -> _Node | None:
        self.next()  # the stream begins
        if isinstance(self.next(), yaml.StreamEndEvent):
            return None
        root = self.node(self.next(), 1)
        self.next()  # the document ends
        more = self.next()
        if not isinstance(more, yaml.StreamEndEvent):
            self.report(self.span(more), "a second document begins here; a configuration is one")
        return root

    def node(self, event: yaml.Event, depth: int) -> _Node:
        """The node that begins with `event`, the `depth`th inside each other."""
        span = self.span(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, span, depth)
        before = self.total
        self.grow(1, span)
        node = _Node("scalar", span)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self.anchors[event.anchor] = node
        if isinstance(event, yaml.CollectionStartEvent):
            self.collection(node, event, depth)
        elif isinstance(event, yaml.ScalarEvent):
            node.style = event.style
            node.text = self.characters(event.value, span)
            node.tag = self.tag(event.tag, ("str", "int", "float", "bool", "null"), span)
        node.size = self.total - before
        return node

    def collection(self, node: _Node, start: yaml.CollectionStartEvent, depth: int) -> None:
        """Read a list or a mapping to its end."""
        if depth > MAX_DEPTH:
            raise _Refused(node.span.start, f"this is more than {MAX_DEPTH} levels deep")
        if isinstance(start, yaml.SequenceStartEvent):
            node.kind = "list"
            self.tag(start.tag, ("seq",), node.span)
            while not isinstance(event := self.next(), yaml.SequenceEndEvent):
                node.items.append(self.node(event, depth + 1))
        else:
            node.kind = "mapping"
            self.tag(start.tag, ("map",), node.span)
            while not isinstance(event := self.next(), yaml.MappingEndEvent):
                key = self.node(event, depth + 1)
                self.total -= key.size
                node.items += [key, self.below(key, depth + 1)]
        node.height = 1 + max((item.height for item in node.items), default=0)
        # A block ends where the next thing begins; its first item is what one can point at.
        end = self.span(event) if start.flow_style or not node.items else node.items[0].span
        node.span = node.span._replace(end=end.end)

    def below(self, key: _Node, depth: int) -> _Node:
        """The value of a key, hidden where the key's name says that it is a secret."""
        name = key.target.text
        if not looks_secret(name):
            return self.node(self.next(), depth)
        hidden = self.source.hidden
        at = len(hidden)
        colon = _COLON.match(self.source.text, key.span.end)
        start = colon.end() if colon else key.span.end
        hidden.append((start, len(self.source.text)))  # should the parser stop in it
        value = self.node(self.next(), depth)
        hidden[at : at + 1] = [
            (span.start, span.end) for span in _scalars(value, everywhere=name.endswith("s"))
        ]
        return value

    def alias(self, anchor: str | None, span: _Span, depth: int) -> _Node:
        """What stands for an anchored node that is complete by now."""
        target = self.anchors.get(anchor)
        if target is None or target.size == 0:
            found = "no anchor above has this name" if target is None else "this is inside itself"
            self.report(span, f"{found}; if it is text and no alias, put it in quotes")
            target = _Node("scalar", span, size=1)
        self.grow(target.size, span)
        if depth - 1 + target.height > MAX_DEPTH:
            raise _Refused(span.start, f"this is more than {MAX_DEPTH} levels deep")
        return _Node("alias", span, items=[target], size=target.size, height=target.height)

    def grow(self, size: int, span: _Span) -> None:
        self.total += size
        if self.total > MAX_VALUES:
            message = f"this file has more than {MAX_VALUES} values, with those its aliases repeat"
            raise _Refused(span.start, message)

    def tag(self, tag: str | None, allowed: tuple[str, ...], span: _Span) -> str | None:
        """The short name of a tag of the core schema that fits."""
        if tag is None:
            return None
        name = tag.removeprefix("tag:yaml.org,2002:")
        if name in allowed:
            return name
        at = self.source.text.find("!", span.start)
        message = "tags are not used here; take it away, or put the text in quotes"
        self.report(_Span(self.source, at, at + 1), message)
        return "str"

    def characters(self, text: str, span: _Span) -> str:
        """`text` with the two halves that JSON writes for a rare character put together."""
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.report(span, "this holds half a character, a surrogate without its other half")
            return "".join("�" if "\ud800" <= char <= "\udfff" else char for char in text)
        return text

    def next(self) -> yaml.Event:
        event: yaml.Event = self.parser.get_event()  # type: ignore[no-untyped-call]
        return event

    def span(self, event: yaml.Event) -> _Span:
        start, end = event.start_mark, event.end_mark
        return _Span(self.source, start.index if start else 0, end.index if end else 0)


_COLON = re.compile(r"\s*:[ \t]*")
Report = Callable[[_Span, str], None]


def _scalars(node: _Node, *, everywhere: bool) -> Iterator[_Span]:
    """The scalars of a secret: its own, those of its lists, and `everywhere` those of mappings."""
    node = node.target
    if node.kind == "scalar":
        yield node.span
    elif node.kind == "list" or everywhere:
        for item in node.items:
            yield from _scalars(item, everywhere=everywhere)


def _explained(error: yaml.MarkedYAMLError, source: _Source) -> tuple[int, str]:
    """A syntax error in words for people, and where to look; no text of the file is repeated."""
    found = error.problem_mark.index if error.problem_mark else 0
    began = error.context_mark.index if error.context_mark else found
    said = f"{error.context}: {error.problem}"
    if "flow sequence" in said or "flow mapping" in said:
        return _unclosed(source, began, found)
    for words, at, message in _SYNTAX:
        if words in said:
            where = began if at == "began" else found
            return where, message.format(char=source.text[where : where + 1])
    return found, "YAML cannot be read here"


def _unclosed(source: _Source, began: int, found: int) -> tuple[int, str]:
    """The same for a `[` or `{` that goes on where it should not."""
    opening = source.text[began : began + 1]
    closing = "]" if opening == "[" else "}"
    if source.text[found - 1 : found + 1] == "${":
        return found - 1, "inside […] and {…}, put `${…}` in quotes"
    if found >= len(source.text.rstrip()):
        return began, f"this `{opening}` is never closed"
    where = source.place(began, began)
    return (found, f"a `,` or `{closing}` is missing before this; the `{opening}` is at {where}")


_SYNTAX = (
    ("directive", "began", "a line that begins with `%` is for YAML itself; put text in quotes"),
    ("incompatible YAML", "found", "only YAML 1.2 is read here; take this line away"),
    ("scanning an a", "began", "text that begins with `{char}` needs quotes"),
    ("tag", "began", "text that begins with `!` needs quotes"),
    ("quoted scalar: found unexpected", "began", "this quote is never closed"),
    ("unknown escape", "found", r"double quotes have no such escape; write `\\` for a backslash"),
    ("hexadecimal", "found", "this escape needs more hexadecimal digits"),
    ("block scalar", "found", "after `|` or `>` the text begins on the next line"),
    ("expected ':'", "began", "a `:` is missing after this key"),
    ("'\\t' that cannot", "found", "a tab cannot stand here; indent with spaces"),
    ("start any token", "found", "text that begins with `{char}` needs quotes"),
    ("sequence entries", "found", "a list cannot begin here; begin it on a line of its own"),
    ("mapping keys", "found", "text that begins with `? ` needs quotes"),
    (
        "mapping values",
        "found",
        "a `:` cannot stand here; put the text in quotes, or check the indentation here and above",
    ),
    (
        "block end",
        "found",
        "this does not go with what is before it; check the indentation and the quotes",
    ),
    ("node content", "found", "a value is missing before this"),
    ("document start", "found", "nothing can follow here; the configuration is complete"),
)
"""PyYAML's words, whether to look where the thing began or where it failed, and ours."""


def _twice(name: object, first: _Span) -> str:
    """The message for a key that is there again."""
    named = "this key" if first.source.hides(first.start) else f"{_short(name)!r}"
    return f"{named} is given twice; the first time at {first.place()}"


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _bytes(path: pathlib.Path, limit: int, *, regular: bool = True) -> bytes:
    """The bytes of a file, at most one more than `limit`."""
    if regular and not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        return file.read(limit + 1)


def _reason(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without its name or anything that is in it."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be opened"
    return "it is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
