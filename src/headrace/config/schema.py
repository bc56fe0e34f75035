"""The JSON Schema of `gateway.yaml`, for editors: made of the same fields as everything else.

Draft 2020-12 (json-schema.org/draft/2020-12). Any value may be written as `${…}`, so every scalar
also allows that.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from headrace import registry
from headrace.chain import Plugins
from headrace.config.fields import Option, adapter, options_of, part_in
from headrace.config.settings import (
    SECTIONS,
    CallerOptions,
    RouteOptions,
    Server,
    UpstreamOptions,
)
from headrace.config.targets import TargetOptions
from headrace.registry import Group

Schema: TypeAlias = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_EXPANDED: Schema = {"type": "string", "pattern": r"\$\{.+\}"}


def schema() -> Schema:
    """The whole schema."""
    definitions: Schema = {}
    for group in ("plugins", "forwarders", "observers", "stores"):
        definitions[group] = _named(group, definitions)
    definitions |= {
        "plugin": _either(_ref("plugins"), _TEXT),
        "chain": _either(_TEXT, _list_of(_ref("plugin")), _ref("plugins")),
        "target": _either(_TEXT, _one_of_name(_options(TargetOptions, definitions))),
        "targets": _either(_ref("target"), _list_of(_ref("targets"), minItems=1)),
    }
    sections = {
        "server": _options(Server, definitions, _SERVER),
        "callers": _by_name(_options(CallerOptions, definitions)),
        "upstreams": _by_name(_TEXT, _options(UpstreamOptions, definitions, _UPSTREAM)),
        "chains": _by_name(_ref("chain")),
        "routes": _by_name(
            _TEXT,
            _list_of(_ref("targets"), minItems=1),
            _options(RouteOptions, definitions, _ROUTE),
        ),
    }
    described = {name: {"description": SECTIONS[name], **told} for name, told in sections.items()}
    include = {"description": "other files whose keys are added", **_either(_TEXT, _list_of(_TEXT))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.yaml",
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
        "properties": {"include": include, **described},
        "$defs": definitions,
    }


def default_of(option: Option) -> Any:
    """An option's default as YAML would have it; None where there is none."""
    if option.required or part_in(option.kind) or option.kind == Plugins:
        return None
    return adapter(option.kind).dump_python(option.default, mode="json")


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _either(*told: Schema) -> Schema:
    return {"anyOf": list(told)}


def _list_of(item: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": item, **more}


def _one_of_name(options: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": options,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _by_name(*told: Schema) -> Schema:
    """A section: things by the names that were chosen for them."""
    inner = told[0] if len(told) == 1 else _either(*told)
    return {"type": ["object", "null"], "additionalProperties": inner}


_SERVER: Mapping[str, Schema] = {
    "store": _either(_TEXT, _ref("stores")),
    "middleware": _list_of(_either(_TEXT, _one_of_name({"type": ["object", "null"]}))),
    "observers": _list_of(_ref("observers")),
    "chain": _ref("chain"),
}
_UPSTREAM: Mapping[str, Schema] = {"forwarder": _ref("forwarders"), "plugins": _ref("chain")}
_ROUTE: Mapping[str, Schema] = {"targets": _ref("targets"), "chain": _ref("chain")}
"""Options whose fields are of any type, because they name other things."""


def _named(group: Group, definitions: Schema) -> Schema:
    """A thing of a group: its name, or its name with options."""
    choices: list[Schema] = []
    for name in registry.names(group):
        try:
            part = registry.named(group, name)
        except ImportError:
            continue
        doc = (inspect.getdoc(part) or "").partition("\n")[0]
        options = {
            "type": "object",
            "properties": {name: _options(part, definitions)},
            "required": [name],
            "additionalProperties": False,
        }
        if shorthand := getattr(part, "shorthand", None):
            bare = _of_kind(options_of(part)[shorthand].kind, definitions)
            options["properties"] = {name: _either(options["properties"][name], bare)}  # type: ignore[index]
        if not any(option.required for option in options_of(part).values()):
            choices.append({"const": name, "description": doc})
        choices.append({"description": doc, **options})
    return _either(*choices, _EXPANDED)


def _options(
    part: type[Any], definitions: Schema, known: Mapping[str, Schema] | None = None
) -> Schema:
    """What can be written for a part; `known` are options that a type does not tell all of."""
    options = options_of(part).values()
    required = [option.name for option in options if option.required]
    properties = {}
    for option in options:
        told = (known or {}).get(option.name) or _of_kind(option.kind, definitions)
        properties[option.name] = {**told, "description": option.doc}
        if (default := default_of(option)) is not None:
            properties[option.name]["default"] = default
    return {
        "type": "object" if required else ["object", "null"],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _of_kind(kind: Any, definitions: Schema) -> Schema:
    if kind == Plugins:
        return _ref("chain")
    if part := part_in(kind):
        return _options(part, definitions)
    try:
        told: Schema = adapter(kind).json_schema(ref_template="#/$defs/{model}")
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
    for name, inner in told.pop("$defs", {}).items():
        definitions[name] = _expandable(inner)
    return _expandable(told)


def _expandable(told: Schema) -> Schema:
    """The same schema, in which every scalar may also come from `${…}`."""
    choices = [_inside(choice) for choice in _choices(told)]
    scalar = any(choice.get("type") in _SCALARS for choice in choices)
    if scalar and not any(map(_takes_text, choices)):
        choices.append(_EXPANDED)
    return {**_examples(told), **(choices[0] if len(choices) == 1 else {"anyOf": choices})}


_SCALARS = ("integer", "number", "boolean", "string")


def _choices(told: Schema) -> Iterator[Schema]:
    """The members of a union, those of unions in it too."""
    if "anyOf" in told:
        for choice in told["anyOf"]:
            yield from _choices(choice)
    else:
        yield {key: value for key, value in told.items() if key != "examples"}


def _examples(told: Schema) -> Schema:
    """The first examples that a schema, or a member of the union it is, gives."""
    if "examples" in told:
        return {"examples": told["examples"]}
    return next(filter(None, map(_examples, told.get("anyOf", ()))), {})


def _inside(told: Schema) -> Schema:
    """A list or a mapping whose values may come from `${…}`."""
    told = dict(told)
    for key in ("properties", "patternProperties"):
        if key in told:
            told[key] = {name: _expandable(inner) for name, inner in told[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(told.get(key), dict):
            told[key] = _expandable(told[key])
    if "patternProperties" in told:
        told.setdefault("additionalProperties", False)
    return told


def _takes_text(told: Schema) -> bool:
    """Whether `${X}` may stand there as it is."""
    if told.get("type") != "string" or "const" in told or "enum" in told:
        return False
    return re.search(told.get("pattern", ""), "${X}") is not None
