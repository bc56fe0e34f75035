"""What is wrong with a configuration, where it stands, and how that is shown.

A problem prints as the compilers taught us: `file:line:column: what to do`, then the line with a
caret below. A printed line shows no secret, whatever the file says, nor does a message.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

COLUMNS = 100
"""How wide a source line may be printed; a longer one is cut around the caret."""


@dataclass(frozen=True)
class Place:
    """A stretch of one line of a file; line and column count characters from 1."""

    file: str
    line: int
    column: int
    width: int = 1
    source: str = ""
    clear: str = ""
    """What stands there, if it is no secret whatever it looks like."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """Something that has to be changed before the configuration can be served."""

    place: Place | None
    message: str

    def __str__(self) -> str:
        message = _without_secrets(self.message)
        if self.place is None:
            return _visible(message)
        return "\n".join([_visible(f"{self.place}: {message}"), *_snippet(self.place)])

    def github(self) -> str:
        """The problem as a workflow command, which GitHub shows at the line of a pull request.

        docs.github.com/actions/reference/workflow-commands-for-github-actions; the escapes are
        those of actions/toolkit, packages/core/src/command.ts.
        """
        message = _escaped(_without_secrets(self.message))
        if self.place is None:
            return f"::error::{message}"
        file = _escaped(self.place.file).replace(":", "%3A").replace(",", "%2C")
        return f"::error file={file},line={self.place.line},col={self.place.column}::{message}"


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: the candidate most like it, if one is."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = get_close_matches(word[:100].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def looks_secret(key: str) -> bool:
    """Whether the value of an option of this name is better not shown."""
    return _SECRET.search(key) is not None


@lru_cache(maxsize=1024)
def meant_secret(key: str) -> bool:
    """Whether an option of this name is a secret, or may be a misspelt one."""
    if looks_secret(key):
        return True
    name = key[:100].lower()
    words = {name, re.split("[-_]", name)[-1]} - _NO_SECRETS
    return any(get_close_matches(word, _SECRETS, n=1) for word in words)


def is_option(name: str) -> bool:
    """Whether a name below a secret's is surely an option's, and no part of the secret."""
    return _OPTION.fullmatch(name) is not None


def mask(line: str, secret: Callable[[str], bool] = looks_secret) -> str:
    """A line of YAML with `*` for each character of what looks like a secret.

    It reads the line alone, for lines that no parser understands; what it cannot tell it hides.
    """
    done: list[str] = []
    at = depth = 0
    below: int | None = None
    """How deep the mapping is that stands where a secret should."""
    for colon in re.finditer(":", line):
        if colon.start() < at:
            continue
        key = _KEY.search(line[max(at, colon.start() - 64) : colon.start()])
        name = _QUOTE.sub("", key[0]) if key else ""
        head = line[at : colon.end()]
        depth += _opened(head)
        if below is not None and depth <= below:
            below = None
        if below is not None and not is_option(name):
            head = _FLOW_KEY.sub(lambda match: cover(match[0]), head)
        done.append(head)
        at = colon.end()
        if secret(name) or below is not None:
            value = (_FLOW_VALUE if depth > 0 else _BLOCK_VALUE).match(line, at)
            if value is None and name.endswith("s"):
                value = _MAPPING.match(line, at)
            if value is None and below is None:
                below = depth
            if value:
                text = value[2].rstrip()
                done.append(value[1] + cover(text))
                at = value.start(2) + len(text)
    line = "".join(done) + line[at:]
    for bare in _BARE:
        line = bare.sub(lambda match: match[1] + cover(match[2]), line)
    return line


def guarded(line: str) -> str:
    """The same for a line that may be broken: its names may be misspelt, and colons missing."""
    line = mask(line, meant_secret)
    for bare in _WITHOUT_COLON.finditer(line):
        if meant_secret(bare[1]):
            return line[: bare.end()] + cover(line[bare.end() :])
    return line


def cover(text: str) -> str:
    """`*` for each character, but for the blanks before it, line ends and what a `${…}` names.

    Quotes are shown around what begins and ends with a `${…}`.
    """
    if quoted := _QUOTED_REFERENCE.fullmatch(text):
        return f"{quoted[1]}{cover(quoted[2])}{quoted[1]}"

    def covered(part: re.Match[str]) -> str:
        kept, reference, default, end = part.groups()
        if reference:
            return f"{reference}{_CHARACTER.sub('*', default)}{end}"
        return kept or "*"

    return _PARTS.sub(covered, text)


_SECRET = re.compile(
    r"secret|passw(or)?d|passphrase|pwd|authorization|credential|bearer|cookie|signature|dsn"
    r"|(api|access|auth|private)[-_]?key|keys?[-_]?\d*$|token[-_]?\d*$",
    re.IGNORECASE,
)
_SECRETS = ("key", "keys", "api_key", "token", "secret", "password", "passphrase", "credentials")
_NO_SECRETS = frozenset(("tokens", "open", "redis", "seed", "server", "set", "store"))
"""Names that are not misspelt, although they are like some that are secrets'."""
_OPTION = re.compile("[a-z_]{1,24}")
_KEY = re.compile(r"[\w.\"'-]+(?=\s*$)")
_QUOTE = re.compile("[\"']")
_FLOW_KEY = re.compile(r"[^{},\s][^{},]*(?=:$)")
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^']|'')*'?|\[[^\]]*\]?"
_MORE = r"(?:[,\]](?=[^:{},\]]*(?:[,\]}]|$))[^,\]}]*)*"  # of a list that has lost a bracket
_FLOW_VALUE = re.compile(
    rf"(\s*)((?:(?:{_QUOTED})(?=\s*(?:[,\]}}]|$|#))|[^\s{{,\]}}#](?:(?!\s#)[^,\]}}])*){_MORE})"
)
_BLOCK_VALUE = re.compile(rf"(\s*)((?:{_QUOTED})(?=\s*(?:$|#))|[^\s{{#](?:(?!\s#).)*)")
_MAPPING = re.compile(r"(\s*)(\{[^}]*\}?)")
_WITHOUT_COLON = re.compile(r"(?:^(?:\s*-)*|[{,])\s*[\"']?(\w[\w.-]{0,63})[\"']?\s+(?=[^\s:#,\]}])")
_SAID = re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)|(?<!\w)\"(?:[^\"\\]|\\.)*\"(?!\w)")
_BARE = (
    re.compile(r"(//[^\s\"'/@:]{0,256}:)([^\s\"']{1,256})(?=@)"),  # redis://user:password@host
    re.compile(r"(//)([^\s\"'/@:]{1,256})(?=@)"),  # https://token@host
    re.compile(r"(?i)([?&][\w-]{0,40}(?:key|token|secret|sig|password)=)([^&\s\"']+)"),
    re.compile(r"(?i)(\b(?:bearer|basic)\s)([^\s\"',}\]]+)"),
    re.compile(r"()(\bsk-[\w-]{8,})"),
)
_PARTS = re.compile(
    r"(\$\{(?:[A-Za-z_]\w*|file:[^}]*)(?:\}|\Z)|[\r\n]+ *|\A +)"
    r"|(\$\{[A-Za-z_]\w*:[-+])([^}]*)(\}?)|.",
    re.DOTALL,
)
_QUOTED_REFERENCE = re.compile(r"([\"'])(\$\{.*\})\1", re.DOTALL)
_CHARACTER = re.compile(r"[^\r\n]")


def _without_secrets(message: str) -> str:
    """A message whose quotations of the file show none."""
    return _SAID.sub(lambda said: said[0][0] + guarded(said[0][1:-1]) + said[0][-1], message)


def _opened(text: str) -> int:
    """How many more flow collections `text` opens than it closes."""
    return text.count("{") + text.count("[") - text.count("}") - text.count("]")


def _snippet(place: Place) -> list[str]:
    """The line of `place` with its number, and the caret below; nothing for an empty line."""
    if not place.source.strip():
        return []
    first = max(0, place.column - 1 - COLUMNS)
    caret = place.column - 1 - first
    shown = _with(guarded(place.source), place.column - 1, place.clear)
    cells = [_visible(char) for char in shown[first : place.column + COLUMNS]]
    widths = [_columns(cell) for cell in cells]
    left, right = _window(widths, caret)
    before = "…" if first + left > 0 else ""
    after = "…" if first + right < len(place.source) else ""
    indent = len(before) + sum(widths[left:caret])
    carets = max(1, sum(widths[caret : min(right, caret + place.width)]))
    number = str(place.line)
    return [
        f"  {number} | {before}{''.join(cells[left:right])}{after}",
        f"  {' ' * len(number)} | {' ' * indent}{'^' * carets}",
    ]


def _with(line: str, at: int, text: str) -> str:
    """A line in which `text` stands in place of what is there."""
    return line[:at] + text + line[at + len(text) :]


def _window(widths: list[int], caret: int) -> tuple[int, int]:
    """Which cells around the caret fit: two fifths before it, the rest after it."""
    room = COLUMNS - len("……")
    left = right = min(caret, len(widths))
    while left > 0 and sum(widths[left - 1 : right]) <= room * 2 // 5:
        left -= 1
    while right < len(widths) and sum(widths[left : right + 1]) <= room:
        right += 1
    while left > 0 and sum(widths[left - 1 : right]) <= room:
        left -= 1
    return left, right


def _visible(text: str) -> str:
    """`text` as any terminal shows it: no control characters, nothing that turns the direction."""
    return "".join(
        char if char.isprintable() else "    " if char == "\t" else _code(char) for char in text
    )


def _code(char: str) -> str:
    """A character as its escape: `\\x1b`, `\\u202e`."""
    return char.encode("unicode_escape").decode()


def _columns(text: str) -> int:
    """How many columns a terminal gives to `text` (Unicode's UAX 11)."""
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me")
        else 2 if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in text
    )  # fmt: skip


def _escaped(text: str) -> str:
    """`text` as GitHub wants the text of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
