"""Replies: changed in place, closed once, from the inside out, to the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from headrace import Call, Event, Next, Reply, until_closed
from headrace.testing import call


class Story:
    """A reply of two events that writes down what happens to it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def events(self) -> AsyncIterator[Event]:
        try:
            yield Event(b"one")
            yield Event(b"two")
        finally:
            self.told.append("source")

    def reply(self) -> Reply:
        return Reply(self.events()).on_close(self.closer("inner"))

    def closer(self, name: str):  # type: ignore[no-untyped-def]
        async def close(error: BaseException | None) -> None:
            self.told.append(f"{name} {error!r}")

        return close


async def test_closers_run_once_from_the_inside_out() -> None:
    story = Story()
    reply = story.reply().on_close(story.closer("outer"))
    await anext(reply.events)

    await reply.aclose()
    await reply.aclose()

    assert story.told == ["source", "inner None", "outer None"]


async def test_a_closer_that_fails_does_not_keep_the_next_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = Story()

    async def fails(error: BaseException | None) -> None:
        raise RuntimeError("no")

    reply = Reply(story.events()).on_close(fails).on_close(story.closer("outer"))
    await reply.aclose()

    assert story.told == ["outer None"]
    assert "closing a reply failed" in caplog.text


async def test_closing_goes_on_to_the_end_when_its_task_is_cancelled() -> None:
    story = Story()
    reached = asyncio.Event()
    release = asyncio.Event()

    async def slow(error: BaseException | None) -> None:
        reached.set()
        await release.wait()

    reply = Reply(story.events()).on_close(slow).on_close(story.closer("outer"))
    closing = asyncio.ensure_future(reply.aclose())
    await reached.wait()
    closing.cancel()
    closing.cancel()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await closing
    assert story.told == ["outer None"]


async def test_what_watches_sees_every_event_and_changes_none() -> None:
    seen: list[bytes] = []
    reply = Story().reply().watch(lambda event: seen.append(event.raw))

    assert [event.raw async for event in reply.events] == seen == [b"one", b"two"]
    await reply.aclose()


class Holding:
    """Holds something until the reply is closed."""

    def __init__(self, story: Story) -> None:
        self.story = story

    @until_closed
    async def __call__(self, call: Call, call_next: Next) -> AsyncIterator[Reply]:
        try:
            yield await call_next(call)
        except ValueError:
            self.story.told.append("failed")
            raise
        finally:
            self.story.told.append("released")


@pytest.mark.parametrize(
    ("error", "told"), [(None, ["released"]), (ValueError(), ["failed", "released"])]
)
async def test_a_frame_held_open_goes_on_when_its_reply_is_closed(
    error: ValueError | None, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()

    async def answer(call: Call) -> Reply:
        return Reply(Story().events())

    caplog.set_level(logging.ERROR)
    reply = await Holding(story)(call(), answer)
    assert story.told == []
    await reply.aclose(error)

    assert story.told == told
    assert not caplog.records
