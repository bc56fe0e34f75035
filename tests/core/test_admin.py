"""The administration: closed to everybody but its keys, however its paths are spelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace import ConfigError, Gateway, Happening, sha256
from headrace.testing import Client, Clock, gateway, settled

KEY = "0f3c9a51d7e84b62a5f0c1d29e7b8346"
OTHER = "7d1e0b93c2f54a68b9d0e1f23a4c5b67"
CONFIG = f"""
    server: {{auth: none, admin: {{key: {KEY}}}}}
    upstreams: {{a: mock, b: mock}}
    routes:
      fast: {{targets: [a, b], chain: [fallback]}}
      kept: {{targets: a, chain: [cache]}}
      /*: b
"""


class Operator(Client):
    """Asks with a key of the administration."""

    def __init__(self, made: Gateway, key: str | None = KEY) -> None:
        super().__init__(made, headers={"authorization": f"Bearer {key}"} if key else {})
        self.gateway = made
        self.told: list[Happening] = []
        made.vitals.observers = (self,)  # type: ignore[assignment]  # it listens to nothing else

    def happened(self, happening: Happening) -> None:
        self.told.append(happening)

    async def told_at(self, method: str, path: str, **options: Any) -> Any:
        return await (await self.request(method, path, **options)).json()


@asynccontextmanager
async def operated(text: str = CONFIG, key: str | None = KEY) -> AsyncIterator[Operator]:
    made = gateway(text)
    async with made.lifespan():
        yield Operator(made, key)


# Who is let in

SPELLINGS = [
    "/admin",
    "/admin/",
    "//admin",
    "/admin//reload",
    "/admin/reload",
    "/ADMIN/reload",
    "/Admin/Cache",
    "/admin/../admin/cache",
    "/x/../admin/reload",
    "/./admin/reload",
    "/admin/.",
    "/admin/reload/",
    "/admin;x=1/reload",
    "/;/admin/reload",
    "/;x/admin/reload",
    "/x;y/..;z/admin",
    "/health;x/detailed",
    "/admin/reload;x",
    "\\admin\\reload",
    "/health/detailed",
    "/health//detailed",
    "/HEALTH/detailed",
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "HEAD"])
async def test_no_spelling_gets_in_without_a_key_or_reaches_an_upstream(method: str) -> None:
    async with operated(key=None) as stranger:
        for number, path in enumerate(SPELLINGS):
            answer = await stranger.request(method, path, client=(f"192.0.2.{number}", 1))

            assert answer.status in (400, 401), path
            assert answer.headers.get("www-authenticate") in ("Bearer", None)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {OTHER}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": f"Bearer {OTHER}, Bearer {KEY}"},
        {"x-api-key": KEY},
        {"cookie": f"key={KEY}"},
        {},
    ],
)
async def test_a_key_is_shown_as_a_bearer_in_its_header_or_not_at_all(
    headers: dict[str, str],
) -> None:
    async with operated(key=None) as stranger:
        answer = await stranger.request("GET", f"/admin?key={KEY}", headers=headers)

        assert answer.status == 401
        assert KEY not in (await answer.read()).decode()


async def test_two_keys_hold_so_that_one_can_be_replaced() -> None:
    text = CONFIG.replace(f"key: {KEY}", f"key: [{KEY}, {OTHER}]")
    async with operated(text, key=OTHER) as operator:
        assert (await operator.get("/admin")).status == 200


async def test_who_shows_wrong_keys_again_and_again_is_told_less_and_less(clock: Clock) -> None:
    async with operated(key=OTHER) as stranger:
        statuses = [(await stranger.get("/admin")).status for _ in range(12)]
        right = await stranger.get("/admin", headers={"authorization": f"Bearer {KEY}"})

        assert statuses == [401] * 10 + [429] * 2
        assert right.status == 200, "nobody is locked out by others behind the same address"
        assert len(stranger.told) == 10


async def test_the_addresses_of_one_network_are_one(clock: Clock) -> None:
    async with operated(key=OTHER) as stranger:
        statuses = [
            (await stranger.get("/admin", client=(f"2001:db8::{n}", 1))).status for n in range(11)
        ]

        assert statuses == [401] * 10 + [429]


async def test_a_path_has_an_end() -> None:
    async with operated(key=None) as stranger:
        answer = await stranger.get(f"/admin/{'x' * 9000}")

        assert answer.status == 414
        assert stranger.told == []


@pytest.mark.parametrize(
    "body", [b'{"body": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"a": 1, "a": 2}']
)
async def test_what_no_call_may_hold_an_order_may_not_either(body: bytes) -> None:
    async with operated() as operator:
        assert (await operator.post("/admin/explain", body=body)).status == 400


async def test_without_an_administration_its_paths_are_nobodys() -> None:
    made = gateway("upstreams: {a: mock}\nroutes: {'*': a}")
    async with made.lifespan():
        statuses = [
            (await Client(made).get(path)).status for path in ("/admin", "/health/detailed")
        ]

    assert statuses == [404, 404]


@pytest.mark.parametrize(
    "key", ["sk-1234", "changeme", "a" * 40, "ab" * 20, "'" + "ä" * 20 + "bcdefghijklmnop'", "''"]
)
def test_a_key_that_can_be_guessed_is_none(key: str) -> None:
    with pytest.raises(ConfigError, match="admin"):
        gateway(f"server: {{admin: {{key: {key}}}}}\nupstreams: {{a: mock}}")


async def test_it_is_served_on_a_port_of_its_own_where_there_is_one() -> None:
    async with operated() as operator:
        operator.gateway.internal = 9090
        outside = await operator.get("/admin", server=("127.0.0.1", 8080))
        inside = await operator.get("/admin", server=("127.0.0.1", 9090))
        call = await operator.get("/v1/models", server=("127.0.0.1", 9090))

        assert (outside.status, inside.status, call.status) == (404, 200, 404)


# What it does


async def test_it_tells_what_there_is() -> None:
    async with operated() as operator:
        told = await operator.told_at("GET", "/admin")

    assert told["POST /admin/upstreams/{name}/rest"].startswith("Let an upstream rest")
    assert len(told) == 9


async def test_its_health_tells_the_configuration_and_each_upstream() -> None:
    async with operated() as operator:
        operator.gateway.vitals.rests.rest(("b", "m"), 20, why="it has failed", closed=True)
        told = await operator.told_at("GET", "/health/detailed")

    assert told["status"] == "ok"
    assert told["config"]["hash"] == operator.gateway.plan.hash
    assert told["store"] == {"kind": "memory", "fault": None}
    assert told["upstreams"]["a"]["state"] == "asked"
    (rests,) = told["upstreams"]["b"]["rests"]
    assert (rests["model"], rests["asked"], rests["why"]) == ("m", False, "it has failed")
    assert KEY not in str(told)


async def test_an_upstream_is_laid_down_and_taken_up_again(clock: Clock) -> None:
    async with operated() as operator:

        async def answered_by() -> str:
            answer = await operator.chat(model="fast")
            await answer.read()
            return answer.headers["x-headrace-upstream"]

        before = await answered_by()
        laid = await operator.told_at("POST", "/admin/upstreams/a/rest", json={"for": "10m"})
        clock.advance(300)
        await settled()
        during = await answered_by()
        await operator.told_at("POST", "/admin/upstreams/a/resume")
        after = await answered_by()

        assert laid == {"upstream": "a", "rests": 600}
        assert (before, during, after) == ("a", "b", "a")


async def test_a_rest_by_hand_ends_by_itself(clock: Clock) -> None:
    async with operated() as operator:
        await operator.told_at("POST", "/admin/upstreams/a/rest?for=1m")
        for _ in range(70):
            clock.advance(1)
            await settled()

        assert operator.gateway.vitals.rests.all == {}


@pytest.mark.parametrize("said", ["0s", "8d", "soon", "-1s"])
async def test_a_rest_has_an_end(said: str) -> None:
    async with operated() as operator:
        answer = await operator.post("/admin/upstreams/a/rest", json={"for": said})

        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "for"


async def test_an_upstream_that_is_not_there_is_told() -> None:
    async with operated() as operator:
        answer = await operator.post("/admin/upstreams/c/rest")

        assert answer.status == 404
        assert "there are a, b" in (await answer.json())["error"]["message"]


async def test_kept_answers_are_forgotten() -> None:
    async with operated() as operator:

        async def cache() -> str:
            answer = await operator.chat(model="kept")
            await answer.read()
            return answer.headers["x-headrace-cache"]

        first, second = await cache(), await cache()
        told = await operator.told_at("DELETE", "/admin/cache?route=kept")
        third = await cache()

        assert (first, second, told, third) == ("miss", "hit", {"cleared": 1}, "miss")


@pytest.mark.parametrize("query", ["", "?route=nowhere", "?all=true&route=kept"])
async def test_what_is_to_be_forgotten_must_be_said(query: str) -> None:
    async with operated() as operator:
        assert (await operator.request("DELETE", f"/admin/cache{query}")).status in (400, 404)


async def test_a_call_is_explained_and_nobody_is_asked() -> None:
    async with operated() as operator:
        told = await operator.told_at("POST", "/admin/explain", json={"model": "fast"})

    assert (told["route"], told["tried_by"]) == ("fast", ["fallback"])


async def test_the_configuration_is_taken_anew(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    text = f"server: {{admin: {{key: {KEY}}}}}\nupstreams: {{a: mock}}\n"
    file.write_text(text)
    operator = Operator(Gateway.load(file, environ={}, open=True))
    others: list[str] = []
    operator.gateway.tell_others = lambda: others.append("told")
    async with operator.gateway.lifespan():
        same = await operator.told_at("POST", "/admin/reload")
        file.write_text(text + "routes: {fast: a}\n")
        new = await operator.told_at("POST", "/admin/reload")
        file.write_text(text + "routes: {fast: z}\n")
        refused = await operator.post("/admin/reload")

        assert (same["changed"], new["changed"]) == (False, True)
        assert refused.status == 400
        assert "gateway.yaml:3:16: no upstream is called 'z'" in (await refused.read()).decode()
        assert others == ["told", "told"]


async def test_what_was_done_is_told_to_observers() -> None:
    async with operated() as operator:
        operator.gateway.vitals.observers = (operator,)  # type: ignore[assignment]
        await operator.post("/admin/upstreams/a/rest")
        await operator.post("/admin/upstreams/c/rest")
        await operator.get("/admin", headers={"authorization": "Bearer no"})

    told = [(one.what, one.target, one.outcome) for one in operator.told]
    assert told == [
        ("admin.rest", "a", "ok"),
        ("admin.rest", "c", "failed"),
        ("admin.refused", "/admin", "refused"),
    ]
    rested, failed, refused = (one.details for one in operator.told)
    assert rested == {"key": sha256(KEY)[:12], "upstream": "a", "rests": 3600}
    assert failed["why"].startswith("no upstream is called 'c'")
    assert KEY not in str(refused)


async def test_who_only_looks_is_not_told_of() -> None:
    async with operated() as operator:
        operator.gateway.vitals.observers = (operator,)  # type: ignore[assignment]
        await operator.get("/health/detailed")

    assert operator.told == []


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("DELETE", "/admin/cache?route=kept&tennant=acme", "did you mean 'tenant'"),
        ("POST", "/admin/upstreams/a/rest?fro=10m", "did you mean 'for'"),
        ("POST", "/admin/reload?now=1", "it takes nothing"),
    ],
)
async def test_what_is_not_known_is_not_ignored(method: str, path: str, said: str) -> None:
    async with operated() as operator:
        answer = await operator.request(method, path)

        assert answer.status == 400
        assert said in (await answer.json())["error"]["message"]


async def test_a_rest_says_truly_when_it_ends(clock: Clock) -> None:
    text = CONFIG.replace("{targets: [a, b], chain: [fallback]}", "a")
    async with operated(text) as operator:
        await operator.post("/admin/upstreams/a/rest?for=10m")
        answer = await operator.chat(model="fast")

        assert answer.status == 503
        assert 590 <= int(answer.headers["retry-after"]) <= 600


async def test_a_shorter_rest_takes_the_place_of_a_longer_one(clock: Clock) -> None:
    async with operated() as operator:
        await operator.post("/admin/upstreams/a/rest?for=1h")
        await operator.post("/admin/upstreams/a/rest?for=1m")
        (rest,) = operator.gateway.vitals.rests.all.values()

        assert rest.left <= 60


async def test_workers_without_a_common_store_do_nothing_by_halves() -> None:
    async with operated() as operator:
        operator.gateway.workers = 2
        answers = [
            await operator.post("/admin/upstreams/a/rest"),
            await operator.request("DELETE", "/admin/cache?all=true"),
            await operator.get("/admin/ratelimit/ann"),
        ]

        assert [answer.status for answer in answers] == [409, 409, 409]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/reload", 405),
        ("POST", "/health/detailed", 405),
        ("GET", "/admin/nothing", 404),
        ("POST", "/admin/upstreams/a", 404),
    ],
)
async def test_other_paths_and_methods_do_nothing(method: str, path: str, status: int) -> None:
    async with operated() as operator:
        assert (await operator.request(method, path)).status == status


@pytest.mark.parametrize("body", [b"[]", b"{", b"1", b'"x"'])
async def test_a_body_is_an_object(body: bytes) -> None:
    async with operated() as operator:
        assert (await operator.post("/admin/explain", body=body)).status == 400


async def test_a_body_has_an_end() -> None:
    async with operated() as operator:
        answer = await operator.post("/admin/explain", body=b" " * 1_000_001)

        assert answer.status == 400
