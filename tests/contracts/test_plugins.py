"""Every plugin that can be named in gateway.yaml keeps the contract of plugins."""

from __future__ import annotations

from collections.abc import Mapping

import jwt
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from headrace import Plugin, registry
from headrace.config.document import parse
from headrace.config.parts import Parts
from headrace.testing import PluginContract

SECRET = "a secret of the contract's own, long enough for HS256"
CLAIMS = {"iss": "https://login.example.com/", "aud": "headrace", "sub": "ann", "exp": 4102444800}
WRITTEN = """
plugins:
- any_of:
  - api_key: {keys: {48e05db129439dec05c1e64ab04b8f48b37ee81d324b1a82cd104b5036d5e56b: bob}}
  - api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}
- api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}
- balance
- balance: {by: in_flight, sticky: caller}
- balance: {by: latency, sticky: {header: x-session}, decay: 1s}
- breaker
- breaker: {failures: 1, rate: 1, least: 1, window: 1s, cooldown: 1ms, longest: 1ms, when: [5xx]}
- cache
- cache: {single_flight: false, operations: [chat, completion, embedding, passthrough]}
- cache: {when: deterministic, tenants: shared, replay: timed, stale_if_error: 1h}
- fallback
- hedge
- hedge: {after: 50ms, most: 2, share: 0.5}
- jwt_auth: {issuer: "https://login.example.com/", audience: headrace, secret: "${JWT_SECRET}"}
- race
- race: {width: 1}
- rate_limit
- rate_limit: {policies: [{by: [tenant, model], requests: [90/s, 5k/day], tokens: 9M/s}]}
- rate_limit: {policies: [{by: [upstream, route], concurrent: 9}]}
- rate_limit: {dry_run: true, policies: [{by: address, requests: 1/s, strategy: moving_window}]}
- retry
- retry: {attempts: 2, wait: 5s}
- tracing
- tracing: {content: true, largest: 10B}
- transform
- transform: {set: {temperature: 0}, default: {top_p: 1}, remove: [user]}
- transform: {headers: {x-team: red}, reply_headers: {x-answered-by: headrace}}
"""
HEADERS: Mapping[str, Mapping[str, str]] = {
    "any_of": {"authorization": "Bearer sk-ann"},
    "api_key": {"authorization": "Bearer sk-ann"},
    "jwt_auth": {"authorization": f"Bearer {jwt.encode(CLAIMS, SECRET, 'HS256')}"},
}

DOCUMENT = parse(WRITTEN, "gateway.yaml", {"JWT_SECRET": SECRET})
NAMES = [each if isinstance(each, str) else next(iter(each)) for each in DOCUMENT.value["plugins"]]


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are made, and go nowhere."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))


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
