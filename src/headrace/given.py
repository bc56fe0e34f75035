"""What a gateway gives to its parts while they are made: its store, its transport, its callers.

A part takes one by a field with the class's `of_server` as its default; such a field is no option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

Kind = TypeVar("Kind")

_given: ContextVar[Mapping[Callable[..., Any], object]] = ContextVar("given")


@contextmanager
def giving(things: Mapping[Callable[..., Any], object]) -> Iterator[None]:
    """Within this, parts that are made get these, each by the class they ask for."""
    token = _given.set({**_given.get({}), **things})
    try:
        yield
    finally:
        _given.reset(token)


def given(kind: Callable[..., Kind]) -> Kind | None:
    """What the gateway that is being built gives of this class; None outside of one."""
    return cast("Kind | None", _given.get({}).get(kind))
