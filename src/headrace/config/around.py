"""What stands around the calls: the store, the observers, the ASGI middleware."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from inspect import signature
from typing import Any

from headrace import registry
from headrace.config.document import Path
from headrace.config.parts import Parts
from headrace.dialect import OPENAI
from headrace.pages import OWN
from headrace.record import Observer
from headrace.store import Store


def store_of(parts: Parts, value: Any) -> Store:
    """The store of `server: {store: …}`: by its URL, or by its name with options."""
    path: Path = ("server", "store")
    if not isinstance(value, str) or "://" not in value:
        if isinstance(value, str) and not re.fullmatch(r"\w+", value):
            parts.problem(path, "store: this is neither a store's name nor a URL")
            return Store.of_server()
        made = None if value is None else parts.make("stores", path, value)
        return made or Store.of_server()
    scheme, _, rest = value.partition("://")
    name = _taking(scheme)
    shown = repr(scheme) if re.fullmatch("[a-z]{1,10}", scheme) else parts.quoted(path, scheme)
    kind: Any = parts.sure(path) and parts.kind("stores", path, name or scheme, shown)
    if kind and rest and not name:
        parts.problem(path, f"store: nothing can stand behind {scheme}://")
        kind = None
    made = kind and parts.fill(kind, path, value if name else None, name or scheme)
    return made or Store.of_server()


def _taking(scheme: str) -> str | None:
    """The name of the store that takes URLs of a scheme."""
    for name in registry.names("stores"):
        with suppress(Exception):  # importing it runs a stranger's code
            if scheme in registry.named("stores", name).schemes:
                return name
    return None


def observers(parts: Parts, value: Any) -> tuple[Observer, ...]:
    """Who is told of every call; where nothing is written, those that say so of themselves."""
    if value is None:
        value = registry.by_default("observers")
    items = _items(("server", "observers"), value)
    made = [(path, parts.make("observers", path, item)) for path, item in items]
    _check_pages(parts, made)
    return tuple(observer for _, observer in made if observer is not None)


def _check_pages(parts: Parts, made: Iterable[tuple[Path, Any]]) -> None:
    """Note where an observer's page stands in the way of another one, of an API or of a route."""
    routes = parts.document.value.get("routes")
    taken = {*OWN, *(routes if isinstance(routes, dict) else ())}
    for path, observer in made:
        for page in getattr(observer, "pages", {}):
            if page in taken or any(OPENAI.operation(method, page) for method in ("GET", "POST")):
                parts.problem(
                    path, "its page is where something else is served; give it another path"
                )
            taken.add(page)


def middleware(parts: Parts, value: Any) -> tuple[tuple[Any, Mapping[str, Any]], ...]:
    """ASGI applications around the gateway's, with their options, outermost first."""
    items = _items(("server", "middleware"), value)
    made = [_wrapping(parts, path, item) for path, item in items]
    return tuple(found for found in made if found is not None)


def _items(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    """The items of a list; that it is one is judged where the options of `server` are."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        yield (*path, index), item


def _wrapping(parts: Parts, path: Path, value: Any) -> tuple[Any, Mapping[str, Any]] | None:
    found = parts.named(path, value, "a middleware")
    if found is None:
        return None
    shown = parts.quoted(path, found.name)
    module, _, name = found.name.partition(":")
    if not (module and name):
        parts.problem(path, f"expected a middleware as 'package.module:Class', found {shown}")
        return None
    if not isinstance(found.options, dict):
        if parts.sure(found.where):
            parts.problem(found.where, f"{shown} takes options as 'name: value'")
        return None
    try:
        kind = getattr(import_module(module), name)
    except Exception as error:  # noqa: BLE001 - importing it runs a stranger's code
        said = "" if path in parts.document.expanded else f": {error}"
        absent = isinstance(error, ModuleNotFoundError)
        hint = "; install its package, or put its folder on PYTHONPATH" if absent else ""
        parts.problem(path, f"the middleware {shown} cannot be imported{said}{hint}")
        return None
    try:
        signature(kind).bind(None, **found.options)
    except TypeError as error:
        parts.problem(found.where, f"the middleware {shown} does not fit: {error}")
        return None
    return kind, found.options
