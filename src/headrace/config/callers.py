"""The section `callers`: from what is written to who may what, with what is not written filled in.

What stands nowhere is what the entry `default` says; of limits, each one by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from headrace.caller import Callers, Entry, Quota, text_of
from headrace.config.chains import plugins_that
from headrace.config.document import Path
from headrace.config.parts import Parts, words
from headrace.config.problems import did_you_mean
from headrace.config.settings import CallerOptions
from headrace.options import Sha256
from headrace.routing import Route, Routes

_DEFAULT = "default"


def callers(parts: Parts, section: Mapping[str, Any]) -> Callers:
    """Everybody who is listed, in the order of the page."""
    closed = _is_written(parts)
    made = {name: _entry(parts, name, value or {}) for name, value in section.items()}
    default = made.pop(_DEFAULT, None)
    written = {name: section[name] or {} for name in made}
    entries = {
        name: _filled(entry, written[name], default) if default else entry
        for name, entry in made.items()
        if entry
    }
    _check_different(parts, entries)
    return Callers(entries=tuple(entries.values()), default=default, closed=closed)


def check(
    parts: Parts,
    routes: Iterable[Route],
    upstreams: Mapping[str, Any],
    *,
    limited: bool,
) -> None:
    """Note what callers are granted that is not there, or that nobody would keep.

    `upstreams` are as they are written, so that one that is disabled counts.
    """
    routes = tuple(routes)
    known = Routes(routes, upstreams)
    keys = [route.key for route in routes]
    section = parts.document.value.get("callers")
    for name, value in (section if isinstance(section, dict) else {}).items():
        value = value if isinstance(value, dict) else {}
        models = value.get("models")
        for index, model in enumerate(models if isinstance(models, list) else ()):
            if isinstance(model, str) and not _leads_somewhere(known, model):
                hint = did_you_mean(model, keys) or _there_are(keys)
                where: Path = ("callers", name, "models", index)
                shown = parts.quoted(where, model)
                parts.problem(
                    where, f"caller {name!r} may use {shown}, but no route answers that{hint}"
                )
        only = value.get("only")
        for label, wanted in (only if isinstance(only, dict) else {}).items():
            have = {str(labels[label]) for labels in _labels(upstreams) if label in labels}
            if str(wanted) not in have:
                such = f"those there are: {words(sorted(have))}" if have else "none has this label"
                where = ("callers", name, "only", label)
                parts.problem(
                    where,
                    f"caller {name!r} may only reach upstreams labelled {label}: "
                    f"{parts.quoted(where, str(wanted))}, and no upstream is; {such}",
                )
        if value.get("limits") and not limited:
            parts.problem(
                ("callers", name, "limits"),
                "nobody would keep these limits; put a plugin that does into 'server: {chain: …}', "
                f"{_keepers()}behind those that authenticate",
            )


def _is_written(parts: Parts) -> bool:
    """Whether there is such a section at all; one that is empty would let in nobody."""
    written = "callers" in parts.document.value
    if written and not parts.document.value["callers"]:
        parts.problem(
            ("callers",),
            "callers is empty, so that nobody would be let in; write who may ask, such as "
            "'default: {}' for whoever is known, or leave the section out",
        )
    return written


def _labels(upstreams: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What is written of each upstream, be it enabled or not."""
    for value in upstreams.values():
        labels = value.get("labels") if isinstance(value, dict) else None
        if isinstance(labels, dict):
            yield labels


def _entry(parts: Parts, name: str, value: Any) -> Entry | None:
    path: Path = ("callers", name)
    written = parts.fill(CallerOptions, path, value, f"caller {name!r}")
    if written is None:
        return None
    if name == _DEFAULT and written.match:
        message = "'default' is for whom no other entry fits, so there is nothing to match"
        parts.problem((*path, "match"), message)
    match = dict(_matches(parts, path, written.match)) or {"id": (name,)}
    if "models" in value and written.models is None:
        parts.problem((*path, "models"), "models must say which; '[\"*\"]' are all")
    models = None if written.models is None else tuple(written.models)
    return Entry(name=name, match=match, models=models, limits=written.limits, only=written.only)


def _matches(
    parts: Parts, path: Path, match: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, value in match.items():
        values = tuple(map(text_of, value if isinstance(value, list) else [value]))
        if not values or "" in values:
            parts.problem(
                (*path, "match", name), f"match: {name} must say what it is, or one of what"
            )
        if name == "key":
            try:
                values = tuple(map(Sha256.parse, values))
            except ValueError as error:
                parts.problem((*path, "match", name), f"match: key {error}")
                continue
        yield name, values


def _filled(entry: Entry, written: Mapping[str, Any], default: Entry) -> Entry:
    """`entry` with what `default` says of all that is not `written` there."""
    limits = written.get("limits") or {}
    own = {f.name: getattr(entry.limits, f.name) for f in fields(Quota) if f.name in limits}
    return replace(
        entry,
        models=entry.models if "models" in written else default.models,
        limits=replace(default.limits, **own),
        only=entry.only if "only" in written else default.only,
    )


def _check_different(parts: Parts, entries: Mapping[str, Entry]) -> None:
    seen: dict[tuple[tuple[str, tuple[str, ...]], ...], str] = {}
    for name, entry in entries.items():
        same = tuple(sorted((key, tuple(sorted(values))) for key, values in entry.match.items()))
        first = seen.setdefault(same, name)
        if first != name:
            where = parts.document.key_place(("callers", first))
            message = f"caller {name!r} matches just what {first!r} does, at {where}"
            parts.problem(
                ("callers", name), f"{message}; the first one would have it all", key=True
            )


def _leads_somewhere(routes: Routes, model: str) -> bool:
    """Whether a name, or a pattern, can be asked for; what a pattern fits is not looked into."""
    if "*" in model:
        return True
    return bool(routes.for_path(model) if model.startswith("/") else routes.for_model(model))


def _keepers() -> str:
    """The plugins that keep limits, as the middle of a sentence."""
    found = plugins_that("enforces_limits")
    return f"such as {words(found)}, " if found else ""


def _there_are(keys: list[str]) -> str:
    return f"; there are {words(keys)}" if keys else "; there is none"
