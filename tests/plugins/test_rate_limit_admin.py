"""`rate_limit` and who operates the gateway: what is left to somebody, and a new beginning."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import sha256
from headrace.testing import Client, Clock, gateway

KEY = "0f3c9a51d7e84b62a5f0c1d29e7b8346"
ADMIN = {"authorization": f"Bearer {KEY}"}
ANN, BOB = ({"authorization": f"Bearer {name}"} for name in ("ann-key", "bob-key"))
CONFIG = f"""
    server:
      admin: {{key: {KEY}}}
      chain:
        - api_key:
            keys:
              KEYS
        - rate_limit: {{policies: POLICIES}}
    upstreams: {{a: mock}}
    routes: {{fast: a, slow: a}}
"""


def written(policies: str, limits: str = "") -> str:
    keys = "\n".join(f"              {sha256(f'{name}-key')}: {name}" for name in ("ann", "bob"))
    lines = CONFIG.replace("POLICIES", policies).splitlines()
    lines = [keys if "KEYS" in line else line for line in lines]
    return "\n".join([*lines, limits])


async def told(client: Client, method: str, who: str) -> Any:
    answer = await client.request(method, f"/admin/ratelimit/{who}", headers=ADMIN)
    assert answer.status == 200, await answer.read()
    return await answer.json()


async def statuses(asked: Client, count: int, who: dict[str, str], **options: Any) -> list[int]:
    found = []
    for _ in range(count):
        answer = await asked.post(
            "/v1/chat/completions",
            json={"model": "fast", "messages": [{"role": "user", "content": "hi"}]},
            headers=who,
            **options,
        )
        await answer.read()
        found.append(answer.status)
    return found


GRANTED = """
    callers:
      ann: {limits: {requests: 2/minute}}
      default: {limits: {requests: 1/minute}}
"""


async def test_what_is_left_to_an_entry_is_told_and_nothing_is_taken(clock: Clock) -> None:
    made = gateway(written("[]", GRANTED))
    async with made.lifespan():
        client = Client(made)
        await statuses(client, 1, ANN)
        for _ in range(3):
            (limit,) = (await told(client, "GET", "ann"))["limits"]

    assert (limit["policy"], limit["counts"]) == ("caller", "requests")
    assert (limit["limit"], limit["remaining"]) == (2, 1)


async def test_who_was_forgotten_begins_anew_and_nobody_else_does(clock: Clock) -> None:
    made = gateway(written("[]", GRANTED))
    async with made.lifespan():
        client = Client(made)
        before = await statuses(client, 3, ANN), await statuses(client, 2, BOB)
        forgotten = await told(client, "DELETE", "ann")
        after = await statuses(client, 3, ANN), await statuses(client, 1, BOB)

    assert before == ([200, 200, 429], [200, 429])
    assert forgotten == {"id": "ann", "forgotten": 1}
    assert after == ([200, 200, 429], [429])


@pytest.mark.parametrize("strategy", ["token_bucket", "fixed_window", "moving_window"])
async def test_policies_of_every_strategy_are_told_and_forgotten(
    clock: Clock, strategy: str
) -> None:
    policy = f"[{{by: [id, model], requests: 1/hour, strategy: {strategy}}}]"
    made = gateway(written(policy))
    async with made.lifespan():
        client = Client(made)
        before = await statuses(client, 2, BOB)
        (limit,) = (await told(client, "GET", "bob"))["limits"]
        await told(client, "DELETE", "bob")
        empty = (await told(client, "GET", "bob"))["limits"]
        after = await statuses(client, 2, BOB)

    assert (before, limit["remaining"], empty, after) == ([200, 429], 0, [], [200, 429])


async def test_an_address_is_somebody_too(clock: Clock) -> None:
    made = gateway(written("[{by: address, requests: 1/hour}]"))
    async with made.lifespan():
        client = Client(made)
        at = {"client": ("203.0.113.9", 5)}
        assert await statuses(client, 2, ANN, **at) == [200, 429]
        assert (await told(client, "DELETE", "203.0.113.9"))["forgotten"] == 1
        assert await statuses(client, 1, ANN, **at) == [200]


async def test_of_somebody_whom_nobody_has_counted_there_is_nothing(clock: Clock) -> None:
    made = gateway(written("[{by: tenant, requests: 1/hour}]", GRANTED))
    async with made.lifespan():
        assert (await told(Client(made), "GET", "eve"))["limits"] == []
