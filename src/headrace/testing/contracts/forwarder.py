"""What every forwarder must keep.

    class TestOpenAI(ForwarderContract):
        def make(self, url: str) -> Forwarder:
            return OpenAI(base_url=f"{url}/v1", api_key=Secret(self.key))

Each test asks a `Loopback` server over real sockets, as a gateway would ask it: through an attempt
and what the forwarder `brings`. A server that speaks another dialect than OpenAI's is told how by
`answers` and `streams`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import pytest

from headrace.call import PASSTHROUGH, Timeouts
from headrace.dialect import OPENAI
from headrace.errors import UpstreamError
from headrace.testing.asking import text
from headrace.testing.client import settled
from headrace.testing.clock import Clock
from headrace.testing.contracts import expect, kinds
from headrace.testing.contracts.crossing import Crossing
from headrace.testing.contracts.loopback_asking import Ask
from headrace.testing.loopback import Loopback
from headrace.testing.misbehaviour import LAST_CHUNK, Act, Step, cut, status, whole

_WORDS = ("Grüß ", "Gott ", "👋")
_PATIENCE = Timeouts(first_event=30, idle=30)
_SILENCE = "the upstream is silent, and the call goes on"
_FAULTS = (
    *("rst", "close", "half-headers-close", "garbage", "bad-status", "dup-cl", "truncated-cl"),
    *("invalid-json", "empty-200", "html-200", "huge-header", "many-headers", "gzip-corrupt"),
)
_ENDS: Mapping[str, Sequence[Step]] = {
    "closed": (Act.CLOSE,),
    "reset": (Act.RESET,),
    "no longer HTTP": (b"zz\r\nwhat\r\n", Act.STALL),
    "ended before its end": (LAST_CHUNK,),
}


@pytest.mark.anyio
class ForwarderContract(Crossing):
    """Inherit from this and say how the forwarder is made, and what its upstream sends."""

    # What an upstream says

    async def test_a_whole_answer_is_one_reply(self, server: Loopback, ask: Ask) -> None:
        server.script(self.answers("".join(_WORDS)))

        reply = await ask(self.given())

        assert (reply.status, reply.framing) == (200, "json")
        assert await text(reply) == "".join(_WORDS)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    async def test_a_stream_is_the_same_however_its_bytes_are_cut(
        self, server: Loopback, ask: Ask, size: int
    ) -> None:
        server.script(cut(size, self.streams(*_WORDS)))

        events = await expect.read(await ask(self.given(stream=True)))

        assert [said for event in events if (said := OPENAI.text(event))] == list(_WORDS)
        assert OPENAI.is_end(events[-1]), "the stream has lost its end"

    async def test_the_reply_is_there_with_the_first_event(
        self, server: Loopback, ask: Ask
    ) -> None:
        server.script((*self.streams(*_WORDS)[:2], Act.STALL))

        reply = await expect.soon(ask(self.given(stream=True)), "the reply waits for more events")

        assert OPENAI.text(await anext(reply.events)) == _WORDS[0]
        await reply.aclose(asyncio.CancelledError())
        await _gone(server)

    async def test_what_is_passed_through_stays_as_it_is(self, server: Loopback, ask: Ask) -> None:
        if not self.passes_through:
            pytest.skip("it takes no calls that are passed through")
        server.script((whole(kinds.BINARY, "content-type: audio/mpeg"),))
        given = self.given(PASSTHROUGH, body=kinds.BINARY).replace(query="a=%20b&a=+", method="PUT")

        events = await expect.read(await ask(given))

        [received] = server.requests
        assert (received.method, received.body) == ("PUT", kinds.BINARY)
        assert received.target.endswith("/files?a=%20b&a=+")
        assert b"".join(event.raw for event in events) == kinds.BINARY

    # Failures

    async def test_a_server_that_is_not_there_is_an_upstream_error(self) -> None:
        async with Loopback() as closed:
            url = closed.url
        async with self.opened(url) as forwarder:
            asked = self.asked(forwarder, self.given())

            error = await expect.failure(asked, "nobody is there, and there is no failure")

        assert isinstance(error, UpstreamError)

    @pytest.mark.parametrize("fault", _FAULTS)
    async def test_what_is_no_answer_is_an_upstream_error(
        self, server: Loopback, ask: Ask, fault: str
    ) -> None:
        server.script(fault)

        error = await expect.failure(ask(self.given()), f"{fault!r} was taken for an answer")

        assert isinstance(error, UpstreamError)
        assert error.status >= 500, "what an upstream does wrong is not the client's fault"

    @pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504])
    async def test_a_status_of_400_or_more_is_raised_as_what_it_is(
        self, server: Loopback, ask: Ask, code: int
    ) -> None:
        server.script(status(code, {"error": {"message": "scripted"}}, "retry-after: 7"))

        error = await expect.failure(ask(self.given()), f"{code} was taken for an answer")

        assert isinstance(error, UpstreamError)
        assert error.said == code
        # A refusal of the gateway's own key is nothing that its client has done.
        assert (error.status >= 500) == (code >= 500 or code in (401, 403))
        if code in (429, 503):
            assert error.retry_after == 7, "tell how long the upstream asks to be left alone"

    @pytest.mark.parametrize("steps", [0, 1], ids=["before the headers", "after the headers"])
    async def test_silence_before_the_first_event_ends_in_time(
        self, server: Loopback, ask: Ask, steps: int
    ) -> None:
        server.script((*self.streams(*_WORDS)[:steps], Act.STALL))
        asked = asyncio.ensure_future(ask(self.given(stream=True), timeouts=_PATIENCE))
        await server.asked()
        await settled()

        Clock.running().advance(_PATIENCE.first_event + 1)

        assert (await expect.failure(asked, _SILENCE)).code == "first_byte_timeout"
        await _gone(server)

    async def test_silence_in_mid_stream_ends_in_time(self, server: Loopback, ask: Ask) -> None:
        server.script((*self.streams(*_WORDS)[:2], Act.STALL))
        reply = await ask(self.given(stream=True), timeouts=_PATIENCE)
        await anext(reply.events)
        reading = asyncio.ensure_future(expect.read(reply))
        await settled()

        Clock.running().advance(_PATIENCE.idle + 1)

        assert isinstance(await expect.failure(reading, _SILENCE), UpstreamError)
        await _gone(server)

    @pytest.mark.parametrize("end", _ENDS.values(), ids=_ENDS)
    async def test_a_stream_that_breaks_off_does_not_end_as_if_it_were_whole(
        self, server: Loopback, ask: Ask, end: Sequence[Step]
    ) -> None:
        server.script((*self.streams(*_WORDS)[:2], *end))
        reply = await ask(self.given(stream=True))

        error = await expect.failure(expect.read(reply), "it ended as if it were whole")

        assert isinstance(error, UpstreamError)

    # Connections

    @kinds.plain_and_streamed
    async def test_a_connection_is_used_again_after_a_whole_answer(
        self, server: Loopback, ask: Ask, kind: str
    ) -> None:
        operation, members = kinds.members_of(kind)
        server.script(self.streams(*_WORDS) if members else self.answers("hello"))

        for _ in range(3):
            await expect.read(await ask(self.given(operation, **members)))

        assert len(server.connections) == 1, "read an answer to its end before you close it"

    async def test_a_cancelled_call_frees_its_connection(self, server: Loopback, ask: Ask) -> None:
        server.script("never")
        asked = asyncio.ensure_future(ask(self.given()))
        await server.asked()

        asked.cancel()

        with pytest.raises(asyncio.CancelledError):
            await expect.soon(asked, "it goes on after it was cancelled")
        await _gone(server)

    # The forwarder itself

    async def test_it_opens_and_closes_twice(self, server: Loopback) -> None:
        server.script(self.answers("hello"))
        async with self.made(server.url) as forwarder:
            for _ in range(2):
                async with AsyncExitStack() as stack:
                    await expect.opened(stack, forwarder)
                    await expect.read(await self.asked(forwarder, self.given()))

    async def test_it_has_a_sentence_for_itself_and_each_option(self, server: Loopback) -> None:
        async with self.made(server.url) as forwarder:
            expect.sentences(type(forwarder))


async def _gone(server: Loopback) -> None:
    try:
        await server.closed(within=1)
    except TimeoutError:
        pytest.fail("nobody waits for it, and its connection is still open after a second")
