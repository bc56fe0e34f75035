"""Storms of failures: upstreams are asked little more often than clients ask, and come back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import COMPLETION, EVENTS, Act, answers, status, streams

from .course import Answer
from .serving import Note, Served, chat, eventually, post, serving, wire

CONFIG = """
    server:
      timeouts: {connect: 400ms, first_event: 1s, idle: 1s, total: 2s}
    upstreams:
      first:
        forwarder: {openai: {base_url: "${FIRST}/v1"}}
        models: [m]
        plugins: ${PLUGINS}
      second:
        forwarder: {openai: {base_url: "${SECOND}/v1"}}
        models: [m]
        plugins: ${PLUGINS}
    routes: {m: {chain: [fallback], targets: [first, second]}}
    """
RETRY = "retry: {attempts: 2, wait: 20ms}"
RATE = 200
ILL = status(500, {"error": {"message": "out of memory"}})
WELL = answers(COMPLETION)


@dataclass
class Storm:
    """A gateway and the two upstreams behind it."""

    gateway: Served
    first: Loopback
    second: Loopback

    @property
    def attempts(self) -> int:
        """How many requests the upstreams have got."""
        return len(self.first.requests) + len(self.second.requests)

    async def ask(self, **members: Any) -> Answer:
        """One call."""
        async with wire(self.gateway.url) as client:
            await client.send(post("/v1/chat/completions", chat(**members)))
            return Answer.of(await client.rest(within=20))

    async def asked(self, count: int, **members: Any) -> list[Answer]:
        """So many calls, about two hundred a second, whether they are answered or not."""
        asking = []
        for _ in range(count):
            asking.append(asyncio.ensure_future(self.ask(**members)))
            await asyncio.sleep(1 / RATE)
        return await asyncio.gather(*asking)

    async def until(self, true: Callable[[Answer], bool]) -> list[Answer]:
        """Calls, one after the other, until the answer to one is as wanted; all answers."""
        answers = [await self.ask()]
        async with asyncio.timeout(10):
            while not true(answers[-1]):
                answers.append(await self.ask())
        return answers

    def said(self, words: str, upstream: str = "first") -> int:
        """How often the gateway has said this of an upstream."""
        return sum(words in line and f"upstream {upstream}" in line for line in self.gateway.said)


@asynccontextmanager
async def raging(plugins: str, **environ: str) -> AsyncIterator[Storm]:
    """A gateway that knows nothing yet of two upstreams."""
    async with Loopback() as first, Loopback() as second:
        urls = {"FIRST": first.url, "SECOND": second.url, **environ}
        async with serving(CONFIG.replace("${PLUGINS}", plugins), **urls) as gateway:
            yield Storm(gateway, first, second)


async def test_a_storm_of_failures_is_not_multiplied(record_property: Note) -> None:
    async with raging(f"[{RETRY}]") as storm:
        storm.first.script(WELL)
        await storm.asked(50)
        storm.first.requests.clear()
        storm.first.script(ILL)
        storm.second.script(ILL)

        answers = await storm.asked(400)

        record_property("attempts per call, retry and fallback", storm.attempts / len(answers))
        tried = 5  # each upstream may be, every three seconds, whatever is left
        assert storm.attempts <= 1.2 * len(answers) + 3 + tried
        assert max(answer.attempts for answer in answers) <= 3
        assert {answer.status for answer in answers} == {502}


async def test_both_break_within_five_failures_and_clients_are_told_from_memory(
    record_property: Note,
) -> None:
    async with raging(f"[{RETRY}, breaker: {{cooldown: 1m}}]") as storm:
        storm.first.script(ILL)
        storm.second.script(ILL)

        await storm.until(lambda answer: answer.attempts == 0)
        assert (len(storm.first.requests), len(storm.second.requests)) == (5, 5)

        answers = await storm.asked(200)
        assert storm.attempts == 10
        assert {(a.status, a.code, a.attempts) for a in answers} == {(503, "upstream_resting", 0)}
        assert all(30 <= int(answer.headers["retry-after"]) <= 60 for answer in answers)
        took = sorted(float(answer.headers["x-headrace-overhead-ms"]) for answer in answers)
        record_property("99 of 100 are told from memory within", f"{took[197]} ms")


async def test_through_a_storm_one_call_a_cool_down_probes(record_property: Note) -> None:
    async with raging(f"[{RETRY}, breaker: {{cooldown: 1s, longest: 1s}}]") as storm:
        storm.first.script(ILL)
        storm.second.script(ILL)

        began = asyncio.get_running_loop().time()
        answers = await storm.asked(400)
        took = asyncio.get_running_loop().time() - began

        record_property("attempts per call, with breakers", storm.attempts / len(answers))
        probes = took / 0.75 + 1
        for upstream in (storm.first, storm.second):
            # Those that were under way when it broke have been sent, too.
            assert 6 <= len(upstream.requests) <= 5 + 50 + probes
        assert storm.attempts <= 1.2 * len(answers)
        assert max(answer.attempts for answer in answers) <= 3

        storm.first.script(WELL)
        answers = await storm.until(lambda answer: answer.status == 200)
        assert answers[-1].upstream == "first"
        assert {answer.status for answer in await storm.asked(50)} == {200}


async def test_of_two_the_one_that_is_well_answers_and_the_other_comes_back(
    record_property: Note,
) -> None:
    async with raging(f"[{RETRY}, breaker: {{cooldown: 1s, longest: 1s}}]") as storm:
        storm.first.script(*[WELL, ILL, ILL] * 200)
        storm.second.script(WELL)

        answers = await storm.asked(500)
        well = sum(answer.status == 200 for answer in answers)
        record_property("answered in a brownout", f"{well} of {len(answers)}")
        late = answers[2 * RATE :]
        assert sum(answer.status == 200 for answer in late) >= 0.99 * len(late)
        assert sum(answer.upstream == "second" for answer in late) >= 0.75 * len(late)

        storm.first.script(WELL)
        storm.first.requests.clear()
        answers = await storm.until(lambda answer: answer.upstream == "first")
        assert {answer.status for answer in answers} == {200}
        again = await storm.asked(50)
        assert {answer.upstream for answer in again} == {"first"}
        breaks = storm.said("is not asked")
        await storm.gateway.until(lambda: storm.said("answers again") == breaks)
        assert storm.said("is not asked", "second") == 0


async def test_one_that_comes_and_goes_does_no_harm(record_property: Note) -> None:
    async with raging(f"[{RETRY}, breaker: {{cooldown: 200ms, longest: 2s}}]") as storm:
        storm.second.script(WELL)
        answers: list[Answer] = []
        for behaviour in (ILL, WELL) * 3:
            storm.first.script(behaviour)
            answers += await storm.asked(80)

        well = sum(answer.status == 200 for answer in answers)
        record_property("answered while one flaps", f"{well} of {len(answers)}")
        assert well >= 0.99 * len(answers)
        assert storm.said("is not asked") <= 3
        assert storm.said("is not asked", "second") == 0
        assert storm.attempts <= 1.2 * len(answers)


@pytest.fixture
def hole() -> Iterator[str]:
    """A server that takes no connection: one more than its queue holds is waiting."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield f"http://127.0.0.1:{port}"


async def test_a_black_hole_costs_the_first_calls_a_wait_and_no_others(hole: str) -> None:
    async with raging("[breaker: {cooldown: 1m}]", FIRST=hole) as storm:
        storm.second.script(WELL)

        slow = [await storm.ask() for _ in range(5)]
        quick = await storm.asked(100)

        assert {(answer.status, answer.attempts) for answer in slow} == {(200, 2)}
        assert {(answer.status, answer.attempts) for answer in quick} == {(200, 1)}


async def test_streams_that_never_begin_are_not_waited_for_again() -> None:
    async with raging("[breaker: {cooldown: 1m}]") as storm:
        storm.first.script((Act.STALL,))
        storm.second.script(streams(*EVENTS))

        slow = await asyncio.gather(*(storm.ask(stream=True) for _ in range(20)))
        quick = await storm.asked(100, stream=True)

        assert {answer.status for answer in (*slow, *quick)} == {200}
        assert {answer.attempts for answer in quick} == {1}
        assert len(storm.first.requests) <= 20


async def test_clients_that_ask_at_the_same_time_send_one_probe() -> None:
    async with raging("[breaker: {cooldown: 500ms, longest: 500ms}]") as storm:
        storm.first.script(ILL)
        storm.second.script(ILL)
        await storm.until(lambda answer: answer.attempts == 0)
        storm.first.script((Act.STALL,))
        storm.second.script((Act.STALL,))
        before = storm.attempts

        probing = asyncio.ensure_future(storm.until(lambda answer: answer.attempts > 0))
        await eventually(lambda: storm.attempts > before)
        answers = await asyncio.gather(*(storm.ask() for _ in range(40)))

        assert storm.attempts - before <= 2
        assert sum(answer.attempts for answer in answers) <= 1
        await probing
