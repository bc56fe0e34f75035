"""The text of a configuration file: its places, its secrets, and what is wrong with it."""

from __future__ import annotations

import codecs
import pathlib
import re
from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

from headrace.config.below import below_secrets
from headrace.config.problems import Place, Problem, cover

MAX_FILE = 1024 * 1024
"""Bytes in one file."""


class Source:
    """One file: says where an offset stands, shows no secret, and collects problems."""

    def __init__(self, name: str, data: bytes, folder: pathlib.Path) -> None:
        self.name = name
        self.folder = folder
        """Where its relative paths begin."""
        self.fault: Refused | None = None
        """Why the text cannot be read, where it cannot."""
        self.text = self._decoded(data)
        self.hidden: list[tuple[int, int]] = []
        """From where to where there are secrets; complete when all of the YAML is parsed."""
        self.found: dict[tuple[Span, str], None] = {}
        """What is wrong, once each: what stands behind an alias is read more than once."""
        self._starts = [0, *(end.end() for end in _LINE_END.finditer(self.text))]

    def problems(self) -> list[Problem]:
        """What is wrong with this file, in the order of its lines."""
        found = sorted(self.found, key=lambda item: item[0].start)
        return [Problem(span.place(), message) for span, message in found]

    def place(self, start: int, end: int, *, clear: bool = False) -> Place:
        """Where these characters stand, as an editor counts; `clear` shows them all the same."""
        # Not PyYAML's line and column, whose lines end at U+0085 and U+2028 too.
        line = bisect_right(self._starts, start) - 1
        source = self._lines[line]
        column = start - self._starts[line]
        width = len(source[column : column + end - start].rstrip())
        shown = self.text[start : start + width] if clear else ""
        return Place(self.name, line + 1, column + 1, max(1, width), source, shown)

    def hides(self, offset: int) -> bool:
        """Whether what stands there must not be named in a message either."""
        return any(start <= offset < end for start, end in self.hidden)

    @cached_property
    def _lines(self) -> list[str]:
        """The lines as they may be shown."""
        shown: list[str] = []
        at = 0
        lines = _LINE_END.split(self.text)
        below = [
            (self._starts[number] + column, self._starts[number] + len(lines[number]))
            for number, column in below_secrets(lines)
        ]
        for start, end in sorted([*self.hidden, *below]):
            secret = self.text[start:end].rstrip()
            if _LINE_END.search(secret):
                # Its end may be a quote that was to begin another one.
                after = _LINE_END.search(self.text, start + len(secret))
                end = after.start() if after else len(self.text)
            if end > at:  # else it is hidden already
                start = max(start, at)
                shown += [self.text[at:start], cover(self.text[start:end])]
                at = end
        return _LINE_END.split("".join(shown) + self.text[at:])

    def _decoded(self, data: bytes) -> str:
        if len(data) > MAX_FILE:
            message = f"this is larger than {MAX_FILE // 1024} KiB; `include` parts of it"
            self.fault = Refused(0, message)
            return ""
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self.fault = Refused(0, "this file is UTF-16; save it as UTF-8")
            return ""
        data = data.removeprefix(codecs.BOM_UTF8)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            before = len(data[: error.start].decode())
            self.fault = Refused(before, "this is not UTF-8; save the file as UTF-8")
            return data.decode(errors="replace")


class Span(NamedTuple):
    """Characters of a file."""

    source: Source
    start: int
    end: int

    def place(self, *, clear: bool = False) -> Place:
        """Where they stand; where that is `clear`, they are no secret."""
        return self.source.place(self.start, self.end, clear=clear)

    def report(self, message: str) -> None:
        """Note what is wrong with them."""
        self.source.found.setdefault((self, message))


class Refused(Exception):
    """Why a text is not read any further, and from where on."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


_LINE_END = re.compile(r"\r\n|\r|\n")
