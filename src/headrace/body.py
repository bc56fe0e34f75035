"""JSON bodies of requests: read strictly, changed without touching what stays.

Reading refuses what two parsers may understand differently (RFC 8259, section 4 and 9): a member
that stands twice, NaN, numbers without end, depth without end. Integers keep all their digits.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.errors import BadRequest

MAX_DEPTH = 64
MOST_CONTAINERS = 100_000
"""Lists and objects of one body: reading that many takes about a tenth of a second."""
MOST_MEMBERS = 300_000
"""Members of all objects of one body: as many take as long."""
MOST_VALUES = 2_000_000
"""Values of one body, such as the numbers of a list of tokens."""

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_PIECE = 4096
"""Texts that are passed over at a time."""
_SPACE = re.compile(r"[ \t\n\r]*")
_SHOWN = 64
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"member {twice[:_SHOWN]!r} stands twice")
    return members


def _finite(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _plain(error: ValueError) -> str:
    """What is wrong, without the interpreter's own advice on long integers."""
    return "an integer of over 4,300 digits" if "set_int_max" in str(error) else str(error)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_finite)
_scanner = json.JSONDecoder()  # for what was read before


def read(body: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises `BadRequest`, saying what is wrong and where."""
    try:
        text = body.decode()
        if crowded(text):
            raise ValueError(
                f"more than {MOST_CONTAINERS:,} lists and objects, or too many members or values"
            )
        value, end = _decoder.raw_decode(text, _space(text, 0))
        if (end := _space(text, end)) != len(text):
            raise ValueError(f"more text after the JSON value, at character {end}")
        _check_depth(text, value)
        _check_surrogates(text, value)
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is {body[error.start]:#04x}"
        raise BadRequest(f"the body is not UTF-8: {found}", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        why = _TOO_DEEP if isinstance(error, RecursionError) else _plain(error)
        raise BadRequest(f"the body is not usable JSON: {why}", code="invalid_json") from None
    return value


def edit(body: bytes, members: Mapping[str, Any]) -> bytes:
    """The JSON object `body` with these top-level members set; all others as they came.

    A member that is there is replaced where it stands, a new one goes to the end, one whose value
    is `REMOVED` goes away with its comma.
    """
    text = body.decode()
    spans, closing = _members(text)
    pieces: list[str] = []
    opening = end = next((start for start, _, _ in spans.values()), closing)
    for name, (start, value_start, value_end) in spans.items():
        value = members.get(name, _KEPT)
        if value is not REMOVED:
            kept = text[start:value_end] if value is _KEPT else text[start:value_start]
            between = text[end:start] if pieces else ""
            pieces.append(between + kept + ("" if value is _KEPT else _dump(value)))
        end = value_end
    after = text[end:closing]
    for name, value in members.items():
        if name not in spans and value is not REMOVED:
            pieces.append(f"{after}{',' if pieces else ''}{_dump(name)}:{_dump(value)}")
            after = ""
    return "".join([text[:opening], *pieces, after, text[closing:]]).encode()


class _Removed:
    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Any = _Removed()
"""Stands for a member that is to go away."""

_KEPT: Any = object()


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise BadRequest(
            "the body holds a number beyond what JSON can carry", code="invalid_json"
        ) from None


def _members(text: str) -> tuple[dict[str, tuple[int, int, int]], int]:
    """Each member's name, the start of its name, start and end of its value; where `}` stands."""
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    spans: dict[str, tuple[int, int, int]] = {}
    at = _space(text, at + 1)
    while text[at] != "}":
        start = at
        name, at = _scanner.raw_decode(text, at)
        at = _space(text, _space(text, at) + 1)  # past the colon
        value_start = at
        _, at = _scanner.raw_decode(text, at)
        spans[name] = (start, value_start, at)
        at = _space(text, at)
        if text[at] == ",":
            at = _space(text, at + 1)
    return spans, at


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def crowded(text: str, *, values: float = MOST_VALUES) -> bool:
    """Whether a JSON text holds more lists, objects or values than are read while others wait."""
    if not _over(_count(text), values):
        return False
    total = Counter[str]()
    for piece in _outside_texts(text):  # what stands in texts is no list and no object
        total += _count(piece)
        if _over(total, values):
            return True
    return False


def _outside_texts(text: str) -> Iterator[str]:
    """A JSON text without its texts, piece by piece, so that one can stop early."""
    at, piece = 0, list[str]()
    for string in _STRING.finditer(text):
        piece.append(text[at : string.start()])
        at = string.end()
        if len(piece) == _PIECE:
            yield "".join(piece)
            piece.clear()
    yield "".join(piece) + text[at:]


def _count(text: str) -> Counter[str]:
    return Counter({mark: text.count(mark) for mark in "[{:,"})


def _over(counts: Counter[str], values: float) -> bool:
    containers = counts["["] + counts["{"]
    too_many = containers > MOST_CONTAINERS or counts[":"] > MOST_MEMBERS
    return too_many or containers + counts[","] > values


def _check_depth(text: str, value: Any) -> None:
    """Raise `ValueError` where containers nest too deep; level by level, without recursion."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return
    raise ValueError(_TOO_DEEP)


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, dict | list)]


def _check_surrogates(text: str, value: Any) -> None:
    """Raise `ValueError` for half a character (RFC 8259, 8.2), which no UTF-8 can carry on."""
    if "\\ud" in text or "\\uD" in text:
        try:
            _dump(value).encode()
        except UnicodeEncodeError:
            raise ValueError("a \\ud… escape stands without its other half") from None
