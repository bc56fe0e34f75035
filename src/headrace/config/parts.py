"""From values to objects: a dataclass's fields are its options, and are checked one by one.

What came from `${…}` is in no message; what could not be had is not judged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from headrace import registry
from headrace.chain import Plugins
from headrace.config.document import Document, Path
from headrace.config.fields import adapter, names_inside, options_of, part_in
from headrace.config.handover import Handover
from headrace.config.problems import Problem, did_you_mean, looks_secret
from headrace.errors import scrubbed
from headrace.options import File
from headrace.registry import Group

__all__ = ["Named", "Parts", "options_of", "words"]

Part = TypeVar("Part")

_NONE = object()
"""What `check` returns where there is no value."""


class Named(NamedTuple):
    """A name with options: `fallback`, or `retry: {attempts: 2}`."""

    name: str
    where: Path
    """Where its options stand."""
    options: Any


class Parts:
    """Makes objects from what a document says, and collects what is wrong with it."""

    def __init__(self, document: Document, handover: Handover | None = None) -> None:
        self.document = document
        self.handover = handover or Handover()
        self.problems: list[Problem] = list(document.problems)
        self._unsure: tuple[Set[Path], ...] = (document.unset,)
        self._clear: set[Path] = set()
        """Values that name files, so that they can be shown."""
        self.chain: Callable[[Path, Any], Plugins] = self._plugins
        """Makes what an option that takes plugins holds; `Chains` knows the names of chains."""

    @contextmanager
    def lenient(self, lenient: bool) -> Iterator[None]:
        """Within this, what `${…}` gave is not judged: right for what is switched off."""
        before = self._unsure
        self._unsure = (*before, self.document.expanded) if lenient else before
        try:
            yield
        finally:
            self._unsure = before

    def sure(self, path: Path) -> bool:
        """Whether what stands at `path`, and all that is in it, can be judged."""
        return not any(place[: len(path)] == path for some in self._unsure for place in some)

    def problem(self, path: Path, message: str, *, key: bool = False) -> None:
        """Note a problem with the value at `path`, or with its key."""
        if key:
            place = self.document.key_place(path)
        else:
            place = self.document.place(path, clear=path in self._clear)
        self.problems.append(Problem(place, message))

    def quoted(self, path: Path, text: str) -> str:
        """What stands at `path` as a message may show it."""
        return "'***'" if path in self.document.expanded else repr(text)

    def secrets(self, path: Path) -> Iterator[str]:
        """What `${…}` gave at or below `path` where only secrets stand: in keys, and in headers."""
        for place in self.document.expanded:
            inside = place[: len(path)] == path and place not in self.document.unset
            names = [str(key) for key in place]
            if inside and (any(map(looks_secret, names)) or names[-2:-1] == ["headers"]):
                yield str(self._at(place))

    def named(self, path: Path, value: Any, what: str, *, alone: bool = False) -> Named | None:
        """A name, or a name with options; None after a problem.

        `alone` says that no list can stand there instead.
        """
        if isinstance(value, dict) and len(value) == 1:
            ((name, options),) = value.items()
            return Named(name, (*path, name), {} if options is None else options)
        if not self.sure(path):
            return None
        if isinstance(value, str):
            return Named(value, path, {})
        found = _kind(value)
        if isinstance(value, dict) and value:
            found = "several" if alone else "several; write a list, a dash before each"
        self.problem(path, f"expected {what}: its name, or its name with options, found {found}")
        return None

    def make(self, group: Group, path: Path, value: Any) -> Any:
        """The object that a name with options stands for; None after a problem."""
        what = group.removesuffix("s")
        one = f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
        found = self.named(path, value, one, alone=group != "observers")
        return found and self.made(group, path, found)

    def made(self, group: Group, path: Path, found: Named, *, others: Iterable[str] = ()) -> Any:
        """The same for a name that was read; `others` are names that could stand there too."""
        shown = self.quoted(path, found.name)
        kind = self.kind(group, path, found.name, shown, others=others)
        part = kind and self.fill(kind, found.where, found.options, found.name)
        return part and self.handover.same(path, part)

    def kind(
        self, group: Group, path: Path, name: str, shown: str, *, others: Iterable[str] = ()
    ) -> type[Any] | None:
        """The class of that name, in messages as it is `shown`; None after a problem."""
        what = group.removesuffix("s")
        try:
            return registry.named(group, name)
        except registry.Unknown as error:
            known = [*error.known, *others]
            hint = did_you_mean(name, known) or _known_here(known)
            self.problem(path, f"no {what}{' or chain' if others else ''} is called {shown}{hint}")
        except Exception as error:  # noqa: BLE001 - importing it runs a stranger's code
            self.problem(
                path,
                f"the {what} {shown} cannot be loaded: {_raised(error)}; "
                "install what it needs, most often an extra of its package",
            )
        return None

    def fill(self, part: type[Part], path: Path, value: Any, what: str) -> Part | None:
        """An object of class `part` with the options that stand at `path`; None after a problem."""
        if any(path in some for some in self._unsure):
            return None
        shorthand: str | None = getattr(part, "shorthand", None)
        bare = shorthand is not None and not isinstance(value, dict | None)
        if bare:
            value = {shorthand: value}
        if not isinstance(value, dict | None):
            self.problem(path, f"{what} takes options as 'name: value', found {_kind(value)}")
            return None
        known = options_of(part)
        before = len(self.problems)
        values: dict[str, Any] = {}
        meant = ""
        for name, given in (value or {}).items():
            where = path if bare else (*path, name)
            if name not in known:
                hint = did_you_mean(name, known)
                meant += hint
                hint = hint or _there_are(known)
                self.problem(where, f"{what} has no option {name!r}{hint}", key=True)
                continue
            checked = self.check(known[name].kind, where, given, f"{what}: {name}")
            if checked is not _NONE:
                values[name] = checked
        for option in known.values():
            absent = option.name not in (value or {}) and repr(option.name) not in meant
            if option.required and absent:
                self.problem(path, f"{what} needs the option {option.name!r}: {option.doc}")
        if len(self.problems) > before:
            return None
        try:
            return part(**values)
        except (ValueError, TypeError) as error:
            if self.sure(path):
                self.problem(path, f"{what}: {self._without_expanded(path, str(error))}")
            return None

    def check(self, kind: Any, path: Path, value: Any, what: str) -> Any:
        """`value` as `kind`; notes every problem with it where it stands."""
        if kind == Plugins:
            return self.chain(path, value)
        if part := part_in(kind):
            if value is None and part is not kind:
                return None
            filled = self.fill(part, path, value, what)
            return _NONE if filled is None else filled
        try:
            place = partial(self._begun, path)
            return adapter(kind).validate_python(value, context=place)
        except ValidationError as error:
            self._refuse(kind, path, what, error.errors(include_url=False))
            return _NONE

    def _begun(self, path: Path, file: File) -> File:
        """A file that is named at `path`, from where the process runs."""
        begun = file.within(self.document.folder(path))
        if path not in self.document.expanded:
            self._clear.add(path)
        if self.document.unset_ok and not os.path.exists(begun):
            self.document.unset.add(path)
        return begun

    def _plugins(self, path: Path, value: Any) -> Plugins:
        items = enumerate(value if isinstance(value, list) else [value])
        made = [self.make("plugins", (*path, index), item) for index, item in items]
        return tuple(plugin for plugin in made if plugin is not None)

    def _refuse(
        self, kind: Any, path: Path, what: str, faults: Sequence[Mapping[str, Any]]
    ) -> None:
        """A problem for each place of a value that does not fit."""
        by_place: dict[Path, list[Mapping[str, Any]]] = {}
        for fault in faults:
            by_place.setdefault(self._place(path, fault["loc"]), []).append(fault)
        for where, some in by_place.items():
            # Faults of the whole, beside one inside it, are other members of a union.
            deeper = any(other[: len(where)] == where != other for other in by_place)
            if self.sure(where) and not deeper:
                extra = some[0]["type"] == _EXTRA
                hint = did_you_mean(str(where[-1]), names_inside(kind)) if extra else ""
                key = extra or some[0]["loc"][-1:] == ("[key]",)
                self.problem(where, f"{what} {self._said(where, some)}{hint}", key=key)

    def _at(self, path: Path) -> Any:
        value: Any = self.document.value
        for key in path:
            value = _below(value, key)
        return value

    def _place(self, path: Path, below: Sequence[int | str]) -> Path:
        """The place a fault is at; names of union members in its location lead nowhere."""
        value = self._at(path)
        for key in below:
            inner = _below(value, key)
            if inner is not _NONE:
                path, value = (*path, key), inner
        return path

    def _said(self, path: Path, faults: Sequence[Mapping[str, Any]]) -> str:
        """What is wrong in one place; several faults are the members of a union."""
        first = faults[0]
        found = "" if self._hides(path) else f", found {_shown(first['input'])}"
        if absent := [fault["loc"][-1] for fault in faults if fault["type"] == "missing"]:
            return f"needs the option {absent[0]!r}"
        if not isinstance(first["input"], dict | list):
            own = [fault["msg"] for fault in faults if fault["type"] == "value_error"]
            if own:  # our own words, which tell what to write instead
                return str(own[0]).removeprefix("Value error, ")
        wanted = [want for fault in faults if (want := _wanted(fault))]
        if wanted:
            quotes = "text" in wanted and isinstance(first["input"], int | float)
            hint = "; put it in quotes" if quotes else ""
            return f"must be {' or '.join(dict.fromkeys(wanted))}{found}{hint}"
        if first["type"] == "value_error":  # our own words, which tell what to write instead
            return str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == _EXTRA:
            return f"has no option {path[-1]!r}"
        return f"{str(first['msg']).replace('Input should', 'must')}{found}"

    def _hides(self, path: Path) -> bool:
        return path in self.document.expanded or any(looks_secret(str(key)) for key in path)

    def _without_expanded(self, path: Path, message: str) -> str:
        inside = [place for place in self.document.expanded if place[: len(path)] == path]
        return scrubbed(message, [str(self._at(place) or "") for place in inside])


def _wanted(fault: Mapping[str, Any]) -> str | None:
    """What pydantic wants, in our words."""
    if fault["type"] == "literal_error":
        return str(fault["ctx"]["expected"])
    return _WANTED.get(fault["type"])


_EXTRA = "unexpected_keyword_argument"
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
}
"""What pydantic wants, in our words, by the type of its error."""


def words(names: Iterable[str]) -> str:
    """Names as a sentence lists them, the first of many."""
    first = [repr(name) for name in islice(names, _LISTED + 1)]
    return ", ".join(first[:_LISTED]) + (", …" if len(first) > _LISTED else "")


_LISTED = 8


def _below(value: Any, key: int | str) -> Any:
    if isinstance(value, dict):
        return value.get(key, _NONE)
    inside = isinstance(value, list) and isinstance(key, int) and key < len(value)
    return value[key] if inside else _NONE


def _known_here(known: Collection[str]) -> str:
    return f"; known here: {words(known)}" if known else "; there is none"


def _there_are(known: Iterable[str]) -> str:
    return f"; it has {words(known)}" if known else "; it has none"


def _raised(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def _kind(value: Any) -> str:
    """What a value is, without a word of it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "text"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str | int | float) else _kind(value)
