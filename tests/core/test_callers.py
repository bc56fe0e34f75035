"""Who may ask for what: what is granted in `callers`, where it holds, and what each sees of it."""

from __future__ import annotations

import textwrap
from typing import Any

import orjson
import pytest
from starlette.types import Scope

from headrace import Call, Caller, Callers, ConfigError, Forbidden, Gateway, Reply, Sha256, sha256
from headrace.caller import Entry, network
from headrace.testing import Client, Upstream, gateway, says

WRITTEN = """
    callers:
      default: {models: [fast]}
      payments: {match: {tenant: payments}, models: [fast, "gpt-*", "/v1/files*"]}
      eu: {match: {groups: [berlin, paris]}, models: ["*"], only: {region: eu}}
      ann: {}
    upstreams:
      home: {forwarder: mock, labels: {region: eu}, models: [small]}
      away: {forwarder: mock, labels: {region: us}, models: [large]}
    routes:
      fast: {chain: [fallback], targets: [away/large, home/small]}
      gpt-4o: away
      gpt-*: away
      /v1/files*: away
"""


def known(scope: Scope) -> Caller | None:
    """The caller that a request's header `x-caller` says it is."""
    said = orjson.loads(dict(scope["headers"]).get(b"x-caller", b"{}"))
    said["groups"] = tuple(said.get("groups", ()))
    return Caller(**{"name": "zoe", **said})


@pytest.fixture
def upstream() -> Upstream:
    upstream = Upstream()
    upstream.script(says("hello"))
    return upstream


async def asked(
    written: str, upstream: Upstream, path: str = "", *, model: str = "", **who: Any
) -> tuple[int, Any]:
    """The status and the JSON that a chat with `model`, or a look at `path`, gets."""
    built = gateway(textwrap.dedent(written), upstream=upstream, caller=known)
    client = Client(built, headers={"x-caller": orjson.dumps(who).decode()})
    async with built.lifespan():
        response = await (client.chat(model=model) if model else client.get(path))
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("who", "model", "status"),
    [
        ({"tenant": "payments"}, "fast", 200),
        ({"tenant": "payments"}, "gpt-5", 200),
        ({"tenant": "payments"}, "away/large", 404),
        ({"tenant": "other"}, "fast", 200),
        ({"tenant": "other"}, "gpt-4o", 404),
        ({"name": "ann"}, "fast", 200),
        ({"name": "ann"}, "gpt-4o", 404),
        ({"groups": ["rome", "paris"]}, "fast", 200),
        ({"groups": ["rome"]}, "gpt-4o", 404),
    ],
)
async def test_a_caller_reaches_the_models_it_is_granted(
    who: dict[str, Any], model: str, status: int, upstream: Upstream
) -> None:
    found, told = await asked(WRITTEN, upstream, model=model, **who)

    assert found == status, told
    assert len(upstream.asked) == (1 if status == 200 else 0)


async def test_a_model_that_is_not_granted_is_refused_in_the_words_of_one_that_is_not_there(
    upstream: Upstream,
) -> None:
    _, told = await asked(WRITTEN, upstream, model="gpt-4o")
    _, absent = await asked(WRITTEN, upstream, model="nobody-4o")

    assert told["error"]["code"] == "model_not_found"
    assert told["error"]["message"].replace("gpt", "nobody") == absent["error"]["message"]
    assert "did you mean one of: fast?" in told["error"]["message"]


@pytest.mark.parametrize(
    ("who", "models"),
    [
        ({}, ["fast"]),
        ({"tenant": "payments"}, ["fast", "gpt-4o"]),
        ({"groups": ["paris"]}, ["fast", "home/small"]),
    ],
)
async def test_the_list_of_models_is_what_a_caller_may_ask_for(
    who: dict[str, Any], models: list[str], upstream: Upstream
) -> None:
    _, listed = await asked(WRITTEN, upstream, "/v1/models", **who)

    assert [entry["id"] for entry in listed["data"]] == models


@pytest.mark.parametrize(("model", "status"), [("fast", 200), ("gpt-4o", 404), ("gpt-7", 404)])
async def test_a_single_model_is_shown_to_those_who_may_use_it(
    model: str, status: int, upstream: Upstream
) -> None:
    found, _ = await asked(WRITTEN, upstream, f"/v1/models/{model}")

    assert found == status


async def test_only_upstreams_with_the_wanted_labels_are_asked(upstream: Upstream) -> None:
    status, _ = await asked(WRITTEN, upstream, model="fast", groups=["berlin"])

    assert status == 200
    assert upstream.asked == ["home"]


async def test_where_no_upstream_has_the_wanted_labels_the_caller_is_told(
    upstream: Upstream,
) -> None:
    status, told = await asked(WRITTEN, upstream, model="gpt-4o", groups=["berlin"])

    assert (status, told["error"]["code"]) == (403, "no_upstream_allowed")
    assert not upstream.asked


@pytest.mark.parametrize(("who", "status"), [({"tenant": "payments"}, 200), ({}, 404)])
@pytest.mark.parametrize("path", ["/v1/files/x", "/files/x"])
async def test_paths_are_granted_as_models_are(
    path: str, who: dict[str, Any], status: int, upstream: Upstream
) -> None:
    async def listed(upstream: Upstream, call: Call) -> Reply:
        return Reply.plain({"files": []})

    upstream.script(listed)
    found, _ = await asked(WRITTEN, upstream, path, **who)

    assert found == status


async def test_whom_no_entry_fits_is_refused_where_there_is_no_default(upstream: Upstream) -> None:
    written = """
        callers: {payments: {match: {tenant: payments}}}
        upstreams: {a: mock}
        routes: {"*": a}
    """
    status, told = await asked(written, upstream, model="x", tenant="other")

    assert (status, told["error"]["code"]) == (403, "caller_not_listed")
    assert (await asked(written, upstream, model="x", tenant="payments"))[0] == 200


async def test_nobody_in_particular_has_the_default(upstream: Upstream) -> None:
    built = gateway(textwrap.dedent(WRITTEN), upstream=upstream)
    async with built.lifespan():
        listed = await (await Client(built).get("/v1/models")).json()

    assert [entry["id"] for entry in listed["data"]] == ["fast"]


def test_where_nobody_is_known_each_address_is_somebody() -> None:
    callers = Callers(default=Entry(name="default", match={}))

    ann, bob = (callers.of(None, address) for address in ("10.0.0.1", "10.0.0.2"))

    assert ann
    assert bob
    assert (ann.name, ann.id, bob.id) == ("anybody", "10.0.0.1", "10.0.0.2")


async def test_me_tells_who_one_is_and_what_one_may_use(upstream: Upstream) -> None:
    status, told = await asked(WRITTEN, upstream, "/v1/me", tenant="payments", name="bob")

    assert status == 200
    assert told == {
        "object": "caller",
        "name": "payments",
        "id": "bob",
        "tenant": "payments",
        "issuer": None,
        "groups": [],
        "models": ["fast", "gpt-4o"],
        "limits": [],
    }


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({"tenant": ("acme",)}, True),
        ({"tenant": ("other", "acme")}, True),
        ({"tenant": ("acm",)}, False),
        ({"tenant": ("ACME",)}, False),
        ({"tenant": ("acme",), "groups": ("red",)}, False),
        ({"groups": ("blue",)}, True),
        ({"id": ("ann",)}, True),
        ({"plan": ("gold",)}, True),
        ({"level": ("3",)}, True),
        ({"admin": ("true",)}, True),
        ({"admin": ("True",)}, False),
        ({"roles": ("b",)}, True),
        ({"nested": ("",)}, False),
        ({"absent": ("None",)}, False),
        ({"absent": ("",)}, False),
        ({"key": (sha256("sk"),)}, True),
        ({"key": (sha256("sk2"),)}, False),
    ],
)
def test_an_entry_fits_by_what_is_known_of_a_caller(
    match: dict[str, tuple[str, ...]], fits: bool
) -> None:
    claims = {"plan": "gold", "level": 3, "admin": True, "roles": ["a", "b"], "nested": {"a": 1}}
    ann = Caller("ann", tenant="acme", groups=("blue", "green"), key=sha256("sk"), claims=claims)

    assert Entry(name="e", match=match).fits(ann) is fits


def test_the_first_entry_that_fits_is_the_callers() -> None:
    both = [Entry(name=name, match={"tenant": ("acme",)}) for name in ("one", "two")]

    found = Callers(entries=tuple(both)).of(Caller("ann", tenant="acme"))

    assert found
    assert (found.name, found.id, found.listed) == ("one", "ann", True)


def test_a_claim_does_not_stand_for_a_field_of_the_caller() -> None:
    forged = Caller("eve", tenant="evil", claims={"tenant": "acme", "id": "ann", "key": "k"})

    for match in ({"tenant": ("acme",)}, {"id": ("ann",)}, {"key": ("k",)}):
        assert not Entry(name="e", match=match).fits(forged)


def test_without_a_list_of_callers_everybody_stays_as_they_are() -> None:
    ann = Caller("ann")

    assert Callers().of(ann) is ann
    assert Callers().of(None) is None


def test_what_a_key_may_use_and_what_its_caller_may_hold_together() -> None:
    entry = Entry(name="e", match={"id": ("ann",)}, models=("gpt-*", "fast"))

    found = Callers(entries=(entry,)).of(Caller("ann", models=(("gpt-*",), ("*-mini", "fast"))))

    assert found
    assert [m for m in ("gpt-4o", "gpt-4o-mini", "fast") if found.may(m)] == ["gpt-4o-mini"]


def test_nobody_is_refused_by_accident_where_nothing_matches_and_no_default_is_there() -> None:
    with pytest.raises(Forbidden, match="ask those who run it"):
        Callers(entries=(Entry(name="e", match={"id": ("ann",)}),)).of(Caller("bob"))


def test_keys_of_entries_are_known_by_their_sha256() -> None:
    entry = Entry(name="payments", match={"key": (sha256("a"), sha256("b")), "tenant": ("x",)})

    assert Callers(entries=(entry,)).keys == {sha256("a"): "payments", sha256("b"): "payments"}
    assert all(isinstance(key, Sha256) for key in Callers(entries=(entry,)).keys)


def built(written: str) -> Gateway:
    return gateway(textwrap.dedent(written))


def test_what_is_not_written_is_what_the_default_says() -> None:
    plan = built("""
        server: {chain: [rate_limit]}
        callers:
          default: {models: [a], limits: {requests: 60/minute, concurrent: 5}, only: {x: y}}
          one: {}
          two: {models: [b], limits: {requests: [9/s, 5k/day]}, only: {}}
          three: {limits: {requests: }}
        upstreams: {up: {forwarder: mock, labels: {x: y}}}
        routes: {a: up, b: up}
    """).plan
    one, two, three, default = plan.callers.written

    assert (one.models, one.limits, one.only) == (("a",), default.limits, {"x": "y"})
    assert (two.models, two.only) == (("b",), {})
    assert [str(rate) for rate in two.limits.rates("requests")] == ["9/second", "5k/day"]
    assert two.limits.concurrent == 5
    assert three.limits.rates("requests") == ()
    assert three.limits.concurrent == 5


def test_limits_that_nobody_would_keep_are_a_problem() -> None:
    with pytest.raises(ConfigError, match="nobody would keep these limits"):
        built("""
            callers: {default: {limits: {requests: 60/minute}}}
            upstreams: {up: mock}
            routes: {a: up}
        """)


# What somebody could get by a trick


@pytest.mark.parametrize("claims", [{"tenant": "acme"}, {"groups": ["admins"]}])
def test_a_claim_never_stands_in_for_a_tenant_or_group_that_is_not_there(
    claims: dict[str, Any],
) -> None:
    eve = Caller("eve", claims=claims)

    assert not Entry(name="e", match={"tenant": ("acme",)}).fits(eve)
    assert not Entry(name="e", match={"groups": ("admins",)}).fits(eve)


def test_paths_are_granted_by_patterns_of_paths_and_models_by_those_of_models() -> None:
    ann = Caller("ann", models=(("*", "/v1/files*"),))

    assert ann.may("/v1/batches")  # a model may be called so
    assert ann.may_pass("/v1/files/x")
    assert not ann.may_pass("/v1/batches")
    assert not Caller("bob", models=(("/v1/files*",),)).may("/v1/files")
    assert not Caller("bob", models=(("*-mini",),)).may_pass("/v1/files/x-mini")


async def test_a_grant_of_v1_opens_no_route_beside_it(upstream: Upstream) -> None:
    written = """
        callers: {default: {models: ["/v1/*"]}}
        upstreams: {a: mock}
        routes: {"/v1/files*": a, "/admin*": a, "/files": a}
    """
    for path in ("/admin/users", "/files"):
        assert (await asked(written, upstream, path))[0] == 404
    assert not upstream.asked


def test_an_id_that_is_like_an_entrys_name_is_somebody_else() -> None:
    callers = Callers(
        entries=(Entry(name="payments", match={"groups": ("pay",)}),),
        default=Entry(name="default", match={}),
    )
    listed, forged = callers.of(Caller("x", groups=("pay",))), callers.of(Caller("payments"))

    assert listed
    assert forged
    assert listed.name == forged.name
    assert listed.identity != forged.identity


@pytest.mark.parametrize("written", ["callers:", "callers: {}", "callers: []"])
def test_a_list_of_callers_with_nobody_in_it_is_a_problem(written: str) -> None:
    with pytest.raises(ConfigError, match=r"callers is empty|callers must be a mapping"):
        built(f"{written}\nupstreams: {{up: mock}}\nroutes: {{a: up}}\n")


def test_models_with_nothing_behind_them_are_a_problem() -> None:
    with pytest.raises(ConfigError, match="models must say which"):
        built("callers: {default: {models: }}\nupstreams: {up: mock}\nroutes: {a: up}\n")


def test_limits_are_kept_only_behind_what_finds_out_who_asks() -> None:
    key = "api_key: {keys: {" + sha256("sk") + ": ann}}"
    written = "callers: {default: {limits: {requests: 60/minute}}}\nupstreams: {a: mock}\n"

    with pytest.raises(ConfigError, match="nobody would keep these limits"):
        built(f"server: {{chain: [rate_limit, {key}]}}\n{written}")
    built(f"server: {{chain: [{key}, rate_limit]}}\n{written}")


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("no:address", "no:address"),
        (None, None),
    ],
)
def test_who_has_one_address_of_a_network_has_all(address: str | None, known: str | None) -> None:
    assert network(address) == known
