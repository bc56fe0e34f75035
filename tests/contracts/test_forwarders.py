"""Every forwarder that can be named in gateway.yaml keeps the contract of forwarders."""

from __future__ import annotations

from headrace import Forwarder, Secret, registry
from headrace.testing.contracts.forwarder import ForwarderContract


class TestOpenAI(ForwarderContract):
    def make(self, url: str) -> Forwarder:
        kind = registry.named("forwarders", "openai")
        return kind(base_url=f"{url}/v1", api_key=Secret(self.key))
