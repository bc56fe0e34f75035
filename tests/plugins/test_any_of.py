"""`any_of`: whoever one of several plugins lets in is let in, as that one knows them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import pytest

from headrace import (
    BadRequest,
    Call,
    Caller,
    CallError,
    ConfigError,
    Next,
    Outgoing,
    Overloaded,
    Reply,
    Secret,
    Unauthorized,
    registry,
)
from headrace.config.document import parse
from headrace.config.outline import outline
from headrace.config.schema import schema
from headrace.explain import plan_of
from headrace.testing import Client, Upstream, ask, call, gateway, raw, text
from headrace_plugins.any_of import AnyOf

from ..cli.running import headrace


@dataclass(kw_only=True)
class Door:
    """Let in who says a word.

    It notes what happens to it.
    """

    word: Secret
    """The word."""
    name: str = "somebody"
    """Whom it takes them for."""

    authenticates: ClassVar = True

    def __post_init__(self) -> None:
        self.asked = 0
        self.opened = 0

    async def __aenter__(self) -> Self:
        self.opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.opened -= 1

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        assert self.opened == 1
        self.asked += 1
        said = call.headers.get("x-word")
        if said is None:
            raise Unauthorized(f"{self.name} wants a word", code="missing_api_key")
        call.record.said = f"{self.name} heard a word"
        if said != self.word.reveal():
            raise Unauthorized(f"{self.name} does not know this word")
        known = call.replace(caller=Caller(self.name)).telling(Outgoing({"x-by": self.name}))
        return await call_next(known)


@dataclass
class Refusing:
    """Lets in nobody."""

    error: CallError
    authenticates: ClassVar = True

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        raise self.error


@dataclass
class Strange:
    """Says that it authenticates, and does something else."""

    replies: list[Reply] = field(default_factory=list)
    authenticates: ClassVar = True

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        self.replies.append(Reply.plain({"hello": "nobody"}))
        return self.replies[-1]


def door(word: str, name: str = "somebody") -> Door:
    return Door(word=Secret(word), name=name)


@asynccontextmanager
async def opened(any_of: AnyOf) -> AsyncIterator[AnyOf]:
    """With those open that it is made of, as a gateway has them."""
    async with AsyncExitStack() as stack:
        for plugin in any_of.plugins:
            if isinstance(plugin, AnyOf):
                await stack.enter_async_context(opened(plugin))
            elif isinstance(plugin, AbstractAsyncContextManager):
                await stack.enter_async_context(plugin)
        yield any_of


async def through(*plugins: Any, word: str | None = None) -> Call:
    """The call behind `any_of` these plugins, of a client that says `word`."""
    upstream = Upstream()
    asked = call(headers={"x-word": word} if word else {})
    async with opened(AnyOf(plugins=plugins)) as any_of:
        await text(await ask(any_of, upstream=upstream, call=asked))
    [sent] = upstream.calls
    assert sent.record is asked.record
    return sent


async def refused(*plugins: Any, word: str | None = None) -> tuple[CallError, Call]:
    """What somebody is told who is not let in."""
    upstream = Upstream()
    asked = call(headers={"x-word": word} if word else {})
    async with opened(AnyOf(plugins=plugins)) as any_of:
        with pytest.raises(CallError) as caught:
            await ask(any_of, upstream=upstream, call=asked)
    assert upstream.calls == []
    assert asked.record.caller is None
    return caught.value, asked


@pytest.mark.parametrize(("word", "name"), [("red", "ann"), ("blue", "bob")])
async def test_whoever_one_of_them_knows_is_let_in(word: str, name: str) -> None:
    sent = await through(door("red", "ann"), door("blue", "bob"), word=word)

    assert sent.caller == sent.record.caller == Caller(name)
    assert sent.told(Outgoing) == Outgoing({"x-by": name})


async def test_those_that_count_for_nothing_leave_no_trace() -> None:
    sent = await through(door("red", "ann"), door("blue", "bob"), door("blue", "cy"), word="blue")

    assert sent.record.caller == Caller("bob")
    assert sent.record.said is None


async def test_all_of_them_are_asked_whoever_has_let_it_in() -> None:
    doors = [door("red"), door("blue"), door("green")]

    for word in ("red", "blue", "green"):
        await through(*doors, word=word)
    await refused(*doors, word="yellow")

    assert [each.asked for each in doors] == [4, 4, 4]


async def test_one_may_be_made_of_others() -> None:
    inner = AnyOf(plugins=(door("red", "ann"), door("blue", "bob")))
    doors = inner, door("green", "cy")

    names = [(await through(*doors, word=word)).caller for word in ("red", "blue", "green")]
    _, asked = await refused(*doors, word="yellow")

    assert names == [Caller("ann"), Caller("bob"), Caller("cy")]
    assert asked.record.said == "ann heard a word; bob heard a word; cy heard a word"


async def test_who_is_known_before_stays_known_to_those_that_are_asked() -> None:
    seen: list[Caller | None] = []

    async def watching(call: Call, call_next: Next) -> Reply:
        seen.append(call.caller)
        return await call_next(call)

    watching.authenticates = True  # type: ignore[attr-defined]
    asked = call(headers={"x-word": "red"}).replace(caller=Caller("host"))
    any_of = AnyOf(plugins=(door("red", "ann"), watching))
    async with opened(any_of):
        await raw(await ask(any_of, upstream=Upstream(), call=asked))

    assert seen == [Caller("host")]
    assert asked.record.caller == Caller("ann")


# Who is not let in


async def test_who_shows_nothing_is_told_so() -> None:
    error, _ = await refused(door("red", "ann"), door("blue", "bob"))

    assert (error.status, error.code) == (401, "missing_api_key")
    assert error.message == "ann wants a word"


async def test_who_shows_what_nobody_knows_is_told_no_more_than_that() -> None:
    error, asked = await refused(door("red", "ann"), door("blue", "bob"), word="green")

    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.message == "no key or token that this request shows is good here"
    assert error.headers["www-authenticate"].startswith("Bearer")
    assert asked.record.said == "ann heard a word; bob heard a word"


async def test_one_that_misses_something_does_not_make_it_missing() -> None:
    error, _ = await refused(door("red"), Refusing(Unauthorized("no token of ours")))

    assert (error.status, error.code) == (401, "invalid_api_key")


async def test_what_all_of_them_say_is_said() -> None:
    twice = Unauthorized("the request shows more than one key")

    error, asked = await refused(Refusing(twice), Refusing(twice))

    assert (error.message, error.code) == ("the request shows more than one key", "invalid_api_key")
    assert asked.record.said == "the request shows more than one key"


async def test_that_nobody_can_be_asked_comes_before_that_nobody_is_known() -> None:
    closed = Overloaded("the keys of the issuer cannot be had", code="keys_unavailable")

    error, _ = await refused(door("red"), Refusing(closed), word="blue")

    assert (error.status, error.code) == (503, "keys_unavailable")


async def test_that_one_cannot_be_asked_does_not_matter_to_whom_another_knows() -> None:
    closed = Overloaded("the keys of the issuer cannot be had", code="keys_unavailable")

    sent = await through(Refusing(closed), door("red", "ann"), word="red")

    assert sent.caller == Caller("ann")


async def test_one_that_answers_by_itself_has_let_in_nobody() -> None:
    error, asked = await refused(Strange(), door("red"), word="blue")

    assert error.status == 401
    assert asked.record.said == "Strange answered by itself; somebody heard a word"


async def test_a_fault_of_one_of_them_lets_in_nobody() -> None:
    @dataclass
    class Faulty(Strange):
        async def __call__(self, call: Call, call_next: Next) -> Reply:
            raise ZeroDivisionError

    upstream = Upstream()
    async with opened(AnyOf(plugins=(door("red"), Faulty()))) as any_of:
        with pytest.raises(ZeroDivisionError):
            await ask(any_of, upstream=upstream, call=call(headers={"x-word": "red"}))

    assert upstream.asked == []


async def test_a_failure_behind_it_is_nobodys_refusal() -> None:
    async def failing(upstream: Upstream, call: Call) -> Reply:
        raise BadRequest("'n' must be 1")

    upstream, doors = Upstream(), [door("red"), door("red")]
    upstream.script(failing)
    async with opened(AnyOf(plugins=tuple(doors))) as any_of:
        with pytest.raises(BadRequest, match="'n' must be 1"):
            await ask(any_of, upstream=upstream, call=call(headers={"x-word": "red"}))

    assert [each.asked for each in doors] == [1, 1]
    assert len(upstream.calls) == 1


# The plugins it is made of


class Point:
    """An entry point."""

    def __init__(self, kind: type) -> None:
        self.value = f"{kind.__module__}:{kind.__qualname__}"
        self.load = lambda: kind


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """`door` and `any_of` can be named; no other plugin can."""
    plugins = {"any_of": Point(AnyOf), "door": Point(Door), "open": Point(Refusing)}
    found, real = {"plugins": plugins}, registry._found
    monkeypatch.setattr(registry, "_found", lambda group: found.get(group) or real(group))


HOUSE = """
server:
  chain:
    - any_of: [door: {word: CANARY-1, name: ann}, door: {word: "${WORD}", name: bob}]
    - any_of: doors
upstreams: {a: mock}
chains: {doors: [door: {word: CANARY-3}, door: {word: CANARY-4}]}
routes: {"*": a}
"""


@pytest.mark.usefixtures("doors")
async def test_it_is_written_as_a_list_or_as_the_name_of_a_chain() -> None:
    for written in ("[door: {word: red}, door: {word: blue}]", "doors", "{plugins: doors}"):
        guarded = gateway(
            f"""
            server: {{chain: [any_of: {written}]}}
            chains: {{doors: [door: {{word: red}}, door: {{word: blue}}]}}
            upstreams: {{a: mock}}
            routes: {{"*": a}}
            """,
            open=False,
        )
        async with guarded.lifespan():
            answers = [
                await Client(guarded, headers={"x-word": word}).chat()
                for word in ("red", "blue", "green")
            ]

        assert [answer.status for answer in answers] == [200, 200, 401]


@pytest.mark.usefixtures("doors")
@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("any_of", "any_of needs the option 'plugins'"),
        ("any_of: []", "any_of: plugins must be two or more"),
        ("any_of: [door: {word: a}]", "any_of: plugins must be two or more"),
        ("any_of: [door: {word: a}, door]", "1:44: door needs the option 'word'"),
        ("any_of: [door: {word: a}, dor]", "1:44: no plugin is called 'dor'; did you mean 'door'?"),
        (
            "any_of: [door: {word: a}, pass]",
            "1:26: any_of: Outer does not find out who asks; put it outside of any_of",
        ),
    ],
)
def test_what_cannot_be_asked_who_somebody_is_is_a_problem(
    written: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Outer:
        async def __call__(self, call: Call, call_next: Next) -> Reply:
            return await call_next(call)

    monkeypatch.setitem(registry._found("plugins"), "pass", Point(Outer))
    with pytest.raises(ConfigError) as caught:
        gateway(f"server: {{chain: [{written}]}}")

    [told] = caught.value.problems
    assert problem in str(told)


@pytest.mark.usefixtures("doors")
def test_it_is_explained_with_what_it_is_made_of_and_no_secret() -> None:
    plan = plan_of(parse(HOUSE, "gateway.yaml", {"WORD": "CANARY-2"}))

    told = outline(plan)

    inside = [{"door": {"word": "***", "name": "ann"}}, {"door": {"word": "***", "name": "bob"}}]
    named = [{"door": {"word": "***"}}, {"door": {"word": "***"}}]
    assert told["chain"] == [{"any_of": {"plugins": inside}}, {"any_of": {"plugins": named}}]
    assert told["who_may_ask"] == ["any_of", "any_of"]
    assert "CANARY" not in str(told)


@pytest.mark.usefixtures("doors")
def test_editors_know_how_it_is_written() -> None:
    (written,) = [
        choice["properties"]["any_of"]
        for choice in schema()["$defs"]["plugins"]["anyOf"]
        if "any_of" in choice.get("properties", ())
    ]

    whole, bare = written["anyOf"]
    assert whole["properties"]["plugins"]["$ref"] == bare["$ref"] == "#/$defs/chain"
    assert whole["required"] == ["plugins"]


def test_it_can_be_told() -> None:
    told = headrace("plugins", "any_of").stdout

    assert "any_of (plugin)\n\nLet in whoever one of several plugins lets in." in told
    assert "  plugins (required)\n    Those that are asked, two or more;" in told
