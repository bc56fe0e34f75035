"""What a word is in YAML 1.2's core schema (yaml.org/spec/1.2.2, 10.3).

`no`, `on`, `12:30` and `1_000` are text here, which they are not in YAML 1.1; `010` is ten.
"""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

TAGS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}
"""What may stand behind `!!`."""


def resolved(text: str) -> Scalar:
    """What `text` is where it stands without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 300:  # Python and most others give up on longer numbers
        return text
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def tagged(text: str, tag: str) -> Scalar:
    """What `text` is behind a tag; ValueError where it cannot be that."""
    value = text if tag == "str" else resolved(text)
    if tag == "float" and type(value) is int:
        return float(value)
    if type(value) is not TAGS[tag]:
        raise ValueError(f"this is not what its tag `!!{tag}` says")
    return value


def kind(value: Scalar) -> str:
    """What to call a scalar in a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
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
