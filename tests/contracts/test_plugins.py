"""Every plugin that can be named in gateway.yaml keeps the contract of plugins."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from headrace import Plugin, registry
from headrace.config.document import parse
from headrace.config.parts import Parts
from headrace.testing import PluginContract

WRITTEN = """
plugins:
- any_of:
  - api_key: {keys: {48e05db129439dec05c1e64ab04b8f48b37ee81d324b1a82cd104b5036d5e56b: bob}}
  - api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}
- api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}
- fallback
- retry
- retry: {attempts: 2, wait: 5s}
- transform
- transform: {set: {temperature: 0}, default: {top_p: 1}, remove: [user]}
- transform: {headers: {x-team: red}, reply_headers: {x-answered-by: headrace}}
"""
HEADERS: Mapping[str, Mapping[str, str]] = {
    "any_of": {"authorization": "Bearer sk-ann"},
    "api_key": {"authorization": "Bearer sk-ann"},
}

DOCUMENT = parse(WRITTEN, "gateway.yaml", {})
NAMES = [each if isinstance(each, str) else next(iter(each)) for each in DOCUMENT.value["plugins"]]


@pytest.mark.parametrize("name", registry.names("plugins"))
def test_every_plugin_is_held_to_the_contract(name: str) -> None:
    assert name in NAMES, f"add {name!r} to WRITTEN in {__file__}, as gateway.yaml would have it"


class TestEveryPlugin(PluginContract):
    @pytest.fixture(autouse=True, params=range(len(NAMES)), ids=NAMES)
    def number(self, request: pytest.FixtureRequest) -> None:
        self.nth = request.param
        self.headers = HEADERS.get(NAMES[self.nth], {})  # type: ignore[misc]

    def make(self) -> Plugin:
        parts = Parts(DOCUMENT)
        written = DOCUMENT.value["plugins"][self.nth]
        plugin: Plugin = parts.make("plugins", ("plugins", self.nth), written)
        assert not parts.problems, parts.problems
        return plugin
