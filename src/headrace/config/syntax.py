"""PyYAML's errors in words for people."""

from __future__ import annotations

import yaml
from yaml.reader import ReaderError

from headrace.config.source import Refused, Source


def explained(error: yaml.YAMLError, source: Source) -> Refused:
    """What a syntax error means, and where to look; no text of the file is repeated."""
    if isinstance(error, ReaderError):
        at = int(error.position)
        return Refused(at, f"YAML does not allow the character U+{ord(source.text[at]):04X}")
    assert isinstance(error, yaml.MarkedYAMLError)  # the parser raises no other
    found = error.problem_mark.index if error.problem_mark else 0
    began = error.context_mark.index if error.context_mark else found
    said = f"{error.context}: {error.problem}"
    ends = found >= len(source.text.rstrip())
    if "flow sequence" in said or "flow mapping" in said or (ends and "flow node" in said):
        return _unclosed(source, began, found)
    for words, look, message in _MEANINGS:
        if words in said:
            at = began if look == "began" else found
            return Refused(at, message.format(char=source.text[at : at + 1]))
    return Refused(found, "YAML cannot be read here")


def _unclosed(source: Source, began: int, found: int) -> Refused:
    """The same for a `[` or `{` that goes on where it should not."""
    opening = source.text[began : began + 1]
    closing = "]" if opening == "[" else "}"
    if source.text[found - 1 : found + 1] == "${":
        return Refused(found - 1, "inside […] and {…}, put `${…}` in quotes")
    if found >= len(source.text.rstrip()):
        return Refused(began, f"this `{opening}` is never closed")
    where = source.place(began, began)
    message = f"a `,` or `{closing}` is missing before this; the `{opening}` is at {where}"
    return Refused(found, message)


_MEANINGS = (
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
