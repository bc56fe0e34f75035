"""What can be written for a part: the fields of its dataclass, with the sentence below each."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter


@dataclass(frozen=True)
class Option:
    """A field of a part: its name, its type, what it is for, and its value if none is written."""

    name: str
    kind: Any
    doc: str
    default: Any

    @property
    def required(self) -> bool:
        """Whether it must be written."""
        return self.default is MISSING


def options_of(part: type[object]) -> Mapping[str, Option]:
    """What can be written for a part: its dataclass fields, but for what the server gives.

    That is of a class with `of_server`, such as the store.
    """
    return _options_of(cast(Hashable, part))


@cache
def _options_of(part: type[Any]) -> Mapping[str, Option]:
    if not is_dataclass(part):
        return {}
    kinds = typing.get_type_hints(part, include_extras=True)
    docs = _field_docs(part)
    return {
        field.name: Option(field.name, kinds[field.name], docs.get(field.name, ""), _default(field))
        for field in fields(part)
        if field.init and not hasattr(kinds[field.name], "of_server")
    }


def part_in(kind: Any) -> type[Any] | None:
    """The class whose fields are options, if that is what a type takes; None may do as well.

    One with a notation of its own is none.
    """
    inner = [each for each in typing.get_args(kind) if each is not type(None)]
    part = inner[0] if isinstance(kind, types.UnionType) and len(inner) == 1 else kind
    own = hasattr(part, "__get_pydantic_core_schema__")
    return part if isinstance(part, type) and is_dataclass(part) and not own else None


def names_inside(kind: Any) -> Iterator[str]:
    """The options of every part that stands somewhere in a type."""
    if isinstance(kind, type) and is_dataclass(kind):
        yield from options_of(kind)
    for inner in typing.get_args(kind):
        yield from names_inside(inner)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks values of a type; inside of it too, an option that is not known is refused.

    Made once for each type: each reload asks for the same ones, and they are most of its work.
    """
    try:
        return _adapter(cast(Hashable, kind))
    except TypeError:  # not every type can be hashed
        return _adapter.__wrapped__(kind)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    config = None if is_dataclass(kind) else ConfigDict(extra="forbid")
    return TypeAdapter(kind, config=config)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _field_docs(part: type[Any]) -> dict[str, str]:
    """The sentences below a class's fields, own and inherited."""
    docs: dict[str, str] = {}
    for kind in reversed(part.__mro__):
        if not is_dataclass(kind):
            continue
        try:
            source = inspect.getsource(kind)
        except OSError:  # installed without its source, so without its sentences
            continue
        body = ast.parse(textwrap.dedent(source)).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                docs[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return docs
