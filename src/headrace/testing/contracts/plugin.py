"""What every plugin must keep.

    class TestShout(PluginContract):
        plugin = Shout(exclaim=True)

    class TestApiKey(PluginContract):
        plugin = ApiKey(keys={sha256("sk-ann"): "ann"})
        headers = {"authorization": "Bearer sk-ann"}        # so that it lets the calls pass

Each test sends a call through the plugin to a scripted upstream. Where your plugin means to do
otherwise, override that test and say why.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import orjson
import pytest

from headrace.call import PASSTHROUGH, Call, Outgoing
from headrace.chain import Next, Plugin
from headrace.dialect import OPENAI
from headrace.edge import Edge
from headrace.errors import BadRequest, CallError, UpstreamError
from headrace.reply import Reply
from headrace.testing import asking
from headrace.testing.client import Client, settled
from headrace.testing.clock import BACKEND, Clock
from headrace.testing.contracts import expect, kinds
from headrace.testing.script import Upstream, breaks, silent, stalls
from headrace.transport.inprocess import Visit

UNKNOWN = (b'"x_number": 1.10', b'"x_big":12345678901234567890123', b'"x_deep" : {"b": [1, {}] }')

_LET_PASS = "no call reached the upstream; say what the plugin lets pass: `headers`, or `given`"
_ONE_BY_ONE = "pass each event on as it comes, by `reply.through` or `reply.watch`"


@pytest.mark.anyio
class PluginContract:
    """Inherit from this and say which plugin it is about: `plugin`, or `make`."""

    plugin: ClassVar[Plugin]
    """The plugin. Each test gets a copy, so that none meets what another has left behind."""
    headers: ClassVar[Mapping[str, str]] = {}
    """What a client sends to be let in."""
    uses_sockets: ClassVar[bool] = False
    """Whether the plugin asks a server of its own; if not, waiting takes no time here."""

    def make(self) -> Plugin:
        """A new plugin, with nothing opened."""
        return copy.deepcopy(self.plugin)

    def given(self, operation: str = "chat", **members: Any) -> Call:
        """A call that the plugin lets pass, with these members in its body, or with this `body`."""
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
        Clock.running().jumps = not self.uses_sockets
        plugin = self.make()
        async with AsyncExitStack() as stack:
            await expect.opened(stack, plugin)
            yield plugin

    @pytest.fixture
    def upstream(self) -> Upstream:
        """Who answers the calls that come through."""
        upstream = Upstream()
        upstream.script(kinds.answers)
        return upstream

    def call_of(self, kind: str) -> Call:
        """A call of this kind."""
        operation, members = kinds.members_of(kind)
        return self.given(operation, **members)

    def over_http(self, plugin: Plugin, upstream: Upstream, given: Call) -> Visit:
        """The same call from a client that can leave."""

        async def answer(call: Call) -> Reply:
            call = call.replace(targets=given.targets, caller=given.caller, facts=given.facts)
            return await asking.ask(plugin, upstream=upstream, call=call)

        headers = {"content-type": "application/json", **dict(given.headers)}
        client = Client(Edge(answer, name="contract"), headers=headers)
        return client.ask(given.method, given.path, body=given.body)

    # The call

    @kinds.every
    async def test_it_lets_every_kind_of_call_pass(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        reply = await asking.ask(under_test, upstream=upstream, call=self.call_of(kind))
        framing, events = reply.framing, await expect.read(reply)

        assert upstream.calls, _LET_PASS
        if kind == PASSTHROUGH:
            assert upstream.calls[0].body == kinds.BINARY, (
                "leave the body of a passthrough call alone"
            )
            assert b"".join(event.raw for event in events) == kinds.BINARY, (
                "leave its reply alone, too"
            )
        elif kind in kinds.STREAMED:
            assert framing == "sse"
            assert any(map(OPENAI.is_output, events)), "nothing was said"
            assert OPENAI.is_end(events[-1]), (
                "the stream has lost its end; change a reply with `through`, `watch` and "
                "`on_close`, and return the same one: what is not returned is closed"
            )
        else:
            assert framing == "json"
            value = orjson.loads(b"".join(event.raw for event in events))
            assert OPENAI.check(kind, value), f"this is no answer to a {kind} call: {value}"

    @kinds.with_json
    async def test_unknown_members_stay_byte_for_byte(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        known = self.call_of(kind).body.removesuffix(b"}")
        given = self.call_of(kind).replace(body=b",\n ".join([known, *UNKNOWN]) + b"}")

        await expect.read(await asking.ask(under_test, upstream=upstream, call=given))

        assert upstream.calls, _LET_PASS
        for member in UNKNOWN:
            assert member in upstream.calls[0].body, (
                f"the client sent {member!r}, but the upstream got {upstream.calls[0].body!r}; "
                "`call.edit(member=value)` leaves all other members as they came"
            )

    @kinds.every
    async def test_the_call_it_was_given_stays_as_it_was(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        given = self.call_of(kind).telling(Outgoing({"x-told": "above"}))
        before = expect.looked_at(given)

        await expect.read(await asking.ask(under_test, upstream=upstream, call=given))

        for name, value in expect.looked_at(given).items():
            assert value == before[name], (
                f"the plugin changed `call.{name}`, which others are still to send; pass on a "
                "changed copy: `call.edit`, `call.replace`, `call.telling`"
            )

    # The reply

    @kinds.with_events
    async def test_events_pass_one_by_one(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        more = asyncio.Semaphore(1)
        upstream.script(kinds.saying([b"one ", b"two ", b"three "], more))
        asked = asking.ask(under_test, upstream=upstream, call=self.call_of(kind))

        reply = await expect.soon(asked, f"no reply came with the first event; {_ONE_BY_ONE}")
        for nth in ("first", "second", "third"):
            await expect.soon(
                anext(reply.events), f"the {nth} event waits for others; {_ONE_BY_ONE}"
            )
            more.release()
        await reply.aclose()

    @kinds.every
    async def test_the_upstream_is_closed_at_the_end(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        await expect.read(await asking.ask(under_test, upstream=upstream, call=self.call_of(kind)))

        expect.closed_once(upstream)

    @kinds.streamed
    async def test_a_failure_in_mid_stream_reaches_the_client_and_closes_the_upstream(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        upstream.script(breaks("hello"))
        reply = await asking.ask(under_test, upstream=upstream, call=self.call_of(kind))

        error = await expect.failure(
            expect.read(reply), "the stream broke, and the client is not told"
        )

        assert error.code == "upstream_truncated"
        expect.closed_once(upstream)

    @kinds.plain_and_streamed
    async def test_a_client_that_leaves_while_it_waits_cancels_the_upstream(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        upstream.script(silent())
        visit = self.over_http(under_test, upstream, self.call_of(kind))
        await expect.soon(upstream.began.wait(), _LET_PASS)

        visit.leave()
        await expect.soon(visit.task, "the client has left, and the plugin goes on")
        await settled()

        assert upstream.cancelled == len(upstream.asked), "an upstream works on for nobody"
        expect.closed_once(upstream)

    @kinds.streamed
    async def test_a_client_that_leaves_in_mid_stream_closes_the_upstream(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        upstream.script(stalls("hello"))
        visit = self.over_http(under_test, upstream, self.call_of(kind))
        await expect.soon(visit.start(), _ONE_BY_ONE)
        await expect.soon(anext(visit.chunks()), _ONE_BY_ONE)

        visit.leave()
        await expect.soon(visit.task, "the client has left, and the plugin goes on")
        await settled()

        expect.closed_once(upstream)

    @kinds.plain_and_streamed
    async def test_a_reply_that_another_plugin_drops_closes_the_upstream(
        self, under_test: Plugin, upstream: Upstream, kind: str
    ) -> None:
        async def dropping(call: Call, call_next: Next) -> Reply:
            await call_next(call)
            return Reply.plain({"choices": []})

        await asking.ask(dropping, under_test, upstream=upstream, call=self.call_of(kind))

        expect.closed_once(upstream)

    @pytest.mark.parametrize(
        "fail",
        [
            lambda: BadRequest("'n' must be 1, found 2", code="invalid_value", param="n"),
            lambda: UpstreamError.refused(422, b'{"error": {"message": "no such voice"}}'),
            lambda: UpstreamError.refused(503, b"busy", retry_after=1),
        ],
        ids=["bad request", "422", "503"],
    )
    async def test_failures_pass_unharmed(
        self, under_test: Plugin, upstream: Upstream, fail: Callable[[], CallError]
    ) -> None:
        async def failing(upstream: Upstream, call: Call) -> Reply:
            raise fail()

        upstream.script(failing)
        asked = asking.ask(under_test, upstream=upstream, call=self.given())

        error = await expect.failure(asked, "an upstream failed, and the client is not told")

        assert expect.told(error) == expect.told(fail()), (
            "the client is told something else than what happened"
        )

    # The plugin itself

    async def test_it_opens_and_closes_twice_and_works_each_time(self, upstream: Upstream) -> None:
        Clock.running().jumps = not self.uses_sockets
        plugin = self.make()
        for _ in range(2):
            async with AsyncExitStack() as stack:
                await expect.opened(stack, plugin)
                reply = await asking.ask(plugin, upstream=upstream, call=self.given())
                assert await expect.read(reply), (
                    "it has no answer once it was closed and opened again"
                )

    def test_it_has_a_sentence_for_itself_and_each_option(self) -> None:
        expect.sentences(type(self.make()))
