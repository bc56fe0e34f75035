"""What distinguishes one set of parts from another: the same text in every replica."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from headrace.config.fields import options_of


def fingerprint(parts: Iterable[object], *more: Any) -> str:
    """A short text that is another one where a part, one of its options, or `more` is.

    Secrets are left out of it: a new key for an upstream makes no new upstream. So are plugins that
    say of themselves that no answer depends on them.
    """
    counting = [_described(part) for part in parts if not vars(type(part)).get("keeps_answers")]
    told = orjson.dumps([counting, _plain(more)])
    return hashlib.sha256(told).hexdigest()[:16]


def _described(part: object) -> Any:
    kind = type(part)
    options = {name: _plain(getattr(part, name)) for name in options_of(kind)}
    return [f"{kind.__module__}:{kind.__qualname__}", sorted(options.items())]


def _plain(value: Any) -> Any:
    """A value as JSON has it; an object by its class and options, a secret as `***`."""
    match value:
        case Mapping():
            return sorted((str(key), _plain(inner)) for key, inner in value.items())
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case None | bool() | int() | float() | str() if type(value).__module__ == "builtins":
            return value
        case _:
            return _described(value) if options_of(type(value)) else str(value)
