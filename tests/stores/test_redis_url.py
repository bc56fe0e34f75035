"""The URL of a Redis and the options beside it: what they mean, and what is wrong with them."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from headrace import ConfigError, Duration, Secret, Size, Store, registry
from headrace.config.build import build
from headrace.config.document import parse
from headrace.config.outline import outline
from headrace.store.memory import Memory
from headrace.store.redis import Redis
from headrace.store.redis_url import Address, Location, location

Servers = tuple[tuple[str, int], ...]


@pytest.mark.parametrize(
    ("url", "kind", "servers"),
    [
        ("redis://cache", "one", (("cache", 6379),)),
        ("redis://cache/", "one", (("cache", 6379),)),
        ("redis://10.0.0.1:7000/3", "one", (("10.0.0.1", 7000),)),
        ("rediss://[::1]:7000", "one", (("::1", 7000),)),
        ("redis://[fe80::1]", "one", (("fe80::1", 6379),)),
        ("redis+sentinel://a/main", "sentinel", (("a", 26379),)),
        (
            "rediss+sentinel://a:1,b,[::1]:3/main/3",
            "sentinel",
            (("a", 1), ("b", 26379), ("::1", 3)),
        ),
        ("redis+cluster://a,b:7000", "cluster", (("a", 6379), ("b", 7000))),
        ("rediss+cluster://a/0", "cluster", (("a", 6379),)),
    ],
)
def test_a_url_says_where_redis_is(url: str, kind: str, servers: Servers) -> None:
    found = location(url)

    assert (found.kind, found.servers) == (kind, servers)
    assert found.tls == url.startswith("rediss")
    assert found.login.database == (3 if url.endswith("/3") else 0)
    assert found.master == ("main" if kind == "sentinel" else "")


@pytest.mark.parametrize(
    ("before", "user", "password"),
    [
        ("", None, None),
        ("@", None, None),
        (":@", None, None),
        (":secret@", None, "secret"),
        ("ann:secret@", "ann", "secret"),
        ("ann%40home:%2F%3F%23%40%3A%25@", "ann@home", "/?#@:%"),
        (":a:b@", None, "a:b"),
    ],
)
def test_a_url_says_who_asks(before: str, user: str | None, password: str | None) -> None:
    for scheme in ("redis", "redis+cluster"):
        login = location(f"{scheme}://{before}cache:6379").login

        assert login.user == user
        assert login.password == (Secret(password) if password else None)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "is no URL of Redis"),
        ("cache:6379", "is no URL of Redis"),
        ("http://cache", "is no URL of Redis"),
        ("REDIS://cache", "is no URL of Redis"),
        ("redis+tls://cache", "is no URL of Redis"),
        ("redis://cache/0#top", "is no URL of Redis"),
        ("redis://:CANARY#CANARY@cache", "is no URL of Redis"),
        ("redis://:CANARY@CANARY@cache", "is no URL of Redis"),
        ("redis://a b", "is no URL of Redis"),
        ("redis://", "has a host that is none"),
        ("redis://:CANARY@", "has a host that is none"),
        ("redis://[CANARY]", "has a host that is none"),
        ("redis+cluster://a,", "has a host that is none"),
        ("redis://CANARY@cache", "has a user and no password"),
        ("redis://CANARY:@cache", "has a user and no password"),
        ("redis://cache:0", "has a port that is none"),
        ("redis://cache:65536", "has a port that is none"),
        ("redis://cache:" + "9" * 5000, "has a port that is none"),
        ("redis://:12/CANARY@cache", "ends in what is no number of a database"),
        ("redis://x:12/CANARY@cache", "ends in what is no number of a database"),
        ("redis://cache/CANARY", "ends in what is no number of a database"),
        ("redis://cache/0/1", "ends in what is no number of a database"),
        ("redis://cache/999999", "ends in what is no number of a database"),
        ("redis://a,b", "names several servers"),
        ("redis+cluster://a/1", "wants a database that a cluster has not"),
        ("redis+sentinel://a", "names no master"),
        ("redis+sentinel://a//0", "names no master"),
        ("redis+sentinel://a/main/CANARY", "ends in what is no number of a database"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_repeating_it(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as raised:
        location(url)

    assert "CANARY" not in str(raised.value)
    assert "; " in str(raised.value), "and what to write instead"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("redis://:secret@cache", "cache:6379"),
        ("redis://[::1]:7000", "[::1]:7000"),
        ("redis+sentinel://a,b/main", "main of the sentinels a:26379, b:26379"),
        ("redis+cluster://a,b", "the cluster of a:6379, b:6379"),
    ],
    indirect=["location"],
)
def test_a_place_is_shown_without_its_password(location: Location, shown: str) -> None:
    assert str(location) == shown


@pytest.fixture(name="location")
def read(request: pytest.FixtureRequest) -> Location:
    return location(request.param)


# In a gateway.yaml


def store_of(written: str, **environ: str) -> Store:
    return build(parse(f"server:\n  auth: none\n  store: {written}", "gateway.yaml", environ)).store


def problem_with(written: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        store_of(written, **environ)
    [problem] = raised.value.problems
    return str(problem).partition("\n")[0]


@pytest.mark.parametrize(
    "scheme",
    ["redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"],
)
def test_every_scheme_leads_to_the_store(scheme: str) -> None:
    assert isinstance(store_of(f"{scheme}://cache/{'main' * ('sentinel' in scheme)}"), Redis)


def test_somebody_elses_store_that_cannot_be_loaded_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint("broken", "no.such.module:Store", "headrace.stores")
    found = {"broken": broken, **registry._found("stores")}
    monkeypatch.setattr(registry, "_found", lambda group: found)

    assert isinstance(store_of("rediss://cache"), Redis)
    assert "the store 'broken' cannot be loaded" in problem_with("broken://cache")


def test_without_one_the_store_is_in_memory() -> None:
    for written in ("memory://", "memory", "{memory: }"):
        assert isinstance(store_of(written), Memory)
    assert "nothing can stand behind memory://" in problem_with("memory://somewhere")


def test_options_stand_in_the_url_or_beside_it() -> None:
    inside = store_of(
        "'redis://cache?prefix=mine&connections=5&timeout=20ms&value=2MB'",
    )
    beside = store_of(
        "{redis: {url: redis://cache, prefix: mine, connections: 5, timeout: 20ms, value: 2MB}}"
    )

    for store in (inside, beside):
        assert isinstance(store, Redis)
        assert (store.prefix, store.connections) == ("mine", 5)
        assert (store.timeout, store.value) == (0.02, 2_000_000)


def test_what_stands_in_the_url_comes_first() -> None:
    store = store_of("{redis: {url: 'redis://cache?prefix=one', prefix: other}}")

    assert isinstance(store, Redis)
    assert store.prefix == "one"


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("redis://cache:0", "10: redis: url has a port that is none; write a number"),
        ("{redis: redis://cache:0}", "18: redis: url has a port that is none; write a number"),
        ("{redis: {url: redis://cache:0}}", "24: redis: url has a port that is none; write a n"),
        ("redis", "10: redis needs the option 'url': Where it is"),
        ("redis://cache?tll=CANARY", "10: redis: the url has a parameter that is no option; there"),
        ("redis://cache?timeout=5", "10: redis: in the url, timeout has no unit; write a unit"),
        ("redis://cache?timeout=0", "10: redis: connections and timeout must be more than 0"),
        ("redis://cache?connections=CANARY", "10: redis: in the url, connections is not a number"),
        ("redis://cache?connections=0", "10: redis: connections and timeout must be more than 0"),
        ("'redis://cache?prefix={a}'", "10: redis: prefix must be some text without braces"),
        ("redis://cache?prefix=", "10: redis: prefix must be some text without braces"),
        ("redis://cache?ca=/ca.pem", "10: redis: ca is for TLS; write the url with rediss://"),
        ("rediss://cache?ca=CANARY", "10: redis: in the url, ca must begin with a slash"),
        ("rediss://cache?ca=/CANARY", "10: redis: ca is no file of certificate authorities"),
        ("{redis: {url: rediss://cache, ca: pyproject.toml}}", "18: redis: ca is no file of cert"),
    ],
)
def test_a_mistake_is_told_where_it_stands(written: str, problem: str) -> None:
    found = problem_with(written)

    assert found.startswith(f"gateway.yaml:3:{problem}")
    assert "CANARY" not in found
    assert problem_with("${URL}", URL=written.strip("'")).startswith("gateway.yaml:3:10: ") or (
        written[0] == "{" or written == "redis"
    )


def test_a_machine_without_the_package_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)

    assert problem_with("redis://cache").endswith(
        "redis: the package 'redis' is missing; pip install 'headrace[standard]'"
    )


def test_nothing_shows_the_url() -> None:
    url = "redis://ann:CANARY@cache?prefix=mine"
    plan = build(parse("server: {auth: none, store: '${URL}'}", "gateway.yaml", {"URL": url}))

    assert "CANARY" not in f"{plan.store!r} {plan.store} {outline(plan)} {vars(plan.store)}"
    assert outline(plan)["store"] == {"redis": {"url": "***", "prefix": "mine"}}


def test_its_defaults_are_those_of_a_gateway() -> None:
    store = Redis(url=Secret("redis://cache"))

    assert store.shared
    assert store.fault is None
    assert (store.timeout, store.value) == (Duration(0.05), Size(1_000_000))


def test_an_address_prints_as_urls_have_it() -> None:
    assert [str(Address("a", 1)), str(Address("::1", 1))] == ["a:1", "[::1]:1"]
