"""From values to objects: a dataclass's fields are its options, and are checked one by one."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from headrace import registry
from headrace.config.document import Document, Path
from headrace.config.problems import Problem, did_you_mean, looks_secret
from headrace.registry import Group
from headrace.store import Store
from headrace.transport import Transport

Part = TypeVar("Part")

_GIVEN = (Store, Transport)
_OBJECT = {"plugins": "plugin", "forwarders": "forwarder", "observers": "observer"}


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


@cache
def options_of(part: type[Any]) -> Mapping[str, Option]:
    """What can be written for a part: its dataclass fields, but for what the server gives."""
    if not is_dataclass(part):
        return {}
    kinds = typing.get_type_hints(part, include_extras=True)
    docs = _field_docs(part)
    return {
        field.name: Option(field.name, kinds[field.name], docs.get(field.name, ""), _default(field))
        for field in fields(part)
        if field.init and kinds[field.name] not in _GIVEN
    }


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
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
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


class Parts:
    """Makes objects from what a document says, and collects what is wrong with it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = list(document.problems)
        self._lenient = False

    @contextmanager
    def lenient(self, lenient: bool) -> Iterator[None]:
        """Within this, what `${…}` gave is not judged: right for what is switched off."""
        self._lenient = lenient
        try:
            yield
        finally:
            self._lenient = False

    def problem(self, path: Path, message: str, *, key: bool = False) -> None:
        """Note a problem with the value at `path`, or with its key."""
        place = self.document.key_place(path) if key else self.document.place(path)
        self.problems.append(Problem(place, message))

    def named(self, path: Path, value: Any, what: str) -> tuple[str, Path, Any] | None:
        """A name, or a name with options: the name, where its options stand, the options."""
        if isinstance(value, str):
            return value, path, {}
        if isinstance(value, dict) and len(value) == 1:
            ((name, options),) = value.items()
            return str(name), (*path, name), {} if options is None else options
        self.problem(
            path, f"expected {what}: its name, or its name with options, found {_kind(value)}"
        )
        return None

    def make(self, group: Group, path: Path, value: Any) -> Any:
        """The object that a name with options stands for; None after a problem."""
        found = self.named(path, value, f"a {_OBJECT.get(group, group)}")
        if found is None:
            return None
        name, where, options = found
        try:
            part = registry.named(group, name)
        except registry.Unknown as error:
            self.problem(path, f"{error}{did_you_mean(name, error.known)}")
            return None
        except ImportError as error:
            self.problem(path, f"{name} needs more to be installed: {error}")
            return None
        return self.fill(part, where, options, name)

    def fill(self, part: type[Part], path: Path, value: Any, what: str) -> Part | None:
        """An object of class `part` with the options that stand at `path`; None after a problem."""
        if not isinstance(value, dict):
            self.problem(path, f"{what} takes options as 'name: value', found {_kind(value)}")
            return None
        known = options_of(part)
        before = len(self.problems)
        values: dict[str, Any] = {}
        unset = False
        for name, given in value.items():
            where = (*path, name)
            if name not in known:
                hint = did_you_mean(str(name), known)
                self.problem(where, f"{what} has no option {name!r}{hint}", key=True)
            elif any(missing[: len(where)] == where for missing in self.document.unset):
                unset = True
            else:
                values[name] = self.check(known[name].kind, where, given, f"{what}: {name}")
        for option in known.values():
            if option.required and option.name not in value:
                self.problem(path, f"{what} needs the option {option.name!r}: {option.doc}")
        if unset or len(self.problems) > before:
            return None
        try:
            return part(**values)
        except (ValueError, TypeError) as error:
            if not self._lenient:
                self.problem(path, f"{what}: {error}")
            return None

    def check(self, kind: Any, path: Path, value: Any, what: str) -> Any:
        """`value` as `kind`; notes every problem with it where it stands."""
        try:
            return _adapter(kind).validate_python(value)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                where = self._where(path, fault["loc"])
                if not (self._lenient and where in self.document.expanded):
                    self.problem(where, f"{what} {self._said(where, fault)}")
            return None

    def _where(self, path: Path, below: Sequence[int | str]) -> Path:
        """The place a fault is at; names of union members in its location lead nowhere."""
        value: Any = self.document.value
        for key in path:
            value = value[key]
        for key in below:
            if isinstance(value, dict) and key in value or isinstance(value, list):
                path, value = (*path, key), value[key]  # type: ignore[call-overload]
        return path

    def _said(self, path: Path, fault: Mapping[str, Any]) -> str:
        message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        message = message[:1].lower() + message[1:]
        shown = isinstance(fault["input"], str | int | float) and path not in self.document.expanded
        named_secret = any(looks_secret(str(key)) for key in path)
        secret = named_secret or "secret" in message.lower() or fault["type"] == "value_error"
        return f"{message}, found {fault['input']!r}" if shown and not secret else message


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return f"a mapping of {len(value)}" if value else "an empty mapping"
        case list():
            return "a list"
        case str():
            return repr(value)
        case _:
            return repr(value)


@cache
def _adapter_of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return _adapter_of(kind)
    except TypeError:  # a type that cannot be hashed
        return TypeAdapter(kind)


def words(names: Iterable[str]) -> str:
    """Names as a sentence lists them."""
    return ", ".join(repr(name) for name in names)
