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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import pytest

from headrace import registry, transport
from headrace.call import PASSTHROUGH, Call, Timeouts
from headrace.dialect import OPENAI
from headrace.errors import CallError, UpstreamError
from headrace.forwarder import Forwarder
from headrace.reply import Reply
from headrace.testing import asking, misbehaviour
from headrace.testing.asking import text
from headrace.testing.client import settled
from headrace.testing.clock import BACKEND, Clock
from headrace.testing.contracts import expect, headers, kinds
from headrace.testing.loopback import Loopback
from headrace.testing.misbehaviour import LAST_CHUNK, Act, Step, cut, delta, status, whole
from headrace.transport import Transport

Ask = Callable[..., Awaitable[Reply]]

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
class ForwarderContract:
    """Inherit from this and say how the forwarder is made, and what its upstream sends."""

    key: ClassVar[str | None] = "sk-own-1f0c9a"
    """The key that `make` gives the forwarder; None for one that takes none."""
    passes_through: ClassVar[bool] = True
    """Whether it takes calls that are passed through."""

    def make(self, url: str) -> Forwarder:
        """The forwarder, for a server at `url`, which has no path."""
        raise NotImplementedError("say how the forwarder is made: def make(self, url)")

    def make_transport(self) -> Transport:
        """What the forwarder gets from `Transport.of_server`."""
        return transport.best()

    def answers(self, text: str, *lines: str) -> tuple[Step, ...]:
        """A whole answer to a chat that says `text`, with these header lines."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return misbehaviour.answers({"model": "m", "choices": [choice]}, *lines)

    def streams(self, *words: str) -> tuple[Step, ...]:
        """A stream that says `words`: its head, a step for each word, and what ends it."""
        return misbehaviour.streams(*(delta(content=word) for word in words), delta("stop"))

    def given(self, operation: str = "chat", **members: Any) -> Call:
        """A call that the upstream can answer."""
        return asking.call(operation, **members)

    # What the tests stand on

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, Mapping[str, Any]]:
        """A loop whose clock can be turned."""
        return BACKEND

    @pytest.fixture
    async def server(self) -> AsyncIterator[Loopback]:
        """The upstream."""
        async with Loopback() as server:
            yield server

    @pytest.fixture
    async def elsewhere(self) -> AsyncIterator[Loopback]:
        """A server that nobody named in a configuration."""
        async with Loopback() as server:
            yield server

    @pytest.fixture
    async def ask(self, server: Loopback) -> AsyncIterator[Ask]:
        """Asks the forwarder, in front of `server`."""
        async with self.opened(server.url) as forwarder:
            yield partial(self.asked, forwarder)

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[Forwarder]:
        """A new forwarder with a transport of its own, open."""
        through = self.make_transport()
        token = transport.being_built.set(through)
        try:
            forwarder = self.make(url)
        finally:
            transport.being_built.reset(token)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(through.aclose)
            await expect.opened(stack, forwarder)
            yield forwarder

    async def asked(self, forwarder: Forwarder, call: Call, **options: Any) -> Reply:
        """The reply of an attempt through what the forwarder brings."""
        brought = tuple(
            registry.named("plugins", name)(**written)
            for each in getattr(forwarder, "brings", ())
            for name, written in each.items()
        )
        secrets = (self.key,) if self.key else ()
        return await asking.ask(
            upstream=forwarder, call=call, brought=brought, secrets=secrets, **options
        )

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
        assert error.retry_after == (7 if code in (429, 503) else error.retry_after)

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

    # What must not cross

    @pytest.mark.parametrize("operation", ["chat", PASSTHROUGH])
    async def test_only_listed_headers_reach_the_upstream(
        self, server: Loopback, ask: Ask, operation: str
    ) -> None:
        server.script(self.answers("hello"))
        private = (*headers.CREDENTIALS, *headers.IDENTITY, *headers.HOP_BY_HOP, *headers.OTHERS)
        sent = headers.marked((*private, *headers.CROSSING))
        sent["connection"] = "keep-alive, x-named-by-connection"

        if operation == "chat" or self.passes_through:
            await expect.read(await ask(self.given(operation, headers=sent)))

        for received in server.requests:
            seen = headers.crossed(received.headers)
            assert seen <= set(headers.CROSSING), "these are between the client and the gateway"
            names = {name.lower() for name, _ in received.headers}
            assert not names & {*headers.IDENTITY, "te", "upgrade", "x-named-by-connection"}

    async def test_only_listed_headers_come_back(self, server: Loopback, ask: Ask) -> None:
        private = (*headers.IDENTITY, *headers.HOP_BY_HOP, *headers.OTHERS)
        lines = [f"{name}: {value}" for name, value in headers.marked(private).items()]
        lines += ["connection: x-named-by-connection", "x-ratelimit-limit-requests: 60"]
        server.script(self.answers("hello", *lines), status(429, {}, *lines))

        reply = await ask(self.given())
        await expect.read(reply)
        error = await expect.failure(ask(self.given()), "429 was taken for an answer")

        for returned in (reply.headers, error.headers):
            others = {n for n in returned if not n.startswith(("openai-", "x-ratelimit-"))}
            assert others <= set(headers.RETURNING), "these are the upstream's own business"

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_not_followed(
        self, server: Loopback, elsewhere: Loopback, ask: Ask, code: int
    ) -> None:
        server.script(status(code, b"", f"location: {elsewhere.url}/v1/chat/completions"))

        error = await expect.failure(ask(self.given()), "a redirect was taken for an answer")

        assert isinstance(error, UpstreamError)
        assert error.status >= 500
        assert len(server.requests) == 1
        assert not elsewhere.connections, "it asked where the redirect led"

    async def test_nothing_that_a_client_sends_leads_elsewhere(
        self, server: Loopback, elsewhere: Loopback, ask: Ask
    ) -> None:
        server.script(self.answers("hello"))
        away = elsewhere.url.removeprefix("http:")
        names = ("base_url", "api_base", "endpoint", "proxy", "fallbacks")
        calls = [self.given(**dict.fromkeys(names, elsewhere.url))]
        for path in (f"{away}/v1", f"@{away[2:]}/v1", f"http:{away}/v1", f"\\\\{away[2:]}"):
            calls.append(self.given(PASSTHROUGH).replace(path=path))

        for call in calls:
            with suppress(CallError):
                await expect.read(await ask(call))

        assert not elsewhere.connections, "a client has chosen where the gateway's key goes"

    async def test_its_key_goes_to_its_server_in_a_header_and_is_shown_nowhere(
        self, server: Loopback, ask: Ask
    ) -> None:
        if not self.key:
            pytest.skip("it takes no key")
        server.script(self.answers("hello"))

        await expect.read(await ask(self.given()))

        [received] = server.requests
        assert any(self.key in value for _, value in received.headers), "the key is not sent"
        assert self.key not in received.target, "a URL is logged everywhere; send it in a header"
        assert self.key.encode() not in received.body
        async with self.opened(server.url) as forwarder:
            assert self.key not in repr(forwarder), "let the option be a `headrace.Secret`"

    async def test_a_key_that_the_upstream_repeats_is_not_told(
        self, server: Loopback, ask: Ask
    ) -> None:
        if not self.key:
            pytest.skip("it takes no key")
        said = dict.fromkeys(("message", "type", "param", "code"), f"no such key: {self.key}")
        server.script(status(400, {"error": said}, f"openai-organization: {self.key}"))

        error = await expect.failure(ask(self.given()), "400 was taken for an answer")

        assert self.key not in f"{error} {error!r} {vars(error)}"

    # The forwarder itself

    async def test_it_opens_and_closes_twice(self, server: Loopback) -> None:
        server.script(self.answers("hello"))
        async with self.opened(server.url) as forwarder:
            await expect.read(await self.asked(forwarder, self.given()))
        async with AsyncExitStack() as stack:
            await expect.opened(stack, forwarder)
            await expect.read(await self.asked(forwarder, self.given()))

    async def test_it_has_a_sentence_for_itself_and_each_option(self, server: Loopback) -> None:
        async with self.opened(server.url) as forwarder:
            expect.sentences(type(forwarder))


async def _gone(server: Loopback) -> None:
    try:
        await server.closed(within=1)
    except TimeoutError:
        pytest.fail("nobody waits for it, and its connection is still open after a second")
