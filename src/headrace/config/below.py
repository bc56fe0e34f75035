"""What stands below a secret's name, by the indentation alone.

For text that no parser understands, and for names that only their writer understands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from headrace.config.problems import is_option, meant_secret


def below_secrets(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The lines below a name that is, or may be meant to be, a secret's; and from which column on.

    The names of options are not in it, as what is called `api_key` may be a plugin.
    """
    above: list[_Above] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        named = _NAMED.match(line)
        depth = named.end("dashes") if named else _depth(line)
        if line.lstrip().startswith("#"):
            if above and depth > above[-1].depth and above[-1].secret:
                yield number, 0
            continue
        while above and depth <= above[-1].depth:
            # An item may stand as far left as its key, and be a blank short.
            if not named and depth >= above[-1].depth - 1 and above[-1].secret:
                break
            above.pop()
        if above and above[-1].secret:
            option = named if above[-1].has_options and named and is_option(named["name"]) else None
            yield number, option.end() if option else len(line) - len(line.lstrip("- \t"))
        else:
            above.append(_Above(depth, line))


@dataclass
class _Above:
    """A line that others may stand below."""

    depth: int
    line: str

    @cached_property
    def secret(self) -> bool:
        """Whether a name in it is a secret's."""
        names = (first or name for first, name in _NAMES.findall(self.line.partition(" #")[0]))
        return any(meant_secret(re.sub("[\"']", "", name)) for name in names)

    @cached_property
    def has_options(self) -> bool:
        """Whether names below it are options', as they are not in text and in what is `keys`."""
        return _OPTIONS.search(self.line) is not None


def _depth(line: str) -> int:
    """Where a line without a name begins; a stray mark before it does not count."""
    marks = _ITEM.match(line) or _MARKS.match(line)
    return marks.end() if marks else 0


_ITEM = re.compile(r"\s*(?=-\s\S)")
_MARKS = re.compile(r"[\W_]*")
_NAMED = re.compile(r"(?P<dashes>\s*(?:-\s+)*)[\"']?(?P<name>[\w.-]{1,40})[\"']?\s*:(?:\s+|$)")
_NAMES = re.compile(r"^\s*([\w.\"'-]{1,64})|([\w.\"'-]{1,64})\s*:")
_OPTIONS = re.compile(r"[^s\"'\s][\"']?\s*:\s*(?:#.*)?$")
