"""`cache` in a gateway: where it may stand, what its responses say, and what outlives a reload."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from headrace import Call, ConfigError, Memory, Record, Reply
from headrace.config.build import build
from headrace.config.document import parse
from headrace.gateway import Gateway
from headrace.testing import Client, Clock, Upstream, down, gateway, refuses, says, settled
from headrace_plugins.observers.access_log import line

from .cache.tap import Tap

FRONT = """
    upstreams: {a: mock, b: mock}
    routes:
      m: {chain: [cache, fallback], targets: [a, b]}
      n: {chain: [cache, fallback], targets: [b, a]}
    """
BEHIND = """
    upstreams: {a: {forwarder: mock, plugins: [cache]}}
    routes: {"*": a}
    """


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


async def told(client: Client, **members: Any) -> tuple[int, str | None, str | None]:
    """Status, what the cache says, and who answered."""
    response = await client.chat(**members)
    await response.read()
    headers = response.headers
    return response.status, headers.get("x-headrace-cache"), headers.get("x-headrace-upstream")


@pytest.mark.parametrize("written", [FRONT, BEHIND], ids=["before all", "of an upstream"])
async def test_it_stands_in_a_route_or_among_an_upstreams_plugins(
    upstream: Upstream, written: str
) -> None:
    gate = gateway(written, upstream=upstream)
    async with gate.lifespan():
        client = Client(gate)

        assert await told(client) == (200, "miss", "a")
        assert await told(client) == (200, "hit", "a")
        assert await told(client, stream=True) == (200, "hit", "a")
    assert len(upstream.asked) == 1


def test_it_does_not_stand_where_no_route_is_known() -> None:
    with pytest.raises(ConfigError, match="must know the route of a call"):
        gateway("server: {chain: [cache]}\nupstreams: {a: mock}\nroutes: {'*': a}\n")


async def test_each_route_has_answers_of_its_own(upstream: Upstream) -> None:
    gate = gateway(FRONT, upstream=upstream)
    async with gate.lifespan():
        client = Client(gate)

        assert await told(client, model="m") == (200, "miss", "a")
        assert await told(client, model="n") == (200, "miss", "b")


async def test_the_access_log_tells_what_was_saved(upstream: Upstream) -> None:
    records: list[Record] = []
    gate = gateway(FRONT, upstream=upstream)
    gate.edge.observers = (records.append,)
    async with gate.lifespan():
        client = Client(gate)
        for _ in range(2):
            await told(client)

    lines = [line(record) for record in records]
    assert lines[0]["cache"] == {"status": "miss", "stored": True}
    assert lines[1]["cache"]["status"] == "hit"
    assert lines[1]["cache"]["saved"]["output"] == 2
    assert lines[1]["tokens"] is None


async def test_an_error_says_that_nothing_was_kept(upstream: Upstream) -> None:
    upstream.script(refuses(400), says("hello"))
    gate = gateway(FRONT, upstream=upstream)
    async with gate.lifespan():
        client = Client(gate)

        assert await told(client) == (400, "miss", "a")
        assert await told(client) == (200, "miss", "a")


async def test_what_the_client_wants_only_if_it_is_kept_is_no_failure(upstream: Upstream) -> None:
    records: list[Record] = []
    gate = gateway(FRONT, upstream=upstream)
    gate.edge.observers = (records.append,)
    async with gate.lifespan():
        client = Client(gate, headers={"cache-control": "only-if-cached"})

        assert await told(client) == (504, "miss", None)
    assert (records[0].outcome, records[0].code) == ("refused", "not_cached")


async def test_the_record_of_who_asked_first_closes_with_the_work(upstream: Upstream) -> None:
    tap = Tap("one ", "two")
    upstream.script(tap)
    records: list[Record] = []
    gate = gateway(FRONT, upstream=upstream)
    gate.edge.observers = (records.append,)
    async with gate.lifespan():
        client = Client(gate)
        tap.go()
        leader = await client.chat(stream=True)
        follower = await client.chat(stream=True)
        leaving = asyncio.create_task(leader.leave())
        await settled()
        assert records == []
        tap.go(2)
        await follower.read()
        await leaving

    (left,) = [record for record in records if record.outcome == "client_closed"]
    assert left.attempts[0].outcome == "ok"
    assert left.attempts[0].usage
    assert left.attempts[0].usage.output == 2


async def test_who_asked_first_and_left_is_let_go_at_the_end(upstream: Upstream) -> None:
    tap = Tap("one ", "two")
    upstream.script(tap)
    gate = gateway(FRONT, upstream=upstream)
    async with gate.lifespan():
        client = Client(gate)
        tap.go()
        leader = await client.chat(stream=True)
        follower = await client.chat(stream=True)
        leaving = asyncio.create_task(leader.leave())
        await settled()

        gate.edge.cut()

        assert b"shutting_down" in await follower.read()
        await leaving
        assert gate.edge.serving == 0
        assert upstream.open == 0


async def test_of_caches_side_by_side_the_one_that_answered_is_told(upstream: Upstream) -> None:
    async def only_a(upstream: Upstream, call: Call) -> Reply:
        if upstream.asked[-1] == "b":
            await asyncio.Event().wait()
        reply: Reply = await says("hello")(upstream, call)
        return reply

    upstream.script(only_a)
    records: list[Record] = []
    gate = gateway(
        """
        upstreams: {a: mock, b: mock}
        routes: {m: {chain: [race, cache], targets: [a, b]}}
        """,
        upstream=upstream,
    )
    gate.edge.observers = (records.append,)
    async with gate.lifespan():
        client = Client(gate)

        assert await told(client) == (200, "miss", "a")
        assert await told(client) == (200, "hit", "a")
    assert [record.cache and record.cache.status for record in records] == ["miss", "hit"]


async def test_who_gave_an_old_answer_is_told_and_not_who_failed(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(says("old"), down())
    gate = gateway(
        FRONT.replace("cache", "cache: {ttl: 60s, stale_if_error: 60s}"), upstream=upstream
    )
    async with gate.lifespan():
        client = Client(gate)
        await told(client)
        clock.advance(90)

        assert await told(client) == (200, "stale", "a")
    assert upstream.asked == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("tenant", "second"), [("", "miss"), (", tenant: red", "hit")], ids=["none", "one"]
)
async def test_two_of_one_entry_share_answers_where_they_have_a_tenant(
    upstream: Upstream, tenant: str, second: str
) -> None:
    keys = [
        f"{sha256(name.encode()).hexdigest()}: {{name: {name}, groups: [staff]{tenant}}}"
        for name in ("ann", "bob")
    ]
    gate = gateway(
        f"""
        server: {{chain: [api_key: {{keys: {{{", ".join(keys)}}}}}]}}
        callers: {{staff: {{match: {{groups: staff}}}}}}
        upstreams: {{a: mock}}
        routes: {{m: {{chain: [cache], targets: a}}}}
        """,
        upstream=upstream,
        open=False,
    )
    async with gate.lifespan():
        ann, bob = [Client(gate, headers={"authorization": f"Bearer {n}"}) for n in ("ann", "bob")]

        assert await told(ann) == (200, "miss", "a")
        assert await told(bob) == (200, second, "a")
        assert await told(ann) == (200, "hit", "a")


async def test_the_fallback_behind_it_is_asked_once_for_all(upstream: Upstream) -> None:
    upstream.script(down(), says("hello"))
    gate = gateway(FRONT, upstream=upstream)
    async with gate.lifespan():
        client = Client(gate)

        assert await told(client) == (200, "miss", "b")
        assert await told(client) == (200, "hit", "b")
    assert upstream.asked == ["a", "b"]


async def test_a_gateway_that_takes_other_options_gives_the_answers_it_kept(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstreams: {a: mock}\nroutes: {m: {chain: [cache: {ttl: 1h}], targets: a}}\n")
    gate = Gateway.load(file, environ={}, open=True)
    async with gate.lifespan():
        client = Client(gate)
        assert await told(client) == (200, "miss", "a")

        file.write_text(file.read_text().replace("ttl: 1h", "ttl: 2h"))
        assert await gate.reload()

        assert await told(client) == (200, "hit", "a")


async def test_a_reload_keeps_answers_whatever_else_it_changes() -> None:
    written = """\
server: {attempts: 3}
upstreams:
  a: {forwarder: {mock: {says: hi}}, plugins: [retry]}
  b: {forwarder: {openai: {base_url: "http://127.0.0.1:9", api_key: one}}}
routes:
  m: {chain: [cache: {ttl: 1h}, fallback], targets: [a, b]}
"""
    later = """\
server: {attempts: 2, chain: [rate_limit: {policies: [{by: address, requests: 9/s}]}]}
upstreams:
  c: mock
  b: {forwarder: {openai: {base_url: "http://127.0.0.1:9", api_key: two}}, plugins: [breaker]}
  a: {forwarder: {mock: {says: hi}}, plugins: [retry: {attempts: 3}], timeouts: {total: 9s}}
routes:
  n: c
  m:
    chain: [rate_limit: {name: own}, cache: {ttl: 2h, stale_if_error: 1h}, race: {width: 1}]
    targets: [a, b]
"""
    store = Memory()
    said = []
    for text in (written, later):
        gate = Gateway(build(parse(text, "gateway.yaml", {}), keep=store), open=True)
        async with gate.lifespan():
            said.append(await told(Client(gate)))

    assert said == [(200, "miss", "a"), (200, "hit", "a")]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (("", ""), True),
        (("ttl: 1h", "ttl: 2h, largest: 2MB, stale_if_error: 1h, replay: timed"), True),
        (("[cache", "[rate_limit: {policies: [{by: caller, requests: 9/s}]}, cache"), True),
        (("retry: {}", "retry: {attempts: 3}, fallback: {patience: 1s}"), True),
        (("retry: {}", "fallback: {}"), True),
        (("retry: {}", "retry: {}, transform: {set: {seed: 7}}"), False),
        (("key: one", "key: two"), True),
        (("targets: a", "targets: {a: {weight: 2}}"), True),
        (("plugins: []", "plugins: [breaker]"), True),
        (("says: hi", "says: ho"), False),
        (("targets: a", "targets: a/n"), False),
        (("models: {}", "models: {m: other}"), False),
        (("labels: {}", "labels: {region: eu}"), True),
        (("'/v1/x': a", "'/v1/y': a"), True),
    ],
    ids=str,
)
async def test_a_reload_keeps_the_answers_of_what_stays_as_it_was(
    change: tuple[str, str], kept: bool
) -> None:
    written = """\
upstreams:
  a: {forwarder: {mock: {says: hi}}, models: {}, labels: {}, plugins: []}
  b: {forwarder: {openai: {base_url: "http://127.0.0.1:9", api_key: one}}}
routes:
  m: {chain: [cache: {ttl: 1h}, retry: {}], targets: a}
  '/v1/x': a
"""
    store = Memory()
    said = []
    for text in (written, written.replace(*change)):
        gate = Gateway(build(parse(text, "gateway.yaml", {}), keep=store), open=True)
        async with gate.lifespan():
            _, cache, _ = await told(Client(gate))
            said.append(cache)

    assert said == ["miss", "hit" if kept else "miss"]
