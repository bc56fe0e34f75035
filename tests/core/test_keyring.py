"""Several keys for one upstream: in turn, and one that is refused rests."""

from __future__ import annotations

import pytest

from headrace import Keyring, Reply, Secret, UpstreamError
from headrace.testing import Clock


class Server:
    """Notes the keys it is shown; refuses some with a status."""

    def __init__(self, **refused: int) -> None:
        self.shown: list[str] = []
        self.refused = refused

    async def __call__(self, key: Secret | None) -> Reply:
        shown = key.reveal() if key else "none"
        self.shown.append(shown)
        if status := self.refused.get(shown):
            raise UpstreamError.refused(status, b"", retry_after=20 if status == 429 else None)
        return Reply.plain({})


def ring(*keys: str) -> Keyring:
    return Keyring([Secret(key) for key in keys])


async def asked(ring: Keyring, server: Server, times: int) -> list[str]:
    server.shown.clear()
    for _ in range(times):
        await ring.ask(server)
    return list(server.shown)


@pytest.mark.parametrize("keys", [None, [], Secret("one"), [Secret("one")]])
async def test_one_key_or_none_is_shown_every_time(keys: Secret | list[Secret] | None) -> None:
    assert await asked(Keyring(keys), Server(), 2) == (["one"] * 2 if keys else ["none"] * 2)


async def test_several_are_shown_in_turn() -> None:
    assert await asked(ring("a", "b", "c"), Server(), 4) == ["a", "b", "c", "a"]


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_key_that_is_refused_rests_and_the_next_one_is_shown_at_once(
    status: int, clock: Clock
) -> None:
    keys, server = ring("a", "b"), Server(a=status)

    assert await asked(keys, server, 3) == ["a", "b", "b", "b"]
    clock.advance(301)
    assert await asked(keys, server, 1) == ["a", "b"]


async def test_a_key_whose_limit_is_used_up_rests_and_the_failure_is_told(clock: Clock) -> None:
    keys, server = ring("a", "b"), Server(a=429)

    with pytest.raises(UpstreamError) as raised:
        await keys.ask(server)
    assert raised.value.retry_after == 20
    assert await asked(keys, server, 2) == ["b", "b"]
    clock.advance(21)
    server.refused.clear()
    assert await asked(keys, server, 2) == ["a", "b"]


async def test_when_all_are_refused_each_was_shown_once() -> None:
    keys, server = ring("a", "b", "c"), Server(a=401, b=403, c=401)

    with pytest.raises(UpstreamError) as raised:
        await keys.ask(server)

    assert raised.value.code == "upstream_credentials"
    assert server.shown == ["a", "b", "c"]


async def test_no_log_has_a_key(caplog: pytest.LogCaptureFixture) -> None:
    await ring("sk-CANARY", "b").ask(Server(**{"sk-CANARY": 401}))

    assert "key 1 of 2 is refused (HTTP 401)" in caplog.text
    assert "CANARY" not in caplog.text
