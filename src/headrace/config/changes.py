"""What would be different if one plan took the place of another, in words that tell no secret.

Two outlines are compared, whatever is in them: what a plugin's option is for, nobody here knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeAlias

from headrace.config.outline import Covered, Options, outline, part_of, said
from headrace.config.plan import Plan

RESTART: Final = ("host", "internal", "port", "tls", "workers", "write_stall")
"""Options of the server that a reload cannot change: they count from the next start."""

Path: TypeAlias = tuple[str, ...]


class Absent:
    """What is not there."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = Absent()


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference, in one place or in several of the same kind."""

    section: str
    """Where it is in an outline: `server`, `routes`, and so on."""
    names: Path = ()
    """Of which routes, upstreams or callers."""
    path: Path = ()
    """The way from there to the value."""
    old: Any
    """`ABSENT` where it was not there before."""
    new: Any
    """`ABSENT` where it is not there any more."""
    lost: str = ""
    """What does not outlive the change, if anything."""

    @property
    def restart(self) -> bool:
        """Whether it counts only from the next start; what is inside an option does not wait."""
        return self.section == "server" and len(self.path) == 1 and self.path[0] in RESTART

    def __str__(self) -> str:
        restart = "; this needs a restart" if self.restart else ""
        return f"{self._where} {self._what}{restart}{self.lost and f'; {self.lost}'}"

    @property
    def _where(self) -> str:
        subject = _SUBJECTS.get(self.section, self.section)
        if self.names:
            kind = self.section if len(self.names) > 1 else self.section[:-1]
            more = f" and {len(self.names) - _LISTED} more" if self.names[_LISTED:] else ""
            subject = f"{kind} {', '.join(self.names[:_LISTED])}{more}"
        if not self.path:
            return subject if ABSENT in (self.old, self.new) else f"{subject}:"
        *way, last = self.path
        return f"{subject}: {' '.join([*(step for step in way if step not in _SILENT), last])}"

    @property
    def _what(self) -> str:
        old, new = (_said(value, whole=not self.path) for value in (self.old, self.new))
        if self.new is ABSENT:
            return "is gone"
        if self.old is ABSENT:
            return f"is new{f': {new}' if new not in ('{}', *self.path[-1:]) else ''}"
        return "has changed" if old == new else f"{old} -> {new}"


_EVERY_CALL = ("attempts", "chain", "middleware")
_SUBJECTS = {**dict.fromkeys(_EVERY_CALL, "every call"), "who_may_ask": "who may ask"}
_NAMED = ("callers", "routes", "upstreams")
_SILENT = ("brings", "chain", "forwarder", "limits", "plugins")
"""Steps of a way that tell a reader nothing."""
_ASIDE = ("ask_usage", "brings", "retry_budget", "timeouts")
"""What is not told of a route or an upstream that is new."""
_LISTED = 8
"""Of longer lists, what came and what went is told."""
_PLACE = ("url", "prefix")
"""The options of a store that say where it is."""


def changes(old: Plan, new: Plan) -> list[Change]:
    """What would be different if `new` took the place of `old`, in the order of an outline."""
    before, after = _compared(outline(old)), _compared(outline(new))
    found: dict[object, Change] = {}
    for section in after:
        for change in _in_section(section, before[section], after[section]):
            if section == "store" and _elsewhere(change, old, new):
                change = replace(change, lost="what was counted and kept begins anew")
            where = change.path or change.names  # what comes or goes is told one by one
            like = section, where, said(change.old), said(change.new)
            first = found.setdefault(like, change)
            if first is not change:
                found[like] = replace(first, names=(*first.names, *change.names))
    return list(found.values())


def _compared(told: Mapping[str, Any]) -> dict[str, Any]:
    """An outline that has each thing once."""
    asked = told["who_may_ask"]
    who = asked if isinstance(asked, str) else f"whoever {' and '.join(asked)} lets in"
    off = dict.fromkeys(told["disabled"], "disabled")
    once = {**told, "who_may_ask": who, "upstreams": {**told["upstreams"], **off}}
    del once["disabled"]
    once["routes"] = {
        key: {name: route[name] for name in ("chain", "targets")}
        for key, route in told["routes"].items()
    }
    return once


def _elsewhere(change: Change, old: Plan, new: Plan) -> bool:
    """Whether what the old store has is not in the new one."""
    shared = old.store.shared and new.store.shared
    return not (shared and change.path) or change.path[-1] in _PLACE


def _in_section(section: str, old: Any, new: Any) -> Iterator[Change]:
    for path, before, after, lost in _in_value((), old, new):
        names: Path = ()
        if section in _NAMED:
            names, path = path[:1], path[1:]
        elif section in _EVERY_CALL:
            path = (section, *path)
        yield Change(section=section, names=names, path=path, old=before, new=after, lost=lost)
    if section == "callers":  # the first that fits counts
        first, then = [n for n in old if n in new], [n for n in new if n in old]
        if first != then:
            yield Change(section=section, path=("order",), old=first, new=then)


class _Found(NamedTuple):
    path: Path
    old: Any
    new: Any
    lost: str = ""


def _in_value(path: Path, old: Any, new: Any) -> Iterator[_Found]:
    """Where two values differ, as far down as it can be told."""
    match old, new:
        case _ if old == new:
            return
        case Mapping(), Mapping() if part_of(old) == part_of(new):
            for name in dict.fromkeys((*old, *new)):
                yield from _in_value((*path, name), _at(old, name), _at(new, name))
        case list(), list() if any(isinstance(item, list) for item in (*old, *new)):
            yield _Found(path, old, new)
        case list(), list():
            yield from _in_list(path, _labelled(old), _labelled(new))
        case _:
            yield _Found(path, old, new)


def _at(mapping: Mapping[str, Any], name: str) -> Any:
    try:
        return mapping[name]
    except KeyError:
        return ABSENT


def _in_list(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[_Found]:
    """What is different in lists of things that have labels, and an order."""
    gone, come = ([n for n in one if n not in other] for one, other in ((old, new), (new, old)))
    renamed = {label.split()[0] for label in gone} & {label.split()[0] for label in come}
    lost = "what was counted and kept under the old name is left behind" if renamed else ""
    if max(len(old), len(new)) > _LISTED and (gone or come):
        yield from (_Found((*path, label), old[label], ABSENT, lost) for label in gone)
        yield from (_Found((*path, label), ABSENT, new[label], lost) for label in come)
    elif list(old) != list(new):
        shown = [_new(label, new[label]) if label in come else label for label in new]
        yield _Found(path, list(old), shown, lost)
    for label in old:
        if label in new:
            yield from _in_value((*path, label), old[label], new[label])


def _new(label: str, value: Any) -> str:
    """A part that is new in a list: what it is called, and its options."""
    options = isinstance(value, Options) and {n: value[n] for n in value if n != "name"}
    return f"{label} {said(options)}" if options else label


def _labelled(items: Sequence[Any]) -> dict[str, Any]:
    """What a list has, by what it may be called: a part's name, what it names itself, its text."""
    found: dict[str, Any] = {}
    for number, item in enumerate(items, 1):
        label = str(item)
        value: Any = item if isinstance(item, Covered) else Options({})
        if kind := part_of(item):
            value = item[kind]
            label = f"{kind} {value['name']}" if "name" in value else kind
        elif isinstance(item, Mapping):
            label, value = str(item.get("name", number)), item
        times = sum(known == label or known.startswith(f"{label} ") for known in found)
        found[f"{label} {times + 1}" if label in found else label] = value
    return found


def _said(value: Any, *, whole: bool) -> str:
    """A value as it is told; of a `whole` route, upstream or caller, what matters most."""
    if whole and isinstance(value, Mapping) and not part_of(value):
        value = {name: inner for name, inner in value.items() if inner and name not in _ASIDE}
    return "unset" if value is None else said(value)
