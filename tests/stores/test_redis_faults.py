"""When Redis does not answer: said at once, once, and over when it is over."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace import Unavailable
from headrace.testing import Clock
from headrace.testing.contracts.steps import free, hold, holder, upto

from .asking import (
    OPERATIONS,
    Ask,
    back,
    eventually,
    every_operation,
    failing,
    opened,
    redis_at,
    until,
    warm,
)
from .between import proxy
from .servers import REDIS, VALKEY, Server, free_port, running

GET, SET, APPLY = OPERATIONS["get"], OPERATIONS["set"], OPERATIONS["apply"]


async def test_a_store_that_is_down_at_the_start_is_no_reason_not_to_start(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = Server(VALKEY)

    async with redis_at(server.url) as store:
        assert store.fault == "it refuses connections"
        for _ in range(100):
            with pytest.raises(Unavailable, match="it refuses connections"):
                await store.apply(upto(5))
        with running(VALKEY, port=server.port):
            await back(store, clock)
            assert await store.apply(upto(5)) == [(1, 1)]

    assert told(caplog) == [
        f"WARNING the store at 127.0.0.1:{server.port} does not answer: it refuses connections; "
        "calls go on without it, and it is asked again once a second",
        f"INFO the store at 127.0.0.1:{server.port} answers again",
    ]


@every_operation
async def test_after_five_failures_nobody_asks_any_more(own: Server, ask: Ask) -> None:
    async with opened(own.url) as store:
        await ask(store)
        own.kill()

        assert len(await failing(store, ask)) == 5

        took = []
        for _ in range(200):
            started = time.perf_counter()
            with pytest.raises(Unavailable, match="it refuses connections"):
                await ask(store)
            took.append(time.perf_counter() - started)
        assert min(took) < 0.001


async def test_one_answer_in_between_is_enough(own: Server) -> None:
    async with opened(own.url) as store:
        for _ in range(3):
            own.kill()
            for _ in range(4):
                with pytest.raises(Unavailable):
                    await store.get("key")
            own.start()
            await store.get("key")

        assert store.fault is None


@pytest.mark.parametrize("binary", [VALKEY, REDIS], ids=["valkey", "redis"])
async def test_what_was_killed_is_asked_again_when_it_is_back_at_its_port(
    clock: Clock, binary: str
) -> None:
    with running(binary) as server:
        async with opened(server.url) as store:
            await store.set("key", b"value", ttl=60)
            server.kill()
            await failing(store, GET)

            server.start()
            await back(store, clock)

            assert await store.get("key") is None
            assert await store.set("key", b"value", ttl=60)
            assert await store.get("key") == b"value"


async def test_a_silent_store_holds_up_the_first_calls_alone_and_those_for_a_moment(
    clock: Clock, own: Server
) -> None:
    async with opened(own.url, timeout=0.1) as store:
        await warm(store)
        own.pause()

        started = time.perf_counter()
        said = await failing(store, APPLY)

        assert said == ["nothing came within 100ms"] * 5
        assert 0.2 < time.perf_counter() - started < 2
        own.resume()
        await back(store, clock)
        assert await store.apply(upto(5, "other")) == [(1, 1)]


async def test_one_that_takes_connections_and_says_nothing_is_as_silent(own: Server) -> None:
    own.pause()

    async with opened(own.url, timeout=0.1) as store:
        said = await failing(store, GET)

    assert set(said) == {"nothing came within 100ms"}
    own.resume()


async def test_a_slow_store_is_one_that_does_not_answer(clock: Clock, own: Server) -> None:
    async with proxy(own) as slow, opened(slow.url, timeout=0.1) as store:
        await warm(store)
        slow.delay = 0.3

        assert len(await failing(store, GET)) == 5
        clock.advance(1.2)
        await asyncio.sleep(0.6)
        assert store.fault == "nothing came within 100ms"

        slow.delay = 0
        await back(store, clock)


async def test_a_store_that_forgets_its_scripts_is_told_them_again(server: Server) -> None:
    async with opened(server.url) as store:
        await store.apply(upto(5))
        async with store.lease("key", 1, ttl=60):
            server.tell("SCRIPT", "FLUSH")

            assert await store.apply(upto(5)) == [(1, 2)]
            server.tell("SCRIPT", "FLUSH")
            assert await free(store, 1) == 0
        assert store.fault is None


async def test_a_replica_is_none_that_answers_until_it_is_a_master(
    clock: Clock, own: Server
) -> None:
    async with opened(own.url) as store:
        await store.apply(upto(5))
        own.tell("REPLICAOF", "127.0.0.1", free_port())

        said = await failing(store, APPLY)
        assert set(said) == {"it is a read-only replica"}
        clock.advance(1.2)
        await asyncio.sleep(0.1)
        assert store.fault == "it is a read-only replica"

        own.tell("REPLICAOF", "NO", "ONE")
        await back(store, clock)
        assert await store.apply(upto(5)) == [(1, 2)]


async def test_a_master_without_the_replicas_it_needs_does_not_answer(own: Server) -> None:
    async with opened(own.url) as store:
        own.tell("CONFIG", "SET", "min-replicas-to-write", 1)

        said = await failing(store, SET)

        assert "NOREPLICAS" in said[0] or "replicas" in said[0]


async def test_a_full_memory_is_told_and_over_when_there_is_room(clock: Clock, own: Server) -> None:
    own.tell("CONFIG", "SET", "maxmemory-policy", "noeviction")
    async with opened(own.url) as store:
        own.tell("CONFIG", "SET", "maxmemory", "1mb")
        assert not await store.delete("key")  # what takes no room can still be done

        said = await failing(store, SET)

        assert set(said) == {"its memory is full"}
        own.tell("CONFIG", "SET", "maxmemory", 0)
        await back(store, clock)
        assert await store.set("key", b"value", ttl=60)


async def test_all_steps_of_a_call_or_none_find_room(own: Server) -> None:
    async with opened(own.url) as store:
        await store.apply(upto(5, "{a}1"))
        own.tell("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(Unavailable):
            await store.apply(upto(5, "{a}1"), upto(5, "{a}2"))
        own.tell("CONFIG", "SET", "maxmemory", 0)

        assert await store.apply(upto(5, "{a}1"), upto(5, "{a}2")) == [(1, 2), (1, 1)]


async def test_connections_that_the_store_ended_while_nobody_asked_are_noticed_before(
    own: Server,
) -> None:
    async with opened(own.url) as store:
        await asyncio.gather(*(store.get("key") for _ in range(20)))
        own.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.05)

        assert await store.get("key") is None


async def test_who_was_busy_itself_does_not_say_that_the_store_is_silent(own: Server) -> None:
    async with opened(own.url, timeout=0.1) as store:
        await warm(store)

        asking = [asyncio.create_task(store.get("key")) for _ in range(20)]
        await asyncio.sleep(0)
        time.sleep(0.3)
        await asyncio.gather(*asking, return_exceptions=True)

        assert store.fault is None


async def test_a_slot_taken_before_and_left_while_it_was_silent_is_free_afterwards(
    clock: Clock, own: Server
) -> None:
    async with opened(own.url, timeout=0.1) as store:
        await warm(store)
        holding = [await holder(store, 3) for _ in range(3)]
        own.pause()
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        own.resume()

        async def all_free() -> bool:
            return await free(store, 3) == 3

        await eventually(all_free, clock)


async def test_a_slot_that_was_asked_for_in_vain_is_not_lost(clock: Clock, own: Server) -> None:
    async with opened(own.url, timeout=0.1) as store:
        await warm(store)
        own.pause()
        with pytest.raises(Unavailable):
            await hold(store, 1)  # it may be taken as soon as the server goes on
        own.resume()

        async def all_free() -> bool:
            return await free(store, 1) == 1

        await eventually(all_free, clock)


async def test_leases_asked_for_while_nobody_answers_leave_nothing_behind(own: Server) -> None:
    async with opened(own.url) as store:
        own.kill()
        await failing(store, GET)

        for _ in range(50):
            with pytest.raises(Unavailable):
                await hold(store, 1)

        assert store._open._owed == set()


async def test_work_is_not_undone_when_its_slot_cannot_be_given_back(own: Server) -> None:
    async with opened(own.url) as store, store.lease("key", 1, ttl=60):
        own.kill()
        done = True

    assert done


async def test_connections_are_bounded_and_waited_for(own: Server) -> None:
    async with opened(own.url, connections=3) as store:
        answers = await asyncio.gather(*(store.apply(upto(100)) for _ in range(60)))

        assert sorted(count for [(_, count)] in answers) == list(range(1, 61))
        assert own.connections <= 3


async def test_waiting_for_a_connection_takes_no_longer_than_anything_else(own: Server) -> None:
    async with opened(own.url, connections=1, timeout=0.2) as store:
        await warm(store)
        own.pause()

        asked = await asyncio.gather(*(GET(store) for _ in range(3)), return_exceptions=True)

        assert [str(each) for each in asked] == ["nothing came within 200ms"] * 3


async def test_a_connection_whose_question_was_given_up_is_not_asked_another(own: Server) -> None:
    async with opened(own.url, connections=1) as store:
        await store.set("a", b"of a", ttl=60)
        await store.set("b", b"of b", ttl=60)
        for turns in range(12):
            asking = asyncio.create_task(store.get("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

            assert await store.get("b") == b"of b"
        assert store.fault is None


async def test_questions_given_up_are_no_failures(own: Server) -> None:
    async with opened(own.url) as store:
        own.pause()
        for _ in range(10):
            asking = asyncio.create_task(store.get("key"))
            await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        assert store.fault is None


async def test_no_task_and_no_connection_outlives_the_store(own: Server) -> None:
    before = asyncio.all_tasks()
    store = redis_at(own.url)
    await store.get("key")
    await store.aclose()
    await until(lambda: own.connections == 0)

    await store.get("key")
    own.kill()
    await failing(store, GET)
    await store.aclose()
    assert asyncio.all_tasks() == before


async def test_a_closed_store_can_be_opened_again(own: Server) -> None:
    store = redis_at(own.url)

    for count in (1, 2):
        async with store:
            assert await store.apply(upto(5)) == [(1, count)]
    own.kill()
    async with store:
        assert store.fault
    own.start()
    async with store:
        assert store.fault is None


def test_a_closed_store_can_be_used_in_another_loop(valkey: Server) -> None:
    store = redis_at(valkey.url, connections=1)

    async def used() -> None:
        async with store:
            await asyncio.gather(*(store.get("key") for _ in range(5)))

    asyncio.run(used())
    asyncio.run(used())


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if record.name == "headrace"
    ]
