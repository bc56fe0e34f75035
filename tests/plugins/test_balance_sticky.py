"""`balance: {sticky: …}`: calls that belong together stay together, and few ever move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headrace import Call, Caller, Rests, Target, leaves
from headrace.testing import Upstream, ask, call, down, says, text
from headrace_plugins.balance import Balance
from headrace_plugins.fallback import Fallback

from .balance.asking import firsts, order, shown, weighing

SESSION: Any = {"header": "x-session"}


def session(name: str | None, targets: Any = ("a", "b", "c")) -> Call:
    return call(targets=targets, headers={} if name is None else {"x-session": name})


async def homes(targets: Any, count: int = 2000) -> Mapping[str, str]:
    """The upstream that comes first for each of many sessions."""
    balance, found = Balance(sticky=SESSION), {}
    for name in map(str, range(count)):
        given = session(name).replace(targets=targets)
        found[name] = next(leaves(await order(balance, given))).upstream
    return found


def share(homes: Mapping[str, str], name: str) -> float:
    return list(homes.values()).count(name) / len(homes)


async def test_a_session_stays_where_it_is() -> None:
    found = [await firsts(Balance(sticky=SESSION), session(name), times=20) for name in "abcdefgh"]

    assert all(len(upstreams) == 1 for upstreams in found)
    assert len({upstream for upstreams in found for upstream in upstreams}) > 1


async def test_every_worker_and_every_start_finds_the_same() -> None:
    assert [shown(await order(Balance(sticky=SESSION), session(name))) for name in "123"] == [
        "a b c",
        "c b a",
        "c a b",
    ]


async def test_sessions_are_spread_by_weight() -> None:
    found = await homes(weighing(a=1, b=1, c=2))

    assert 0.22 < share(found, "a") < 0.28
    assert 0.46 < share(found, "c") < 0.54


async def test_a_target_that_is_added_takes_its_share_and_moves_nobody_else() -> None:
    before, after = await homes(weighing(a=1, b=1, c=1)), await homes(weighing(a=1, b=1, c=1, d=1))

    moved = {name for name in before if before[name] != after[name]}
    assert {after[name] for name in moved} == {"d"}
    assert 0.22 < len(moved) / len(before) < 0.28


async def test_a_target_that_is_taken_away_leaves_its_share_to_all_others() -> None:
    before, after = await homes(weighing(a=1, b=1, c=1)), await homes(weighing(a=1, b=1))

    moved = [name for name in before if before[name] != after[name]]
    assert {before[name] for name in moved} == {"c"}
    assert 0.45 < [after[name] for name in moved].count("a") / len(moved) < 0.55


async def test_a_larger_weight_only_draws_sessions_to_its_target() -> None:
    before, after = await homes(weighing(a=1, b=1, c=1)), await homes(weighing(a=1, b=1, c=2))

    assert {after[name] for name in before if before[name] != after[name]} == {"c"}


async def test_a_member_of_a_group_that_is_added_moves_nobody_else() -> None:
    before = await homes((weighing(a=1, b=1), *weighing(c=1)))
    after = await homes((weighing(a=1, b=1, d=1), *weighing(c=1)))

    assert 0.63 < share(before, "a") < 0.71
    assert not [name for name in before if before[name] == "a" and after[name] == "c"]


async def test_a_session_leaves_its_target_while_that_rests_and_comes_back() -> None:
    balance = Balance(sticky=SESSION, rests=Rests())
    asked = session("1", ["a/m", "b/m", "c/m"])
    first, second, third = await order(balance, asked)
    assert isinstance(first, Target)

    balance.rests.rest((first.upstream, "m"), 60, why="it has failed", closed=True)
    assert await order(balance, asked) == (second, third, first)

    balance.rests.resume((first.upstream, "m"))
    assert await order(balance, asked) == (first, second, third)


async def test_with_fallback_its_calls_are_answered_elsewhere_when_its_target_fails() -> None:
    upstream = Upstream()
    upstream.script(down(), says("hello"))

    reply = await ask(Balance(sticky=SESSION), Fallback(), upstream=upstream, call=session("1"))

    assert await text(reply) == "hello"
    assert upstream.asked == ["a", "b"]


async def test_without_the_header_a_call_goes_where_others_go() -> None:
    found = await firsts(Balance(sticky=SESSION), session(None), times=100)

    assert len(found) == 3


# Callers


def from_(caller: Caller | None, address: str | None = None) -> Call:
    given = call(targets=["a", "b", "c", "d", "e", "f"]).replace(caller=caller)
    given.record.client = address
    return given


async def test_a_caller_stays_and_others_of_its_name_are_others() -> None:
    balance = Balance(sticky="caller")

    [home] = await firsts(balance, from_(Caller("ann", id="1"), "10.0.0.1"), times=9)
    assert await firsts(balance, from_(Caller("ann", id="1"), "10.9.9.9")) == {home: 1}
    others = await firsts(balance, *(from_(Caller("ann", id=str(n))) for n in range(40)))
    assert len(others) == 6


async def test_who_is_unknown_stays_by_the_address() -> None:
    balance = Balance(sticky="caller")

    assert len(await firsts(balance, from_(None, "10.0.0.1"), times=20)) == 1
    assert len(await firsts(balance, *(from_(None, f"10.0.0.{n}") for n in range(40)))) == 6
    assert len(await firsts(balance, from_(None), times=100)) == 6


# Conversations


def chat(*messages: tuple[str, Any], model: str = "m", **asked: Any) -> Call:
    said = [{"role": role, "content": content} for role, content in messages]
    return call(targets=[f"u{n}" for n in range(20)], messages=said, model=model, **asked)


START = (("system", "Be brief."), ("user", "What is a headrace?"))
MORE = (*START, ("assistant", "A channel."), ("user", "Where does it lead?"))


async def conversation(given: Call) -> str:
    return shown(await order(Balance(sticky="conversation"), given))


async def test_a_conversation_that_grows_stays() -> None:
    assert await conversation(chat(*START)) == await conversation(chat(*MORE, temperature=1))


@pytest.mark.parametrize(
    "other",
    [
        (("system", "Be verbose."), START[1]),
        (START[0], ("user", "What is a tailrace?")),
        (START[1],),
        (("developer", "Be brief."), START[1]),
    ],
)
async def test_another_beginning_is_another_conversation(other: Any) -> None:
    assert await conversation(chat(*START)) != await conversation(chat(*other))


async def test_another_model_is_another_conversation() -> None:
    assert await conversation(chat(*START)) != await conversation(chat(*START, model="n"))


async def test_messages_in_parts_are_read_and_what_is_no_text_is_not() -> None:
    def shows(image: str, text: str) -> Call:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
        return chat(("user", [picture, {"type": "text", "text": text}]))

    assert await conversation(shows("A", "This?")) == await conversation(shows("B", "This?"))
    assert await conversation(shows("A", "This?")) != await conversation(shows("A", "That?"))


async def test_of_a_long_text_length_beginning_and_end_count() -> None:
    long = "x" * 1_000_000

    same = chat(("user", f"{long}y{long}")), chat(("user", f"{long}z{long}"))
    others = (f"{long}x{long}y", f"y{long}{long}", f"{long}{long}xx")
    assert await conversation(same[0]) == await conversation(same[1])
    for other in others:
        assert await conversation(chat(("user", other))) != await conversation(same[0])


@pytest.mark.parametrize(
    ("operation", "asked"),
    [
        ("embedding", {"input": "hi"}),
        ("completion", {"prompt": "hi"}),
        ("passthrough", {"body": b"\x00 no JSON"}),
        ("chat", {"messages": "hi"}),
        ("chat", {"messages": []}),
    ],
)
async def test_what_is_no_conversation_goes_where_others_go(
    operation: str, asked: dict[str, Any]
) -> None:
    given = call(operation, targets=["a", "b"], **asked)

    assert len(await firsts(Balance(sticky="conversation"), given, times=50)) == 2
