"""A JSON Web Token as it comes: three parts, read strictly, and nothing in them believed yet.

PyJWT reads JSON as Python does: the last of two members counts, NaN is a number. So the parts are
read here, and PyJWT is asked for what it is good at: whether a signature is that of a key.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from headrace import HeadraceError

LONGEST = 8 * 1024
"""Characters of a token; nothing of a longer one is looked at."""

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_DEEPEST = 32
_LONGEST_ID = 256
_TYPES = {"jwt", "at+jwt", "jose"}
# Whoever asks for these wants the rest read in another way (RFC 7515, 4.1.11; RFC 7797; RFC 7516).
# Keys that a token brings along (jwk, jku, x5c, x5u) are never looked at.
_NOT_DONE_HERE = ("crit", "b64", "zip")


class Refused(HeadraceError):
    """A token that lets nobody in. Says why, for the log alone, and never what was in it."""


@dataclass(frozen=True)
class Token:
    """A token whose signature nobody has looked at."""

    algorithm: str
    key_id: str | None
    signed: bytes
    signature: bytes
    payload: str

    @classmethod
    def read(cls, text: str) -> Token:
        """The parts of a token. Raises `Refused` for what is not of this form (RFC 7515, 7.1)."""
        parts = _COMPACT.fullmatch(text)
        if parts is None:
            raise Refused("it is not three parts of base64url with dots between")
        head, payload, signature = parts.groups()
        header = _object(head, "header")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str):
            raise Refused("its alg is not text")
        if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= _LONGEST_ID):
            raise Refused(f"its kid is not text of at most {_LONGEST_ID} characters")
        if asked := [name for name in _NOT_DONE_HERE if name in header]:
            raise Refused(f"it asks for {asked[0]}, which is not done here")
        if _type(header.get("typ", "JWT")) not in _TYPES:
            raise Refused("its typ is not JWT, at+jwt or JOSE")
        signed = text.rpartition(".")[0].encode()
        return cls(algorithm, key_id, signed, _decoded(signature, "signature"), payload)

    def claims(self) -> dict[str, Any]:
        """What it says, read strictly; to be believed once the signature holds, and not before."""
        return _object(self.payload, "payload")


def _type(typ: object) -> str:
    return typ.lower().removeprefix("application/") if isinstance(typ, str) else ""


def _decoded(part: str, what: str) -> bytes:
    """The bytes of a part, which have no other spelling than this one (RFC 4648, 3.5)."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        data = b""
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise Refused(f"its {what} is not base64url")
    return data


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        value = _decoder.decode(_decoded(part, what).decode())
        _check(value)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise Refused(f"its {what} is not usable JSON: {reason}") from None
    if not isinstance(value, dict):
        raise Refused(f"its {what} is not a JSON object")
    return value


def _check(value: Any) -> None:
    """Raise `ValueError` for half a character, and where values nest too deep."""
    json.dumps(value, ensure_ascii=False).encode()
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return
    raise RecursionError


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, dict | list)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
