"""What the store in Redis writes there, and how often it asks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from headrace import Size, Step
from headrace.testing.contracts.steps import free, hold, refusing, upto

from .asking import opened
from .servers import Server


async def test_all_of_it_is_below_the_prefix_and_none_of_it_for_ever(own: Server) -> None:
    async with opened(own.url, prefix="mine") as store, store.lease("{ann}:calls", 5, ttl=60):
        await store.set("answer", b"value", ttl=60)
        await store.apply(upto(5, "{ann}:minute"), upto(5, "{ann}:day"))
        await store.apply(upto(5, "everybody"))
        await store.probe()

        keys = own.tell("KEYS", "*")
        assert sorted(keys) == [
            b"mine:l:{ann}:calls",
            b"mine:m:{everybody}",
            b"mine:n:{ann}:day",
            b"mine:n:{ann}:minute",
            b"mine:probe:",
            b"mine:v:answer",
        ]
        for key in keys:
            assert 0 < own.tell("PTTL", key) <= 60_000

    await asyncio.sleep(0)
    assert b"mine:l:{ann}:calls" not in own.tell("KEYS", "*")


async def test_a_key_with_braces_around_it_and_one_without_are_two(own: Server) -> None:
    async with opened(own.url) as store:
        keys = ["a", "{a}", "{a", "a}", "{}a", "}{a}", "{a}}", "{{a}", ":{a}", ""]
        for key in keys:
            assert await store.apply(upto(5, key)) == [(1, 1)]

        assert len(own.tell("KEYS", "*")) == len(keys)


async def test_stores_with_other_prefixes_do_not_meet(own: Server) -> None:
    async with opened(own.url, prefix="one") as one, opened(own.url, prefix="other") as other:
        await one.set("key", b"value", ttl=60)

        assert await other.get("key") is None


async def test_what_one_worker_keeps_the_others_see(server: Server) -> None:
    async with opened(server.url) as one, opened(server.url, prefix=one.prefix) as other:
        await one.set("key", b"value", ttl=60)
        await one.apply(upto(5))

        assert await other.get("key") == b"value"
        assert await other.apply(upto(5)) == [(1, 2)]
        async with one.lease("key", 3, ttl=60):
            assert await free(other, 3) == 2


async def test_a_ceiling_holds_for_all_who_share_it(server: Server) -> None:
    async with opened(server.url) as one, opened(server.url, prefix=one.prefix) as other:
        asked = await asyncio.gather(
            *(store.apply(upto(10)) for store in (one, other) for _ in range(30))
        )

    assert sum(counted for [(counted, _)] in asked) == 10


async def test_any_number_of_steps_is_one_question(own: Server) -> None:
    async with opened(own.url) as store:
        steps = [*(upto(5, f"{{a}}{number}") for number in range(20)), refusing("{a}r")]
        await store.apply(*steps)
        before = questions(own)

        await store.apply(*steps)

        assert questions(own) - before == 1


async def test_the_same_kinds_of_steps_in_any_order_are_one_script(own: Server) -> None:
    async with opened(own.url) as store:
        for steps in (
            [upto(5), refusing()],
            [refusing(), upto(5)],
            [upto(7), refusing(), upto(9), upto(3)],
        ):
            await store.apply(*steps)

        assert int(own.tell("INFO", "memory")["number_of_cached_scripts"]) == 1


async def test_each_other_operation_is_one_question(own: Server) -> None:
    async with opened(own.url) as store:
        await hold(store, 1)
        before = questions(own)

        await store.set("key", b"value", ttl=60)
        await store.get("key")
        await store.delete("key")
        assert questions(own) - before == 3
        await hold(store, 1)
        assert questions(own) - before == 5


def questions(server: Server) -> int:
    """How many commands it was told, but for those in scripts and the PING behind each."""
    told = server.tell("INFO", "commandstats")
    asked = ("get", "set", "del", "evalsha", "eval", "zrem")
    return sum(int(told.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in asked)


async def test_lua_that_is_no_lua_is_the_steps_fault_and_not_the_stores(server: Server) -> None:
    wrong = Step(key="key", run=lambda *_: (None, ()), lua="return nil, {", ttl=60)
    async with opened(server.url) as store:
        for _ in range(9):
            with pytest.raises(RuntimeError, match=r"a step fails: Error compiling"):
                await store.apply(wrong)

        assert store.fault is None


@pytest.mark.parametrize(
    "lua",
    [
        "return nil",
        "return 5, {}",
        "return {a = 'x'}, {}",
        "return nil, {'x'}",
        "return nil, {nil + 1}",
        "return redis.call('NO', 'SUCH')",
        "error({err = 'mine'})",
        "error()",
    ],
)
async def test_whatever_a_step_does_wrong_is_said_and_nothing_is_written(
    server: Server, lua: str
) -> None:
    wrong = Step(key="{key}2", run=lambda *_: (None, ()), lua=lua, ttl=60)
    async with opened(server.url) as store:
        for _ in range(9):
            with pytest.raises(RuntimeError, match="a step fails: "):
                await store.apply(upto(5), wrong)

        assert await store.apply(upto(5)) == [(1, 1)]
        assert store.fault is None


async def test_numbers_that_a_step_leaves_out_are_gone(server: Server) -> None:
    def step(lua: str) -> Step:
        return Step(key="key", run=lambda *_: (None, ()), lua=lua, ttl=60)

    async with opened(server.url) as store:
        await store.apply(step("return {a = 1, b = 2}, {}"))
        await store.apply(step("return {b = 3, c = 4}, {}"))

        seen = step("return value, {value.a or 0, value.b, value.c}")
        assert await store.apply(seen) == [(0, 3, 4)]


async def test_how_large_a_value_may_be_is_an_option(valkey: Server) -> None:
    async with opened(valkey.url, value=Size(10)) as store:
        assert await store.set("key", bytes(10), ttl=60)
        assert not await store.set("key", bytes(11), ttl=60)


async def test_times_too_long_or_too_short_for_redis_are_near_enough(server: Server) -> None:
    async with opened(server.url) as store:
        for ttl in (1e-9, 1e300, float("inf")):
            assert await store.set("key", b"value", ttl=ttl)
            await store.apply(upto(5, ttl=ttl))
        assert await store.get("key") == b"value"


def test_redis_is_loaded_when_it_is_asked_and_not_before() -> None:
    code = """
        import asyncio, sys
        from headrace.config.build import build
        from headrace.config.document import parse

        def loaded(store):
            plan = build(parse(f"server: {{store: '{store}'}}", "gateway.yaml", {}))
            return plan.store, "redis" in sys.modules

        assert not loaded("memory://")[1]
        store, there = loaded("redis://127.0.0.1:1/0")
        assert not there

        async def main():
            async with store:
                assert store.fault

        asyncio.run(main())
        assert "redis" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
