"""The JSON Schema for editors: valid itself, true to every option, and no stricter than we are.

No validator is at hand, so a small one of the keywords we use is here; another keyword fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from headrace import registry
from headrace.config.fields import Option, options_of
from headrace.config.schema import default_of, schema
from headrace.config.settings import RouteOptions, Server, TimeoutOptions, UpstreamOptions
from headrace.registry import Group

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "cases" / "gateway"
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
NOTES = {"$schema", "$defs", "title", "description", "default", "examples"}


def fits(value: Any, told: Any = None, whole: Any = None) -> bool:
    """Whether `value` is what a schema allows (json-schema.org/draft/2020-12)."""
    whole = whole or schema()
    told = whole if told is None else told
    if isinstance(told, bool):
        return told
    return all(_fits(value, told, keyword, whole) for keyword in told if keyword not in NOTES)


def _fits(value: Any, told: dict[str, Any], keyword: str, whole: Any) -> bool:
    wanted = told[keyword]
    match keyword, value:
        case "$ref", _:
            return fits(value, whole["$defs"][wanted.removeprefix("#/$defs/")], whole)
        case "anyOf", _:
            return any(fits(value, choice, whole) for choice in wanted)
        case "const", _:
            return type(value) is type(wanted) and bool(value == wanted)
        case "enum", _:
            return any(type(value) is type(each) and value == each for each in wanted)
        case "type", _:
            kinds = wanted if isinstance(wanted, list) else [wanted]
            number = not isinstance(value, bool) or "boolean" in kinds
            return number and any(isinstance(value, TYPES[kind]) for kind in kinds)
        case "pattern", str():
            return re.search(wanted, value) is not None
        case "minimum", int() | float():
            return bool(value >= wanted)
        case "maximum", int() | float():
            return bool(value <= wanted)
        case "items", list():
            return all(fits(item, wanted, whole) for item in value)
        case ("minLength", str()) | ("minItems", list()) | ("minProperties", dict()):
            return len(value) >= int(wanted)
        case "maxProperties", dict():
            return len(value) <= int(wanted)
        case "required", dict():
            return all(name in value for name in wanted)
        case "propertyNames", dict():
            return all(fits(name, wanted, whole) for name in value)
        case "properties", dict():
            return all(fits(value[name], wanted[name], whole) for name in value if name in wanted)
        case "patternProperties", dict():
            found = [(p, name) for p in wanted for name in value if re.search(p, name)]
            return all(fits(value[name], wanted[pattern], whole) for pattern, name in found)
        case "additionalProperties", dict():
            patterns = told.get("patternProperties", {})
            others = [
                name
                for name in value
                if name not in told.get("properties", {})
                and not any(re.search(pattern, name) for pattern in patterns)
            ]
            return all(fits(value[name], wanted, whole) for name in others)
    assert keyword in KEYWORDS, keyword
    return True


KEYWORDS = {
    *("$ref", "anyOf", "const", "enum", "type", "pattern", "minimum", "maximum"),
    *("items", "minItems", "minLength"),
    *("minProperties", "maxProperties", "required", "propertyNames", "properties"),
    *("patternProperties", "additionalProperties"),
}


def parts(told: Any) -> Iterator[dict[str, Any]]:
    """A schema and all schemas in it."""
    if not isinstance(told, dict):
        return
    yield told
    for keyword in ("properties", "patternProperties", "$defs"):
        for inner in told.get(keyword, {}).values():
            yield from parts(inner)
    for keyword in ("items", "additionalProperties", "propertyNames"):
        yield from parts(told.get(keyword))
    for inner in told.get("anyOf", ()):
        yield from parts(inner)


def test_it_is_a_valid_schema() -> None:
    whole = schema()

    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for told in parts(whole):
        assert set(told) <= KEYWORDS | NOTES
        assert isinstance(told.get("description", ""), str)
        assert set(told.get("required", ())) <= set(told.get("properties", {}))
        assert told.get("anyOf") != []
        for pattern in (told.get("pattern", ""), *told.get("patternProperties", {})):
            re.compile(pattern)
        if "$ref" in told:
            assert told["$ref"].removeprefix("#/$defs/") in whole["$defs"]
        if "default" in told:
            assert fits(told["default"], told, whole)


def test_it_is_plain_json() -> None:
    assert json.loads(json.dumps(schema())) == schema()


def of_part(group: Group, name: str) -> dict[str, Any]:
    """What the schema says of the options of a part."""
    choices = schema()["$defs"][group]["anyOf"]
    told = next(c["properties"][name] for c in choices if name in c.get("properties", {}))
    found: dict[str, Any] = told["anyOf"][0] if "anyOf" in told else told
    return found  # what may also be written without a name


REGISTERED = [
    (group, name)
    for group in get_args(Group)
    for name in registry.names(group)
    if group != "dialects"
]


@pytest.mark.parametrize(("group", "name"), REGISTERED)
def test_every_option_of_every_part_is_there_with_its_sentence(group: Group, name: str) -> None:
    options = options_of(registry.named(group, name))
    told = of_part(group, name)

    assert set(told["properties"]) == set(options)
    assert told["required"] == [o.name for o in options.values() if o.required]
    for option in options.values():
        assert option.doc
        assert told["properties"][option.name]["description"] == option.doc


@pytest.mark.parametrize(
    ("part", "way"),
    [
        (Server, ["server"]),
        (TimeoutOptions, ["server", "properties", "timeouts"]),
        (UpstreamOptions, ["upstreams", "additionalProperties", "anyOf", 1]),
        (RouteOptions, ["routes", "additionalProperties", "anyOf", 2]),
    ],
)
def test_every_option_of_a_section_is_there_with_its_sentence(part: type, way: list[Any]) -> None:
    told = schema()["properties"]
    for step in way:
        told = told[step]

    for option in options_of(part).values():
        assert option.doc
        assert told["properties"][option.name]["description"] == option.doc


def default(name: str, part: type = Server) -> Any:
    option: Option = options_of(part)[name]
    return default_of(option)


def test_defaults_are_as_yaml_has_them() -> None:
    assert default("port") == 8080
    assert default("max_body") == "32MB"
    assert default("body_timeout") == "30s"
    assert default("timeouts") is None
    assert default("enabled", UpstreamOptions) is True
    assert default("forwarder", UpstreamOptions) is None


@pytest.mark.parametrize("file", [ROOT / "gateway.yaml", *ROOT.glob("examples/*/gateway.yaml")])
def test_what_we_ship_fits(file: Path) -> None:
    assert fits(yaml.safe_load(file.read_text()))


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("case", sorted(CASES.glob("good_*.yaml")), ids=lambda case: case.stem)
def test_what_is_good_fits(case: Path) -> None:
    assert fits(yaml.safe_load(case.read_text()) or {})


@pytest.mark.parametrize(
    "written",
    [
        "server: {port: '${PORT}', max_body: '${SIZE}', timeouts: {connect: '${TIME:-5s}'}}",
        "server: {auth: '${AUTH}', chain: '${CHAIN}', observers: ['${OBSERVER}']}",
        "upstreams: {a: {forwarder: '${FORWARDER}', enabled: '${ON:+true}', ask_usage: '${ASK}'}}",
        "upstreams: {a: {forwarder: mock, models: ['${MODEL}'], labels: {a: '${LABEL}'}}}",
        "chains: {a: ['${PLUGIN}', retry: {attempts: '${N}', wait: '${WAIT}'}]}",
        "routes: {a: {targets: [b: {weight: '${WEIGHT}'}]}, b: '${TARGET}'}",
    ],
)
def test_anything_may_come_from_the_environment(written: str) -> None:
    assert fits(yaml.safe_load(written))


@pytest.mark.parametrize(
    "written",
    [
        "caller: {}",
        "server: {prot: 80}",
        "server: {port: many}",
        "server: {port: 65536}",
        "server: {attempts: 0}",
        "server: {max_body: 32 MB}",
        "server: {timeouts: {connect: 5}}",
        "server: {timeouts: {read: 5s}}",
        "server: {auth: nobody}",
        "server: {middleware: [{a: {}, b: {}}]}",
        "upstreams: {a: {models: [x]}}",
        "upstreams: {a: {forwarder: opnai}}",
        "upstreams: {a: {forwarder: {openai: {api_kee: x}}}}",
        "upstreams: {a: {forwarder: mock, labels: {region: 1}}}",
        "chains: {a: [retry: {attempts: many}]}",
        "chains: {a: [retry: {atempts: 2}]}",
        "chains: {a: [api_key: {keys: {nonsense: ann}}]}",
        "routes: {a: {target: b}}",
        "routes: {a: []}",
        "routes: {a: {targets: [b: {wieght: 3}]}}",
    ],
)
def test_an_editor_marks(written: str) -> None:
    assert not fits(yaml.safe_load(written))
