"""Who loses a race is let go at once: its connection closes, and what it used is recorded.

Both transports, on real sockets: aiohttp in the real command, httpx2 in the same application under
uvicorn. The goal is 100 ms; the limit asserted is a second, for machines that are busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    STREAM,
    Act,
    Behaviour,
    Pause,
    answers,
    chunk,
    event,
    head,
    status,
    streams,
)

from .course import KINDS, LIMIT, Answer, Course, Door, opened
from .serving import Note, post, wire

CONFIG = """
    server: {auth: none, attempts: 4}
    upstreams:
      slow: {forwarder: {openai: {base_url: "${UPSTREAM}/slow"}}}
      quick: {forwarder: {openai: {base_url: "${UPSTREAM}/quick"}}}
      third: {forwarder: {openai: {base_url: "${UPSTREAM}/third"}}}
    routes:
      race: {chain: [race], targets: [slow, quick]}
      hedge: {chain: [hedge: {after: 50ms, share: 1}], targets: [slow, quick]}
      groups: {chain: [race, fallback], targets: [[slow, third], [quick]]}
      narrow: {chain: [race: {width: 2}], targets: [slow, third, quick]}
      /race: {chain: [race], targets: [slow, quick]}
      /hedge: {chain: [hedge: {after: 50ms, share: 1}], targets: [slow, quick]}
    """
RACED = ("chat", "stream", "embedding", "passed")
"""What is asked of several at once; a POST that is passed through is not."""
BEGUN = (head(200, "content-type: application/json", "content-length: 99") + b"{", Act.STALL)
STALLS: Mapping[str, Mapping[str, Behaviour]] = {
    "nothing": dict.fromkeys(RACED, (Act.STALL,)),
    "half an answer": {
        "chat": BEGUN,
        "stream": (STREAM, chunk(event(EVENTS[0])), Act.STALL),
        "embedding": BEGUN,
    },
}
"""What the loser has said by then. Of what is passed through, who has begun to answer has won."""


@pytest.fixture(scope="module", params=["aiohttp", "httpx2"])
async def door(request: pytest.FixtureRequest, server: Loopback) -> AsyncIterator[Door]:
    async with opened(request.param, CONFIG, {"UPSTREAM": server.url}) as door:
        yield door


@pytest.fixture
def course(upstream: Loopback) -> Course:
    course = Course(upstream)
    upstream.script(course)
    return course


async def answer(door: Door, model: str, kind: str, request_id: str) -> Answer:
    """What the client gets, whole."""
    return await door.ask(KINDS[kind], model, f"x-request-id: {request_id}")


def good(kind: str, told: Answer) -> bool:
    """Whether it is a whole answer."""
    return told.status == 200 and KINDS[kind].is_whole(told.body)


@pytest.mark.parametrize(
    ("kind", "said"), [(kind, said) for said, kinds in STALLS.items() for kind in kinds]
)
@pytest.mark.parametrize("plugin", ["race", "hedge"])
async def test_the_loser_is_let_go(
    door: Door, course: Course, plugin: str, kind: str, said: str, record_property: Note
) -> None:
    course.acts = {"slow": STALLS[said][kind], "quick": course.after("slow", KINDS[kind].good)}
    name = f"{plugin}-{kind}-{said.replace(' ', '-')}"

    told, closed = await asyncio.gather(answer(door, plugin, kind, name), course.closed("slow"))

    record_property(f"{door.name}: {plugin}, {kind}, the loser said {said}", f"{closed} ms")
    assert good(kind, told)
    row = await door.row(name)
    outcomes = {attempt["upstream"]: attempt["outcome"] for attempt in row["attempts"]}
    assert outcomes == {"slow": "cancelled", "quick": "ok"}
    [raced] = row["races"]
    assert (raced["plugin"], raced["upstream"], raced["of"]) == (plugin, "quick", 2)
    assert raced["margin"] < LIMIT


@pytest.mark.parametrize("kind", RACED)
async def test_a_failure_never_wins(door: Door, course: Course, kind: str) -> None:
    course.acts = {
        "slow": course.after("quick", KINDS[kind].good),
        "quick": status(503, {"error": {"message": "busy"}}),
    }

    assert good(kind, await answer(door, "race", kind, f"failure-{kind}"))

    row = await door.row(f"failure-{kind}")
    assert row["upstream"] == "slow"


async def test_groups_race(door: Door, course: Course) -> None:
    course.acts = {
        "slow": status(500, {"error": {"message": "broken"}}),
        "third": (Act.STALL,),
        "quick": course.after("third", answers(COMPLETION)),
    }

    told, _ = await asyncio.gather(answer(door, "groups", "chat", "groups"), course.closed("third"))

    assert good("chat", told)
    row = await door.row("groups")
    outcomes = {attempt["upstream"]: attempt["outcome"] for attempt in row["attempts"]}
    assert outcomes == {"slow": "failed", "third": "cancelled", "quick": "ok"}


async def test_no_more_are_asked_at_once_than_the_width(door: Door, course: Course) -> None:
    course.acts = {
        "slow": (Act.STALL,),
        "third": course.after("slow", answers(COMPLETION)),
        "quick": answers(COMPLETION),
    }

    assert good("chat", await answer(door, "narrow", "chat", "narrow"))
    assert course.asked("quick") == []


@pytest.mark.parametrize("kind", RACED)
async def test_of_two_that_answer_at_once_one_goes_out_and_the_other_is_closed(
    door: Door, course: Course, kind: str
) -> None:
    course.acts = {"slow": KINDS[kind].good, "quick": KINDS[kind].good}
    names = [f"both-{kind}-{number}" for number in range(40)]

    told = await asyncio.gather(*(answer(door, "race", kind, name) for name in names))

    assert all(good(kind, each) for each in told)
    for name in names:
        row = await door.row(name)
        assert sorted(each["outcome"] for each in row["attempts"]) == ["cancelled", "ok"]
        assert row["outcome"] == "ok"


@pytest.mark.parametrize("kind", RACED)
async def test_a_client_that_leaves_ends_them_all(
    door: Door, course: Course, kind: str, record_property: Note
) -> None:
    course.acts = {"slow": (Act.STALL,), "quick": (Act.STALL,)}
    name = f"left-{kind}"
    async with wire(door.url) as client:
        await client.send(KINDS[kind].request("race", f"x-request-id: {name}"))
        await course.upstream.asked(2)

    course.decide()
    closed = [await course.closed(each) for each in ("slow", "quick")]

    record_property(f"{door.name}: the client of a {kind} leaves", f"{max(closed)} ms")
    row = await door.row(name)
    assert row["outcome"] == "client_closed"
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["cancelled"] * 2
    assert "races" not in row or row["races"] is None


async def test_a_stream_that_has_won_goes_on_to_its_end(door: Door, course: Course) -> None:
    words = [event({**EVENTS[1], "n": number}) for number in range(200)]
    course.acts = {
        "slow": (Act.STALL,),
        "quick": course.after("slow", streams(EVENTS[0], *words, EVENTS[3])),
    }

    told = await answer(door, "race", "stream", "to-the-end")

    assert told.body.count(b'"n":') == 200
    assert good("stream", told)


async def test_what_may_create_something_is_asked_of_one(door: Door, course: Course) -> None:
    course.acts = {"slow": (Pause(0.1), *answers({"id": "file-1"})), "quick": answers({})}
    async with wire(door.url) as client:
        await client.send(post("/race", b"{}"))
        assert b"file-1" in await client.rest()

    assert [len(course.asked(name)) for name in ("slow", "quick")] == [1, 0]
