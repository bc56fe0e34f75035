"""`${NAME}`, `${NAME:-default}`, `${NAME:+value}` and `${file:…}` in the text of a scalar.

What is put in is not looked at again. What is not used, such as the default of a variable that is
set, is not looked at either.
"""

from __future__ import annotations

import re
from functools import cached_property

from headrace.config.source import Refused, Span
from headrace.config.surroundings import Surroundings, reason
from headrace.config.tree import Node

MAX_SECRET = 64 * 1024
"""Bytes in the file of a `${file:…}`."""

UNSET = "unset"


class Expansion:
    """One scalar with its `${…}` replaced by what they stand for."""

    def __init__(self, node: Node, around: Surroundings) -> None:
        self.node = node
        self.around = around
        self.expanded = False
        """Whether there was any."""
        self.unset = False
        """Whether something could not be had."""

    def text(self) -> str:
        """The text to use instead."""
        try:
            return self.between(0, len(self.node.text))
        except Refused as error:
            return self.missing(error.at, error.at + len("${"), str(error), absent=False)

    def between(self, start: int, end: int, depth: int = 0) -> str:
        """This part of the text, expanded; it is inside `depth` others."""
        done: list[str] = []
        while dollar := _DOLLAR.search(self.node.text, start, end):
            done.append(self.node.text[start : dollar.start()])
            if dollar[0] == "$$":
                done.append("$")
                start = dollar.end()
            else:
                value, start = self.reference(dollar.start(), depth)
                done.append(value)
        return "".join(done) + self.node.text[start:end]

    def reference(self, start: int, depth: int) -> tuple[str, int]:
        """What the `${…}` that begins at `start` stands for, and its end."""
        head = _HEAD.match(self.node.text, start)
        if head is None:
            raise Refused(
                start,
                "`${` is followed by NAME}, NAME:-default}, NAME:+value} or file:/path}; "
                "a plain dollar sign before a brace is `$$`",
            )
        if depth > 1:
            raise Refused(start, "a default may hold one `${…}`, and that no other")
        self.expanded = True
        end = self.end(start)
        name, sign = head.groups()
        value = self.around.environ.get(name) if name else None
        if sign == "}" and value is None:
            message = f"{name} is not set; set it, or give a default: ${{{name}:-…}}"
            value = self.missing(start, end, f"the environment variable {message}")
        if sign == "}" or (sign == ":-" and value) or (sign == ":+" and not value):
            return value or "", end
        inner = self.between(head.end(), end - 1, depth + 1)
        return inner if name else self.file(inner, start, end), end

    def end(self, start: int) -> int:
        """Where the `${` at `start` is closed."""
        level = 0
        for brace in _BRACE.finditer(self.node.text, start):
            level += {"${": 1, "{": 1, "}": -1, "$$": 0}[brace[0]]
            if level == 0:
                return brace.end()
        raise Refused(start, "this `${` has no `}`")

    def file(self, name: str, start: int, end: int) -> str:
        """The text of a file, as secrets are mounted: without the line end that editors add."""
        try:
            data = self.around.read(self.node.written.source.folder / name, MAX_SECRET)
            if len(data) > MAX_SECRET:
                raise ValueError(f"it is larger than {MAX_SECRET // 1024} KiB")
            return data.decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            absent = isinstance(error, FileNotFoundError)
            message = f"cannot read this file: {reason(error)}"
            return self.missing(start, end, message, absent=absent)

    def missing(self, start: int, end: int, message: str, *, absent: bool = True) -> str:
        """What stands for a value that could not be had; a problem unless it may be absent."""
        self.unset = True
        if not (absent and self.around.unset_ok):
            self.span(start, end).report(message)
        return UNSET

    def span(self, start: int, end: int) -> Span:
        """Where the `${` at `start` of the text stands in the file."""
        written = self.node.written
        if start not in self.dollars:
            return written
        begin = self.dollars[start]
        return written._replace(start=begin, end=begin + end - start)

    @cached_property
    def dollars(self) -> dict[int, int]:
        """Offsets in the file by those in the text; none where an escape hides a dollar sign.

        Quotes, escapes and folded lines move everything else, so the dollar signs are counted.
        """
        source, begin, end = self.node.written
        if self.node.style in ("|", ">"):
            begin = source.text.find("\n", begin)  # the header's comment may hold some
        in_file = [found.start() for found in _DOLLAR.finditer(source.text, begin, end)]
        in_text = [found.start() for found in _DOLLAR.finditer(self.node.text)]
        return dict(zip(in_text, in_file, strict=True)) if len(in_text) == len(in_file) else {}


_DOLLAR = re.compile(r"\$\$|\$\{")
_BRACE = re.compile(r"\$\$|\$\{|[{}]")
_HEAD = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(\}|:-|:\+)|file:)")
