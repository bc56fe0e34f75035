"""`api_key`: who shows a listed key is let in under its name, anyone else is not."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from headrace import (
    Call,
    Caller,
    ConfigError,
    File,
    Happening,
    Key,
    KeyFile,
    Moment,
    Next,
    Reply,
    Sha256,
    Unauthorized,
    sha256,
)
from headrace.config.build import build
from headrace.config.document import parse
from headrace.config.outline import outline
from headrace.explain import plan_of
from headrace.testing import Client, Clock, Upstream, ask, call, gateway, text
from headrace_plugins.api_key import ApiKey

ANN, BOB, EVE = sha256("sk-ann"), sha256("sk-bob"), sha256("sk-eve")
KEYS: dict[Sha256, str | Key] = {ANN: "ann", BOB: "bob"}
WRONG = "this key is not known here"
NOON = Moment(2027, 1, 31, 12, tzinfo=UTC)


class Noon(datetime):
    """The wall clock, stopped."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Noon:
        return cls.fromisoformat(NOON.isoformat())


async def let_in(plugin: ApiKey, headers: dict[str, str]) -> Caller:
    """The caller that the rest of the chain sees."""
    seen: list[Call] = []

    async def noting(call: Call, call_next: Next) -> Reply:
        seen.append(call)
        return await call_next(call)

    asked = call(headers=headers)
    await text(await ask(plugin, noting, upstream=Upstream(), call=asked))

    [caller] = [call.caller for call in seen]
    assert asked.record.caller == caller
    assert caller
    return caller


async def knows(plugin: ApiKey, key: str) -> bool:
    """Whether it lets in who shows this key."""
    try:
        await let_in(plugin, {"x-api-key": key})
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-bob"},
        {"authorization": "bearer   sk-bob "},
        {"x-api-key": "sk-bob"},
        {"api-key": "sk-bob"},
        {"authorization": "Bearer sk-bob", "x-api-key": "sk-bob"},
    ],
)
async def test_a_listed_key_is_let_in_under_its_name(headers: dict[str, str]) -> None:
    caller = await let_in(ApiKey(keys=KEYS), headers)

    assert caller == Caller("bob", id="bob", key=BOB)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "this gateway wants an API key"),
        ({"authorization": "Bearer "}, "this gateway wants an API key"),
        ({"authorization": "Basic c2stYW5uOg=="}, "not of the Bearer scheme"),
        ({"authorization": "sk-ann"}, "not of the Bearer scheme"),
        ({"authorization": "Bearer sk-ann", "x-api-key": "sk-bob"}, "more than one key"),
        ({"authorization": "Bearer sk-eve"}, WRONG),
        ({"authorization": "Bearer sk-an"}, WRONG),
        ({"authorization": "Bearer sk-ann, Bearer sk-bob"}, WRONG),
        ({"authorization": "Bearer SK-ANN"}, WRONG),
        ({"authorization": "Bearer None"}, WRONG),
        ({"authorization": "Bearer ' OR 1=1 --"}, WRONG),
        ({"authorization": "Bearer sk-%"}, WRONG),
        ({"authorization": "Bearer sk-\xff\x00"}, WRONG),
        ({"authorization": "Bearer sk-ann\x00"}, WRONG),
        ({"authorization": f"Bearer {'k' * 100_000}"}, WRONG),
        ({"x-api-key": ANN}, WRONG),
        ({"x-api-key": "0" * 64}, WRONG),
    ],
)
async def test_anyone_else_is_refused_and_nobody_is_asked(
    headers: dict[str, str], said: str
) -> None:
    upstream = Upstream()

    with pytest.raises(Unauthorized, match=said) as caught:
        await ask(ApiKey(keys=KEYS), upstream=upstream, call=call(headers=headers))

    assert caught.value.status == 401
    assert upstream.asked == []


async def test_a_key_in_the_address_counts_for_nothing() -> None:
    asked = call().replace(query="key=sk-ann&api_key=sk-ann")

    with pytest.raises(Unauthorized):
        await ask(ApiKey(keys=KEYS), upstream=Upstream(), call=asked)


# What is known of a key


async def test_what_is_known_of_a_key_is_known_of_its_caller() -> None:
    known = Key(name="chat", tenant="acme", groups=["red", "blue"], models=["fast", "gpt-*"])

    caller = await let_in(ApiKey(keys={ANN: known}), {"x-api-key": "sk-ann"})

    assert caller == Caller(
        "chat",
        id="chat",
        tenant="acme",
        groups=("red", "blue"),
        key=ANN,
        models=(("fast", "gpt-*"),),
    )


async def test_a_key_is_good_for_its_own_models_within_what_its_caller_may() -> None:
    guarded = gateway(
        f"""
        server:
          chain: [api_key: {{keys: {{{ANN}: {{name: chat, models: [fast, "gpt-*"]}}}}}}]
        callers:
          chat: {{models: [fast, slow]}}
        upstreams: {{a: mock}}
        routes: {{fast: a, slow: a, gpt-4o: a}}
        """,
    )
    client = Client(guarded, headers={"x-api-key": "sk-ann"})

    async with guarded.lifespan():
        listed = await (await client.get("/v1/models")).json()
        answers = {model: await client.chat(model=model) for model in ("fast", "slow", "gpt-4o")}

    assert [model["id"] for model in listed["data"]] == ["fast"]
    assert {model: answer.status for model, answer in answers.items()} == {
        "fast": 200,
        "slow": 404,
        "gpt-4o": 404,
    }


@pytest.mark.parametrize(
    ("key", "state"),
    [
        (Key(name="ann", expires=NOON), "expired"),
        (Key(name="ann", revoked=NOON), "revoked"),
        (Key(name="ann", revoked=NOON, expires=NOON), "revoked"),
    ],
)
async def test_a_key_that_is_not_good_any_more_is_refused_as_one_that_never_was(
    key: Key, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_plugins.api_key.datetime", Noon)
    told, logged = [], []

    for keys in ({ANN: key}, {EVE: key}):
        asked = call(headers={"x-api-key": "sk-ann"})
        with pytest.raises(Unauthorized) as caught:
            await ask(ApiKey(keys={**keys}), upstream=Upstream(), call=asked)
        told.append((caught.value.message, caught.value.code, caught.value.headers))
        logged.append(asked.record.said)

    assert told[0] == told[1]
    assert logged == [f"the key {ANN[:12]} of 'ann' is {state}", None]


async def test_a_key_that_expires_is_good_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_plugins.api_key.datetime", Noon)
    key = Key(name="ann", expires=NOON + timedelta(microseconds=1))

    assert await knows(ApiKey(keys={ANN: key}), "sk-ann")


# Where keys are listed


def plugin_of(written: str, callers: str = "{default: {}}") -> ApiKey:
    """The plugin as a gateway has it."""
    made = gateway(f"server: {{chain: [api_key: {written}]}}\ncallers: {callers}")
    (plugin,) = made.plan.chain
    assert isinstance(plugin, ApiKey)
    return plugin


async def test_keys_that_callers_are_matched_by_need_no_other_list() -> None:
    plugin = plugin_of("{}", f"{{pay: {{match: {{key: [{ANN}, {BOB}]}}}}, x: {{}}}}")

    caller = await let_in(plugin, {"x-api-key": "sk-bob"})

    assert caller == Caller("pay", id="pay", key=BOB)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("api_key", "1:18: api_key: nobody has a key: list them in 'keys', name a 'file'"),
        (
            "{api_key: {file: none.yaml}}",
            "1:28: api_key: there is no none.yaml; make it: headrace keys add",
        ),
        ("{api_key: {file: .}}", "1:28: api_key: cannot read .: Is a directory"),
        ("{api_key: {file: bad.yaml}}", "1:28: api_key: bad.yaml:1:8: this is not a SHA-256"),
        (
            f"{{api_key: {{keys: {{{ANN}: {{tenant: acme}}}}}}}}",
            "1:102: api_key: keys needs the option 'name'",
        ),
        (f"{{api_key: {{keys: {{{ANN}: {{nam: a, name: b}}}}}}}}", "keys has no option 'nam'"),
        (
            f"{{api_key: {{keys: {{{ANN}: [a]}}}}}}",
            "1:102: api_key: keys must be text or a mapping",
        ),
        (
            f"{{api_key: {{keys: {{{ANN}: {{name: a, expires: soon}}}}}}}}",
            "1:121: api_key: keys is not a date; write one such as 2027-01-31",
        ),
    ],
)
def test_what_would_let_in_nobody_is_a_problem(
    written: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("keys: {hr-CANARY: ann, b: c}")

    with pytest.raises(ConfigError) as caught:
        gateway(f"server: {{chain: [{written}]}}")

    assert problem in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "CANARY" not in str(caught.value)


def test_a_file_that_is_named_by_a_variable_may_be_absent_where_that_is_unset() -> None:
    written = "server: {chain: [api_key: {file: '${KEYS_FILE}'}]}"

    build(parse(written, "gateway.yaml", {}, unset_ok=True))
    with pytest.raises(ConfigError, match="there is no ") as caught:
        build(parse(written, "gateway.yaml", {"KEYS_FILE": "none-CANARY.yaml"}))

    assert "CANARY" not in str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    """A file of keys that lists Ann."""
    file = KeyFile(tmp_path / "keys.yaml")
    with file.changing() as keys:
        keys[ANN] = Key(name="ann")
    return file


def reading(file: KeyFile, **options: Any) -> ApiKey:
    return ApiKey(file=File(file.path), **options)


async def test_what_the_file_says_of_a_key_counts(file: KeyFile) -> None:
    plugin = plugin_of(
        f"{{file: {file.path}, keys: {{{ANN}: {{name: other, tenant: acme}}, {BOB}: bob}}}}",
        f"{{pay: {{match: {{key: [{ANN}, {EVE}]}}}}}}",
    )

    names = [(await let_in(plugin, {"x-api-key": f"sk-{n}"})).name for n in ("ann", "bob", "eve")]

    assert names == ["ann", "bob", "pay"]


def test_it_is_explained_by_the_names_of_its_callers_alone(file: KeyFile) -> None:
    known = f"{ANN}: ann, {BOB}: {{name: bob, tenant: acme}}"
    plan = plan_of(
        parse(
            f"server: {{chain: [api_key: {{keys: {{{known}}}, file: {file.path}}}]}}",
            "gateway.yaml",
            {},
        )
    )

    told = outline(plan)

    assert told["chain"] == [{"api_key": {"keys": ["ann", "bob"], "file": str(file.path)}}]
    assert ANN not in str(told)


# The file is followed


async def test_a_key_that_is_added_is_known_within_a_second(file: KeyFile, clock: Clock) -> None:
    plugin = reading(file)
    assert not await knows(plugin, "sk-bob")

    with file.changing() as keys:
        keys[BOB] = Key(name="bob")
    clock.advance(1)

    assert await knows(plugin, "sk-bob")


async def test_a_key_that_is_taken_back_is_good_for_a_second_at_most(
    file: KeyFile, clock: Clock
) -> None:
    plugin = plugin_of(f"{{file: {file.path}, keys: {{{ANN}: ann}}}}")
    assert await knows(plugin, "sk-ann")

    with file.changing() as keys:
        keys[ANN] = Key(name="ann", revoked=NOON)
    clock.advance(1)

    assert not await knows(plugin, "sk-ann")


async def test_who_listens_is_told_what_has_become_of_keys(file: KeyFile, clock: Clock) -> None:
    told: list[Happening] = []

    class Listens:
        happened = told.append

    plugin = reading(file)
    plugin.vitals.observers = (Listens(),)  # type: ignore[assignment]  # of calls it wants none
    with file.changing() as keys:
        keys[BOB] = Key(name="bob")
        keys[ANN] = Key(name="ann", revoked=NOON)
    assert await knows(plugin, "sk-bob")
    with file.changing() as keys:
        keys[BOB] = Key(name="bob", tenant="acme")
        del keys[ANN]
    clock.advance(1)
    await knows(plugin, "sk-bob")

    assert [(one.what, one.target) for one in told] == [
        ("key.revoked", "ann"),
        ("key.added", "bob"),
        ("key.changed", "bob"),
        ("key.removed", "ann"),
    ]
    assert told[1].details == {"id": BOB[:12]}


async def test_a_change_before_the_first_call_counts_for_it(file: KeyFile) -> None:
    plugin = reading(file)
    with file.changing() as keys:
        keys.clear()

    assert not await knows(plugin, "sk-ann")


async def test_a_file_that_is_swapped_behind_a_link_is_followed(
    file: KeyFile, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "link.yaml").symlink_to("keys.yaml")
    plugin = reading(KeyFile(tmp_path / "link.yaml"))
    assert await knows(plugin, "sk-ann")

    (tmp_path / "new.yaml").write_text(f"keys: {{{BOB}: bob}}")
    (tmp_path / "new-link").symlink_to("new.yaml")
    (tmp_path / "new-link").rename(tmp_path / "link.yaml")
    clock.advance(1)

    assert [await knows(plugin, key) for key in ("sk-ann", "sk-bob")] == [False, True]


async def test_the_file_is_looked_at_once_a_second_however_many_ask(
    file: KeyFile, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    mark = KeyFile.mark
    plugin = reading(file)

    def counted(self: KeyFile) -> object:
        looks.append(self.path)
        return mark(self)

    monkeypatch.setattr(KeyFile, "mark", counted)

    for _ in range(3):
        assert all(await asyncio.gather(*(knows(plugin, "sk-ann") for _ in range(20))))
        clock.advance(1)

    assert len(looks) == 3


BROKEN: Mapping[str, str | None] = {
    "is gone": None,
    "is cut off": "keys:\n  ",
    "is empty": "",
    "has problems": "keys:\n  hr-CANARY: ann\n  b: c\n",
    "is no YAML": "keys: {",
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_file_that_cannot_be_read_any_more_changes_nothing_and_is_told_once(
    how: str, file: KeyFile, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = reading(file)

    os.unlink(file.path)
    if (broken := BROKEN[how]) is not None:
        file.path.write_text(broken)
    for _ in range(3):
        assert await knows(plugin, "sk-ann")
        clock.advance(1)

    [said] = caplog.messages
    assert str(file.path) in said
    assert said.endswith("; the keys that were read before stay in force")
    assert ".yaml:" in said or broken is None
    assert "CANARY" not in said


async def test_a_file_that_is_well_again_is_followed_again(
    file: KeyFile, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = reading(file)
    for broken in ("keys: [a]", "keys: [b, c]"):
        file.path.write_text(broken)
        assert await knows(plugin, "sk-ann")
        clock.advance(1)

    file.path.write_text(f"keys: {{{BOB}: bob}}")

    assert [await knows(plugin, key) for key in ("sk-ann", "sk-bob")] == [False, True]
    assert len(caplog.messages) == 2


async def test_a_disk_that_fails_for_a_while_is_asked_again(
    file: KeyFile, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = reading(file)
    with file.changing() as keys:
        keys.clear()

    def failing(self: KeyFile) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(KeyFile, "read", failing)
        assert await knows(plugin, "sk-ann")
    clock.advance(1)

    assert not await knows(plugin, "sk-ann")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_disk_that_hangs_holds_nobody_up_for_longer_than_a_second(
    file: KeyFile, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = reading(file)
    hangs = threading.Event()
    monkeypatch.setattr(KeyFile, "mark", lambda self: hangs.wait(30))
    try:
        waiting = asyncio.create_task(knows(plugin, "sk-ann"))
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.advance(1)

        assert await waiting
        assert await knows(plugin, "sk-ann")
    finally:
        hangs.set()


async def test_a_client_that_leaves_does_not_keep_others_from_the_news(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = reading(file)
    with file.changing() as keys:
        keys[BOB] = Key(name="bob")
    waits = threading.Event()
    read = KeyFile.read
    monkeypatch.setattr(KeyFile, "read", lambda self: (waits.wait(30), read(self))[1])
    first = asyncio.create_task(knows(plugin, "sk-bob"))
    second = asyncio.create_task(knows(plugin, "sk-bob"))
    await asyncio.sleep(0)

    first.cancel()
    waits.set()

    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first


# In a gateway


async def test_a_gateway_with_it_needs_no_other_door() -> None:
    upstream = Upstream()
    guarded = gateway(
        f"""
        server: {{chain: [api_key: {{keys: {{{ANN}: ann}}}}]}}
        upstreams: {{a: mock}}
        routes: {{"*": a}}
        """,
        upstream=upstream,
        open=False,
    )
    client = Client(guarded)

    async with guarded.lifespan():
        refused = await client.chat()
        let_in = await Client(guarded, headers={"authorization": "Bearer sk-ann"}).chat()

        assert (refused.status, (await refused.json())["error"]["code"]) == (401, "missing_api_key")
        assert (let_in.status, (await let_in.json())["object"]) == (200, "chat.completion")
    assert len(upstream.calls) == 1


async def test_clients_are_told_the_same_of_every_key_that_is_not_good() -> None:
    past, future = "2020-01-31", "2920-01-31"
    guarded = gateway(
        f"""
        server:
          chain:
            - api_key:
                keys:
                  {ANN}: {{name: ann, expires: {past}}}
                  {BOB}: {{name: bob, expires: {future}, revoked: {past}}}
        """,
        open=False,
    )

    async with guarded.lifespan():
        refused = [
            await Client(guarded, headers={"x-api-key": key}).chat()
            for key in ("sk-ann", "sk-bob", "sk-eve")
        ]
        told = [(answer.status, await answer.read(), headers_of(answer)) for answer in refused]

    assert told[0] == told[1] == told[2]
    assert told[0][0] == 401


def headers_of(answer: Any) -> dict[str, str]:
    """The headers that say something of the call, and not which one it was or how long it took."""
    own = ("x-request-id", "x-headrace-overhead-ms", "server-timing")
    return {name: value for name, value in answer.headers.items() if name not in own}
