"""Every forwarder that can be named in gateway.yaml keeps the contract of forwarders."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from headrace import Forwarder, Secret, Transport, registry
from headrace.testing import ForwarderContract
from headrace.testing.contracts import expect
from headrace.testing.misbehaviour import LAST_CHUNK, Step, answers, chunk, head
from headrace.transport.httpx2 import Httpx2


@pytest.mark.parametrize("name", registry.names("forwarders"))
def test_every_forwarder_is_held_to_the_contract(name: str) -> None:
    classes = [thing for thing in globals().values() if isinstance(thing, type)]

    held = {getattr(each, "name", None) for each in classes}

    assert name in held, f"add a ForwarderContract with `name = {name!r}` to {__file__}"


class TestOpenAI(ForwarderContract):
    name: ClassVar = "openai"

    def make(self, url: str) -> Forwarder:
        return made(self.name, base_url=f"{url}/v1", api_key=Secret(self.key))


class TestOpenAIThroughHttpx2(TestOpenAI):
    def make_transport(self) -> Transport:
        return Httpx2()


class TestOllama(ForwarderContract):
    name: ClassVar = "ollama"

    def make(self, url: str) -> Forwarder:
        return made(self.name, base_url=url, api_key=Secret(self.key))

    def answers(self, text: str, *lines: str) -> tuple[Step, ...]:
        return answers(saying(text, done=True, done_reason="stop"), *lines)

    def streams(self, *words: str) -> tuple[Step, ...]:
        values = [*map(saying, words), saying("", done=True, done_reason="stop")]
        lines = [chunk(json.dumps(value).encode() + b"\n") for value in values]
        start = head(200, "content-type: application/x-ndjson", "transfer-encoding: chunked")
        return (start, *lines, LAST_CHUNK)


class TestLocal(ForwarderContract):
    """Without its model: what it does is judged in front of a server that stands in for one."""

    name: ClassVar = "local"
    key: ClassVar[str] = ""

    def make(self, url: str) -> Forwarder:
        kind = registry.named("forwarders", self.name)

        class Local(kind):  # type: ignore[misc, valid-type]
            __doc__ = kind.__doc__

            async def __aenter__(self) -> Any:
                return self

            async def _address(self, *, refused: str | None = None) -> str:
                return url

        return Local()


class TestMock:
    """There is no server behind it; what it does is told in tests/forwarders/test_mock.py."""

    name: ClassVar = "mock"

    def test_it_has_a_sentence_for_itself_and_each_option(self) -> None:
        expect.sentences(registry.named("forwarders", self.name))


def made(name: str, **options: Any) -> Forwarder:
    forwarder: Forwarder = registry.named("forwarders", name)(**options)
    return forwarder


def saying(text: str, *, done: bool = False, **members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": "m", "message": message, "done": done, **members}
