"""A server that answers wrongly: no reply is taken that is not certain to be the right one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace import Unavailable
from headrace.testing import Clock
from headrace.testing.contracts.steps import upto

from .asking import OPERATIONS, Ask, back, every_operation, failing, opened, until
from .between import bulk, liar
from .servers import Server

Answer = Callable[[list[bytes]], bytes | None]


def always(said: bytes | None) -> Answer:
    return lambda command: said


def fair(said: bytes) -> Answer:
    """The same to every question, with the right number behind it."""
    return lambda command: bulk(command[1]) if command[0] == b"PING" else said


WRONG = {
    "text": always(b"\x00\xff\xfe garbage\r\n"),
    "http": always(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
    "half": always(b"$100\r\nabc"),
    "half_an_error": always(b"-ERR"),
    "no_end": always(b"+" + b"a" * 200_000),
    "nothing": always(b""),
    "the_end": always(None),
    "an_error_to_everything": always(b"-ERR go away\r\n"),
    "fine_to_everything": always(b"+OK\r\n"),
    "nil_to_everything": always(b"$-1\r\n"),
    "empty_to_everything": always(b"*0\r\n"),
    "deep": always(b"*1\r\n" * 100_000),
    "long": always(b"*1000000000\r\n:1\r\n"),
    "negative": always(b"$-7\r\nabc\r\n"),
    "no_number": always(b":many\r\n"),
    "no_text": always(b"-MOVED somewhere\r\n"),
    "resp3": always(b"%1\r\n+a\r\n:1\r\n"),
    "a_list": fair(b"*2\r\n:1\r\n:2\r\n"),
    "a_number": fair(b":7\r\n"),
    "other_text": fair(b"+QUEUED\r\n"),
    "longer_than_it_says": fair(b"$1\r\nabcdefgh\r\n"),
    "an_error": fair(b"-ERR no\x1b[31m way\r\n"),
    "one_answer_too_many": fair(b"*3\r\n:1\r\n*0\r\n*0\r\n"),
    "an_answer_of_words": fair(b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n"),
}


@every_operation
@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_what_makes_no_sense_is_no_answer_and_ends_the_connection(
    answer: Answer, ask: Ask
) -> None:
    async with liar(answer) as server, opened(server.url, timeout=0.15) as store:
        with pytest.raises(Unavailable) as raised:
            await ask(store)

        assert str(raised.value).isprintable()
        await until(lambda: not server.tasks)
        assert server.taken == 1


async def test_an_error_to_the_question_alone_leaves_nothing_over() -> None:
    said = [b"-ERR not now\r\n", b"$-1\r\n"]

    def answer(command: list[bytes]) -> bytes:
        return bulk(command[1]) if command[0] == b"PING" else said.pop(0)

    async with liar(answer) as server, opened(server.url) as store:
        with pytest.raises(Unavailable, match="it says: not now"):
            await store.get("key")

        assert await store.get("key") is None


class Late:
    """Answers every question with what the question before it should have got."""

    def __init__(self, *first: bytes) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.said = list(first)

    def __call__(self, command: list[bytes]) -> bytes:
        match command:
            case [b"PING", number]:
                answer = bulk(number)
            case [b"SET", key, value, *_]:
                self.kept[key] = value
                answer = b"+OK\r\n"
            case [b"GET", key]:
                answer = bulk(self.kept[key]) if key in self.kept else b"$-1\r\n"
            case _:
                answer = b":1\r\n"
        self.said.append(answer)
        return self.said.pop(0)


@every_operation
@pytest.mark.parametrize("first", [b"+OK\r\n", b"$-1\r\n", b":1\r\n", bulk(b"1")])
async def test_the_answer_to_another_question_is_none(first: bytes, ask: Ask) -> None:
    async with liar(Late(first)) as server, opened(server.url) as store:
        with pytest.raises(Unavailable):
            await ask(store)


async def test_not_even_answers_that_are_late_by_a_whole_question_are_taken() -> None:
    server_of_mine = Late()
    async with liar(server_of_mine) as server, opened(server.url, connections=1) as store:
        for key in "ab":
            await store.set(key, f"of {key}".encode(), ttl=60)
        assert await store.get("a") == b"of a"

        asked = server_of_mine([b"GET", b""]), server_of_mine([b"PING", b"12"])
        server_of_mine.said += asked  # somebody else's, in between

        with pytest.raises(Unavailable):
            await store.get("b")


async def test_the_value_of_another_key_is_no_answer() -> None:
    """As from a proxy that mixes up whom it asked for what."""
    late = Late()

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"GET":
            return bulk(next(iter(late.kept.values())))
        return late(command)

    async with liar(answer) as server, opened(server.url) as store:
        await store.set("a", b"of a", ttl=60)
        await store.set("b", b"of b", ttl=60)

        assert await store.get("a") == b"of a"
        with pytest.raises(Unavailable, match="it answers what makes no sense"):
            await store.get("b")


async def test_a_connection_that_spoke_without_being_asked_is_not_used_again() -> None:
    late = Late()

    def answer(command: list[bytes]) -> bytes:
        return late(command) + (b"$4\r\nmore\r\n" if command[0] == b"PING" else b"")

    async with liar(answer) as server, opened(server.url) as store:
        await store.set("a", b"of a", ttl=60)
        await until(lambda: server.taken == 1)

        assert await store.get("a") == b"of a"
        assert server.taken == 2


async def test_a_failure_sends_the_next_question_over_a_new_connection(own: Server) -> None:
    late, broken = Late(), False

    def answer(command: list[bytes]) -> bytes:
        return b"garbage\r\n" if broken else late(command)

    async with liar(answer) as server, opened(server.url) as store:
        await store.set("a", b"of a", ttl=60)
        broken = True
        with pytest.raises(Unavailable):
            await store.get("a")
        broken = False

        assert await store.get("a") == b"of a"
        assert server.taken == 2


@pytest.mark.parametrize("name", ["text", "half", "the_end", "an_error", "deep"])
async def test_a_server_that_answers_wrongly_is_left_alone_until_it_does_not(
    clock: Clock, name: str
) -> None:
    late, wrong = Late(), True
    sensible = {b"EVALSHA": b":1\r\n"}

    def answer(command: list[bytes]) -> bytes | None:
        if wrong:
            return WRONG[name](command)
        if command == [b"PING"]:
            return b"+PONG\r\n"
        return sensible.get(command[0]) or late(command)

    async with liar(answer) as server, opened(server.url, timeout=0.15) as store:
        await failing(store, OPERATIONS["get"])
        taken = server.taken
        for _ in range(50):
            with pytest.raises(Unavailable):
                await store.apply(upto(5))
        assert server.taken == taken

        wrong = False
        await back(store, clock)


async def test_what_a_server_says_shows_no_password() -> None:
    def answer(command: list[bytes]) -> bytes:
        return b"-ERR unknown " + b" ".join(command) + b"\r\n"

    async with liar(answer) as server:
        url = server.url.replace("//", "//somebody:CANARY@")
        async with opened(url, timeout=0.15) as store:
            with pytest.raises(Unavailable) as raised:
                await store.get("key")

    assert "CANARY" not in str(raised.value)
