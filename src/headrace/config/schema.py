"""The JSON Schema of `gateway.yaml`, for editors: made of the same fields as everything else.

Draft 2020-12 (json-schema.org/draft/2020-12). Any value may be written as `${…}`, so every scalar
also allows that.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from headrace import registry
from headrace.config.parts import Option, options_of
from headrace.config.settings import SECTIONS, RouteOptions, Server, UpstreamOptions
from headrace.registry import Group

_EXPANDED = {"type": "string", "pattern": r"\$\{.+\}"}
_REF = "#/$defs/"


def schema() -> dict[str, Any]:
    """The whole schema."""
    definitions: dict[str, Any] = {}
    for group in ("plugins", "forwarders", "observers", "stores"):
        definitions[group] = _named(group, definitions)
    plugin = {"anyOf": [{"$ref": f"{_REF}plugins"}, {"type": "string"}]}
    chain = {"anyOf": [{"type": "string"}, {"type": "array", "items": plugin}]}
    definitions |= {"plugin": plugin, "chain": chain, "target": _target()}
    definitions["targets"] = {
        "anyOf": [
            {"$ref": f"{_REF}target"},
            {"type": "array", "items": {"$ref": f"{_REF}targets"}, "minItems": 1},
        ]
    }
    known = {
        "chain": {"$ref": f"{_REF}chain"},
        "plugins": {"$ref": f"{_REF}chain"},
        "forwarder": {"$ref": f"{_REF}forwarders"},
        "observers": {"type": "array", "items": {"$ref": f"{_REF}observers"}},
        "store": {"anyOf": [{"type": "string"}, {"$ref": f"{_REF}stores"}]},
        "targets": {"$ref": f"{_REF}targets"},
    }
    upstream = _options(UpstreamOptions, definitions, known)
    route = _options(RouteOptions, definitions, known)
    sections = {
        "server": _options(Server, definitions, known),
        "upstreams": _by_name({"anyOf": [{"type": "string"}, upstream]}),
        "chains": _by_name({"$ref": f"{_REF}chain"}),
        "routes": _by_name({"anyOf": [{"type": "string"}, {"type": "array"}, route]}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.yaml",
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
        "properties": {
            "include": {
                "description": "other files whose keys are added",
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            },
            **{
                name: {"description": SECTIONS[name], **section}
                for name, section in sections.items()
            },
        },
        "$defs": definitions,
    }


def default_of(option: Option) -> Any:
    """An option's default as YAML would have it; None where there is none."""
    if option.required or option.default is None:
        return None
    value = option.default
    if type(value) in (str, int, float, bool, list, dict):
        return value
    return str(value) if type(value).__str__ is not object.__str__ else None


def _named(group: Group, definitions: dict[str, Any]) -> dict[str, Any]:
    """A thing of a group: its name, or its name with options."""
    choices: list[dict[str, Any]] = []
    for name in registry.names(group):
        try:
            part = registry.named(group, name)
        except ImportError:
            continue
        doc = (inspect.getdoc(part) or "").partition("\n")[0]
        choices.append({"const": name, "description": doc})
        choices.append(
            {
                "type": "object",
                "description": doc,
                "properties": {name: _options(part, definitions, {})},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return {"anyOf": choices}


def _options(part: type[Any], definitions: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    options = options_of(part)
    properties = {}
    for option in options.values():
        told = known.get(option.name) or _of_kind(option.kind, definitions)
        properties[option.name] = {"description": option.doc, **told}
        if (default := default_of(option)) is not None:
            properties[option.name]["default"] = default
    return {
        "type": "object",
        "properties": properties,
        "required": [option.name for option in options.values() if option.required],
        "additionalProperties": False,
    }


def _of_kind(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    try:
        told = TypeAdapter(kind).json_schema(ref_template=f"{_REF}{{model}}")
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
    for name, inner in told.pop("$defs", {}).items():
        definitions[name] = _expandable(inner)
    return _expandable(told)


def _expandable(told: Any) -> Any:
    """The same schema, in which numbers and choices may also come from `${…}`."""
    if not isinstance(told, dict):
        return told
    if told.get("type") in ("integer", "number", "boolean") or "enum" in told or "const" in told:
        return {"anyOf": [told, _EXPANDED]}
    if "pattern" in told and not re.search(told["pattern"], "${X}"):
        return {"anyOf": [told, _EXPANDED]}
    return {
        key: {name: _expandable(value) for name, value in inner.items()}
        if key in ("properties", "$defs")
        else [_expandable(value) for value in inner]
        if key in ("anyOf", "allOf")
        else _expandable(inner)
        if key in ("items", "additionalProperties")
        else inner
        for key, inner in told.items()
    }


def _target() -> dict[str, Any]:
    name = {"type": "string", "description": "upstream, or upstream/model"}
    options = {
        "type": "object",
        "maxProperties": 1,
        "additionalProperties": {
            "type": "object",
            "properties": {"weight": {"type": "number", "exclusiveMinimum": 0}},
            "additionalProperties": False,
        },
    }
    return {"anyOf": [name, options]}


def _by_name(inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": inner}
