"""What every plugin must keep.

    class TestShout(PluginContract):
        plugin = Shout(exclaim=True)

    class TestApiKey(PluginContract):
        plugin = ApiKey(keys={sha256("sk-ann"): "ann"})
        headers = {"authorization": "Bearer sk-ann"}        # so that it lets the calls pass

Each test is a call through the plugin to a scripted upstream. Where your plugin means to do
otherwise, override that test and say why.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import orjson
import pytest

from headrace.call import PASSTHROUGH, Call, Outgoing, Timeouts
from headrace.chain import Next, Plugin
from headrace.dialect import OPENAI
from headrace.edge import Edge
from headrace.errors import BadRequest, CallError, UpstreamError
from headrace.reply import Event, Reply
from headrace.testing import asking
from headrace.testing.client import Client, settled
from headrace.testing.clock import BACKEND, clock
from headrace.testing.contracts.expect import failure, opened, read, sentences, soon
from headrace.testing.script import Act, Upstream, breaks, chunk, says, silent, stalls
from headrace.transport.inprocess import Visit

PLAIN: Sequence[tuple[str, bool]] = (("chat", False), ("completion", False), ("embedding", False))
STREAMED: Sequence[tuple[str, bool]] = (("chat", True), ("completion", True))
PASSED: Sequence[tuple[str, bool]] = ((PASSTHROUGH, False),)

BINARY = b"--form\r\n\x00\xff\xfe no JSON \r\n--form--\r\n"
UNKNOWN = (b'"x_number": 1.10', b'"x_big":12345678901234567890123', b'"x_deep" : {"b": [1, {}] }')

every_shape = pytest.mark.parametrize(("operation", "stream"), (*PLAIN, *STREAMED, *PASSED))
every_json = pytest.mark.parametrize(("operation", "stream"), (*PLAIN, *STREAMED))
every_stream = pytest.mark.parametrize(("operation", "stream"), (*STREAMED, *PASSED))
plain_and_stream = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@pytest.mark.anyio
class PluginContract:
    """Inherit from this and say which plugin it is about: `plugin`, or `make`."""

    plugin: ClassVar[Plugin]
    """The plugin. Each test gets a copy, so that none meets what another has left behind."""
    headers: ClassVar[Mapping[str, str]] = {}
    """What a client sends to be let in."""
    waits_for_sockets: ClassVar[bool] = False
    """Whether the plugin talks to a server of its own; if not, waiting takes no time here."""

    def make(self) -> Plugin:
        """A new plugin, with nothing opened."""
        return copy.deepcopy(self.plugin)

    def given(self, operation: str = "chat", **members: Any) -> Call:
        """A call that the plugin lets pass, with these members in its body or with `body`."""
        headers = dict(self.headers)
        return asking.call(operation, targets=("a", "b"), headers=headers, **members)

    # What the tests stand on

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, Mapping[str, Any]]:
        """A loop whose clock can be turned."""
        return BACKEND

    @pytest.fixture
    async def under_test(self) -> AsyncIterator[Plugin]:
        """The plugin, opened."""
        clock().jumps = not self.waits_for_sockets
        plugin = self.make()
        async with AsyncExitStack() as stack:
            await opened(stack, plugin)
            yield plugin

    @pytest.fixture
    def upstream(self) -> Upstream:
        """Who answers the calls that come through."""
        return Upstream()

    def shaped(self, operation: str, stream: bool) -> Call:
        """A call of this shape."""
        if operation == PASSTHROUGH:
            return self.given(operation, body=BINARY)
        return self.given(operation, **({"stream": True} if stream else {}))

    def over_http(self, plugin: Plugin, upstream: Upstream, given: Call) -> Visit:
        """The same call from a client that can leave."""

        async def answer(call: Call) -> Reply:
            call = call.replace(targets=given.targets, caller=given.caller, facts=given.facts)
            return await asking.ask(plugin, upstream=upstream, call=call)

        client = Client(Edge(answer, name="contract"), headers=dict(given.headers))
        return client.ask(given.method, given.path, body=given.body)

    # The call

    @every_shape
    async def test_it_lets_every_kind_of_call_pass(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        upstream.script(passes(BINARY) if operation == PASSTHROUGH else says("hello ", "world"))
        given = self.shaped(operation, stream)

        reply = await asking.ask(under_test, upstream=upstream, call=given)
        framing, events = reply.framing, await read(reply)

        assert upstream.calls, LET_PASS
        if operation == PASSTHROUGH:
            assert upstream.calls[0].body == BINARY, "nobody reads a passthrough call, so leave it"
            assert b"".join(event.raw for event in events) == BINARY, "the same goes for its reply"
        elif stream:
            assert framing == "sse"
            assert any(map(OPENAI.is_output, events)), "nothing was said"
            assert events[-1:] and OPENAI.is_end(events[-1]), (
                "the stream has lost its end; change a reply with `through`, `watch` and "
                "`on_close`, and return the same one: a reply that is not returned is closed"
            )
        else:
            assert framing == "json"
            value = orjson.loads(b"".join(event.raw for event in events))
            assert OPENAI.check(operation, value), f"this is no answer to {operation}: {value}"

    @every_json
    async def test_unknown_members_stay_byte_for_byte(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        known = self.shaped(operation, stream).body.removesuffix(b"}")
        given = self.given(operation, body=b",\n ".join([known, *UNKNOWN]) + b"}")

        await read(await asking.ask(under_test, upstream=upstream, call=given))

        assert upstream.calls, LET_PASS
        for member in UNKNOWN:
            assert member in upstream.calls[0].body, (
                f"the client sent {member!r}, but the upstream got {upstream.calls[0].body!r}; "
                "`call.edit(member=value)` leaves all other members as they came"
            )

    @every_shape
    async def test_the_call_it_was_given_stays_as_it_was(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        given = self.shaped(operation, stream)
        given = given.telling(Outgoing({"x-told": "above"})).telling(Timeouts(idle=7))
        before = looked_at(given)

        await read(await asking.ask(under_test, upstream=upstream, call=given))

        for name, value in looked_at(given).items():
            assert value == before[name], (
                f"the plugin changed `call.{name}`, which others are still to send; pass on a "
                "changed copy: `call.edit`, `call.replace`, `call.telling`"
            )

    # The reply

    @every_stream
    async def test_events_pass_one_by_one(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        words, more = ("one ", "two ", "three "), asyncio.Semaphore(1)
        upstream.script(paced(words, more))
        asked = asking.ask(under_test, upstream=upstream, call=self.shaped(operation, stream))

        reply = await soon(asked, f"no reply came with the first event; {ONE_BY_ONE}")
        for word in words:
            await soon(
                anext(reply.events), f"the event of {word!r} waits for the next; {ONE_BY_ONE}"
            )
            more.release()
        await reply.aclose()

    @every_shape
    async def test_the_upstream_is_closed_at_the_end(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        await read(
            await asking.ask(under_test, upstream=upstream, call=self.shaped(operation, stream))
        )

        closed_once(upstream)

    @pytest.mark.parametrize(("operation", "stream"), STREAMED)
    async def test_a_failure_in_mid_stream_reaches_the_client_and_closes_the_upstream(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        upstream.script(breaks("hello"))
        call = self.shaped(operation, stream)
        reply = await asking.ask(under_test, upstream=upstream, call=call)

        error = await failure(read(reply), "the stream broke, and the client is not told")

        assert error.code == "upstream_truncated"
        closed_once(upstream)

    @plain_and_stream
    async def test_a_client_that_leaves_while_it_waits_cancels_the_upstream(
        self, under_test: Plugin, upstream: Upstream, stream: bool
    ) -> None:
        upstream.script(silent())
        visit = self.over_http(under_test, upstream, self.shaped("chat", stream))
        await soon(upstream.began.wait(), LET_PASS)

        visit.leave()
        await soon(visit.task, "the client has left, and the plugin goes on")
        await settled()

        assert upstream.cancelled == len(upstream.asked), "an upstream works on for nobody"
        closed_once(upstream)

    @pytest.mark.parametrize(("operation", "stream"), STREAMED)
    async def test_a_client_that_leaves_in_mid_stream_closes_the_upstream(
        self, under_test: Plugin, upstream: Upstream, operation: str, stream: bool
    ) -> None:
        upstream.script(stalls("hello"))
        visit = self.over_http(under_test, upstream, self.shaped(operation, stream))
        await soon(visit.start(), ONE_BY_ONE)
        await soon(anext(visit.chunks()), ONE_BY_ONE)

        visit.leave()
        await soon(visit.task, "the client has left, and the plugin goes on")
        await settled()

        closed_once(upstream)

    @plain_and_stream
    async def test_a_reply_that_another_plugin_drops_closes_the_upstream(
        self, under_test: Plugin, upstream: Upstream, stream: bool
    ) -> None:
        call = self.shaped("chat", stream)

        await asking.ask(dropping, under_test, upstream=upstream, call=call)

        closed_once(upstream)

    @pytest.mark.parametrize(
        "error",
        [
            BadRequest("'n' must be 1, found 2", code="invalid_value", param="n"),
            UpstreamError.refused(422, b'{"error": {"message": "no such voice"}}'),
            UpstreamError.refused(503, b"busy", retry_after=1),
        ],
        ids=["bad request", "422", "503"],
    )
    async def test_failures_pass_unharmed(
        self, under_test: Plugin, upstream: Upstream, error: CallError
    ) -> None:
        expected = told(error)
        upstream.script(raises(error))
        asked = asking.ask(under_test, upstream=upstream, call=self.given())

        error = await failure(asked, "an upstream failed, and the client is not told")

        assert told(error) == expected, "the client is told something else than what happened"

    # The plugin itself

    async def test_it_opens_and_closes_twice_and_works_each_time(self, upstream: Upstream) -> None:
        clock().jumps = not self.waits_for_sockets
        plugin = self.make()
        for _ in range(2):
            async with AsyncExitStack() as stack:
                await opened(stack, plugin)
                reply = await asking.ask(plugin, upstream=upstream, call=self.given())
                assert await read(reply), "it does not answer after it was closed and opened again"

    def test_it_has_a_sentence_for_itself_and_each_option(self) -> None:
        sentences(type(self.make()))


LET_PASS = "no call reached the upstream; give calls that the plugin lets pass: `headers`, `given`"
ONE_BY_ONE = "pass each event on as it comes, by `reply.through` or `reply.watch`"


def closed_once(upstream: Upstream) -> None:
    """Every reply of the upstream is closed, and none of them twice."""
    assert upstream.open <= 0, (
        f"the upstream still has {upstream.open} open: a reply that was asked for is to be "
        "returned, or the plugin lets it be closed by ending"
    )
    assert upstream.open == 0, "a reply was closed more than once"


def looked_at(call: Call) -> dict[str, Any]:
    """What a plugin could have changed in a call that it was given."""
    return {
        "body": call.body,
        "headers": list(call.headers.raw),
        "json": None if call.operation == PASSTHROUGH else copy.deepcopy(call.json),
        "facts": copy.deepcopy(call.facts),
        "targets": call.targets,
    }


def told(error: CallError) -> dict[str, Any]:
    """What a client is told of an error."""
    names = ("status", "type", "code", "param", "message")
    return {"kind": type(error).__name__, **{name: getattr(error, name) for name in names}}


async def dropping(call: Call, call_next: Next) -> Reply:
    """A plugin that asks, and then answers something else."""
    await call_next(call)
    return Reply.plain({"choices": []})


def passes(body: bytes) -> Act:
    """A body that is no JSON, in two pieces."""
    return paced((body[:9], body[9:]), asyncio.Semaphore(2))


def paced(pieces: Sequence[str | bytes], more: asyncio.Semaphore) -> Act:
    """A reply that goes on with a word, or with bytes of a passthrough, each time it may."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        raw = call.operation == PASSTHROUGH

        async def events() -> AsyncIterator[Event]:
            for piece in pieces:
                await more.acquire()
                if isinstance(piece, bytes) or raw:
                    yield Event(piece if isinstance(piece, bytes) else piece.encode())
                else:
                    yield Event.saying(chunk(content=piece), "sse")

        return Reply(events(), framing="raw" if raw else "sse")

    return act


def raises(error: CallError) -> Act:
    """A failure."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        raise error

    return act
