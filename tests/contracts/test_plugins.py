"""Every plugin that can be named in gateway.yaml keeps the contract of plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headrace import Plugin, registry
from headrace.config.document import parse
from headrace.config.parts import Parts
from headrace.testing.contracts.plugin import PluginContract

# Each as it could stand in gateway.yaml; some in several ways.
WRITTEN = {
    "api_key": ["api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}"],
    "fallback": ["fallback"],
    "retry": ["retry", "retry: {attempts: 2, wait: 5s}"],
    "transform": [
        "transform",
        "transform: {set: {temperature: 0}, default: {top_p: 1}, remove: [user]}",
        "transform: {headers: {x-team: red}, reply_headers: {x-answered-by: headrace}}",
    ],
}
HEADERS: Mapping[str, dict[str, str]] = {"api_key": {"authorization": "Bearer sk-ann"}}

CASES = [(name, text) for name in registry.names("plugins") for text in WRITTEN.get(name, [])]


@pytest.mark.parametrize("name", registry.names("plugins"))
def test_every_plugin_is_held_to_the_contract(name: str) -> None:
    assert name in WRITTEN, f"add {name!r} to WRITTEN in {__file__}, as gateway.yaml would have it"


class TestEveryPlugin(PluginContract):
    @pytest.fixture(autouse=True, params=CASES, ids=[text for _, text in CASES])
    def named(self, request: pytest.FixtureRequest) -> None:
        self.name, self.text = request.param
        self.headers = HEADERS.get(self.name, {})  # type: ignore[misc]

    def make(self) -> Plugin:
        parts = Parts(parse(f"server: {{chain: [{self.text}]}}", "gateway.yaml", {}))
        made: Any = parts.make("plugins", ("server", "chain", 0), parts.document.value["server"]["chain"][0])
        assert not parts.problems, parts.problems
        return made
