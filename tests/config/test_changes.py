"""What would change if one plan took another one's place, in the words that people get."""

from __future__ import annotations

import textwrap

import pytest

from headrace import sha256
from headrace.config.build import build
from headrace.config.changes import RESTART, Change, changes
from headrace.config.document import parse
from headrace.config.fields import options_of
from headrace.config.plan import Plan
from headrace.config.settings import Server

pytestmark = pytest.mark.usefixtures("registered")

ANN, BOB, EVE = (sha256(name) for name in ("ann", "bob", "eve"))


def planned(text: str, **environ: str) -> Plan:
    return build(parse(textwrap.dedent(text), "gateway.yaml", environ))


def told(old: str, new: str, **environ: str) -> list[str]:
    """The changes from one file to another, where both have two upstreams to lean on."""
    more = "" if "upstreams:" in old else "\nupstreams: {a: mock, b: mock}\n"
    return [str(each) for each in changes(planned(old + more, **environ), planned(new + more))]


SAME = f"""
server: {{attempts: 2, chain: [api_key: {{keys: {{{ANN}: ann}}}}, limit]}}
callers: {{red: {{match: {{tenant: red}}, limits: {{requests: 1/s}}}}, default: {{}}}}
upstreams: {{a: {{forwarder: {{openai: {{api_key: secret-1}}}}, health: {{}}}}, b: mock}}
routes: {{x: {{chain: [retry, fallback], targets: [a/m: {{weight: 2}}, b]}}}}
"""


def test_a_file_that_says_the_same_changes_nothing() -> None:
    other = SAME.replace("server: {attempts: 2,", "server: {port: 8080, attempts: 2,")

    assert told(SAME, other) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{x: a}", "{x: b}", "route x: targets [a] -> [b]"),
        ("{x: a}", "{x: a, y: b}", "route y is new: {targets: [b]}"),
        ("{x: a, y: b}", "{x: a}", "route y is gone"),
        (
            "{x: {chain: [fallback], targets: [a, b]}}",
            "{x: {chain: [fallback], targets: [b, a]}}",
            "route x: targets [a, b] -> [b, a]",
        ),
        (
            "{x: {chain: [weigh], targets: [a/m: {weight: 9}, b]}}",
            "{x: {chain: [weigh], targets: [a/m: {weight: 5}, b]}}",
            "route x: targets a/m weight 9 -> 5",
        ),
        (
            "{x: {chain: [race, fallback], targets: [[a], [b]]}}",
            "{x: {chain: [race, fallback], targets: [[a, b], [b]]}}",
            "route x: targets [[a], [b]] -> [[a, b], [b]]",
        ),
        (
            "{x: {chain: [retry], targets: a}}",
            "{x: {chain: [cache: {ttl: 5m}, retry], targets: a}}",
            "route x: chain [retry] -> [cache {ttl: 5m}, retry]",
        ),
        (
            "{x: {chain: [retry: {attempts: 5}], targets: a}}",
            "{x: {chain: [retry], targets: a}}",
            "route x: retry attempts 5 -> 3",
        ),
        (
            "{x: {chain: [retry, cache, retry: {wait: 1s}], targets: a}}",
            "{x: {chain: [retry, cache, retry: {wait: 2s}], targets: a}}",
            "route x: retry 2 wait 1s -> 2s",
        ),
        (
            "{x: {chain: [retry: {rules: [{status: 500}, {status: 502}]}], targets: a}}",
            "{x: {chain: [retry: {rules: [{status: 500}, {status: 503}]}], targets: a}}",
            "route x: retry rules 2 status 502 -> 503",
        ),
    ],
)
def test_routes(old: str, new: str, words: str) -> None:
    assert told(f"routes: {old}", f"routes: {new}") == [words]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "{p: {limits: {requests: 600/minute}}}",
            "{p: {limits: {requests: 300/minute}}}",
            "caller p: requests 600/minute -> 300/minute",
        ),
        (
            "{p: {limits: {requests: 60/minute}}}",
            "{p: {limits: {requests: 60/minute, burst: 5}}}",
            "caller p: burst unset -> 5",
        ),
        ("{p: {models: [x]}}", "{p: {}}", "caller p: models [x] -> unset"),
        ("{p: {}}", "{p: {}, q: {models: []}}", "caller q is new: {match: {id: [q]}}"),
        (
            f"{{p: {{match: {{key: {ANN}}}}}}}",
            f"{{p: {{match: {{key: {BOB}}}}}}}",
            f"caller p: keys [{ANN[:12]}] -> [{BOB[:12]}]",
        ),
        ("{p: {}, q: {}}", "{q: {}, p: {}}", "callers: order [p, q] -> [q, p]"),
    ],
)
def test_callers(old: str, new: str, words: str) -> None:
    around = "server: {{chain: [limit]}}\nroutes: {{x: a}}\ncallers: {}"

    assert told(around.format(old), around.format(new)) == [words]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("mock", "openai", "upstream a: forwarder mock -> openai"),
        (
            "{forwarder: mock, labels: {region: eu}}",
            "{forwarder: mock, labels: {region: us, owner: x}}",
            "upstream a: labels region eu -> us; upstream a: labels owner is new: x",
        ),
        (
            "{forwarder: mock, models: [m]}",
            "{forwarder: mock, models: {m: there}}",
            "upstream a: models m m -> there",
        ),
        ("mock", "{forwarder: mock, ask_usage: false}", "upstream a: ask_usage true -> false"),
        ("mock", "{forwarder: mock, retry_budget: 0.5}", "upstream a: retry_budget 0.2 -> 0.5"),
        (
            "{forwarder: mock, health: {}}",
            "{forwarder: mock, health: {every: 5s}}",
            "upstream a: health every 10s -> 5s",
        ),
        (
            "{forwarder: mock, plugins: [retry]}",
            "{forwarder: mock, plugins: [retry: {wait: 1s}]}",
            "upstream a: retry wait 200ms -> 1s",
        ),
        ("mock", "{forwarder: mock, enabled: false}", "upstream a: {forwarder: mock} -> disabled"),
    ],
)
def test_upstreams(old: str, new: str, words: str) -> None:
    found = told(f"upstreams: {{a: {old}}}", f"upstreams: {{a: {new}}}")

    assert "; ".join(found) == words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("port: 80", "port: 81", "server: port 80 -> 81; this needs a restart"),
        ("", "max_body: 1MB", "server: max_body 32MB -> 1MB"),
        ("", "attempts: 2", "every call: attempts 3 -> 2"),
        ("", "auth: none", "who may ask: this machine -> everybody"),
        ("observers: []", "observers: [access_log]", "observers: [] -> [access_log]"),
        ("", "chain: [limit]", "every call: chain [] -> [limit]"),
        (
            "middleware: [starlette.middleware.gzip:GZipMiddleware: {minimum_size: 1}]",
            "middleware: [starlette.middleware.gzip:GZipMiddleware: {minimum_size: 2}]",
            "every call: middleware starlette.middleware.gzip:GZipMiddleware minimum_size 1 -> 2",
        ),
        (
            "chain: [limit]",
            "chain: [limit: {name: other}]",
            "every call: chain [limit] -> [limit other]; what was counted and kept under the old "
            "name is left behind",
        ),
    ],
)
def test_what_every_call_meets(old: str, new: str, words: str) -> None:
    assert told(f"server: {{{old}}}", f"server: {{{new}}}") == [words]


BEGINS = "; what was counted and kept begins anew"
REDIS = "redis://user:pw@one:6379/0"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("memory", f"'{REDIS}'", "store: memory -> redis {url: ***}" + BEGINS),
        ("memory", "{memory: {entries: 5}}", "store: memory entries 100000 -> 5" + BEGINS),
        (
            f"'{REDIS}'",
            f"{{redis: {{url: '{REDIS}', timeout: 20ms}}}}",
            "store: redis timeout 50ms -> 20ms",
        ),
        (f"'{REDIS}'", "'redis://two'", "store: redis url has changed" + BEGINS),
        (
            f"'{REDIS}'",
            f"{{redis: {{url: '{REDIS}', prefix: p}}}}",
            "store: redis prefix headrace -> p" + BEGINS,
        ),
    ],
)
def test_a_store_says_what_is_lost(old: str, new: str, words: str) -> None:
    assert told(f"server: {{store: {old}}}", f"server: {{store: {new}}}") == [words]


def test_what_changes_in_the_same_way_is_told_once() -> None:
    text = "chains: {{c: [cache: {{ttl: {}}}]}}\nroutes: {{{}}}".format
    routes = ", ".join(f"r{number:02}: {{chain: c, targets: a}}" for number in range(12))

    assert told(text("1m", routes), text("2m", routes)) == [
        "routes r00, r01, r02, r03, r04, r05, r06, r07 and 4 more: cache ttl 1m -> 2m"
    ]


def test_of_a_long_list_it_says_what_came_and_what_went() -> None:
    models = [f"m{number}" for number in range(20)]
    written = "upstreams: {{a: mock}}\nroutes: {{'*': a}}\ncallers: {{p: {{models: [{}]}}}}".format

    assert told(written(", ".join(models)), written(", ".join([*models[1:], "new"]))) == [
        "caller p: models m0 is gone",
        "caller p: models new is new",
    ]


# Secrets

SECRETS = """
server:
  chain: [api_key: {{keys: {{{hash}: ann, {other}: bob}}}}]
  store: redis://user:CANARY-{n}@host/0
upstreams:
  key: {{forwarder: {{openai: {{api_key: "${{KEY}}"}}}}}}
  literal: {{forwarder: {{openai: {{api_key: CANARY-literal-{n}}}}}}}
  url: {{forwarder: {{openai: {{base_url: "https://host/?key=CANARY-{n}"}}}}}}
  header: {{forwarder: {{openai: {{headers: {{x-any: "${{KEY}}", cookie: CANARY-c{n}}}}}}}}}
  same: {{forwarder: {{openai: {{api_key: CANARY-same}}}}}}
"""


def secret(number: int) -> Plan:
    text = SECRETS.format(n=number, hash=(ANN, EVE)[number], other=BOB)
    return planned(text, KEY=f"CANARY-key-{number}")


def test_of_a_secret_it_says_that_it_has_changed() -> None:
    found = changes(secret(0), secret(1))

    assert [str(each) for each in found] == [
        "every call: api_key keys ann has changed",
        "store: redis url has changed" + BEGINS,
        "upstreams key, literal: openai api_key has changed",
        "upstream url: openai base_url has changed",
        "upstream header: openai headers x-any has changed",
        "upstream header: openai headers cookie has changed",
    ]
    assert "CANARY" not in repr(found)


def test_the_same_secrets_are_no_change() -> None:
    assert changes(secret(0), secret(0)) == []


def test_a_secret_that_comes_or_goes_is_not_shown() -> None:
    without = planned("upstreams: {key: {forwarder: openai}, literal: mock, url: mock, same: mock}")

    both = changes(without, secret(1)) + changes(secret(1), without)

    assert "upstream key: openai api_key unset -> ***" in map(str, both)
    assert not any("CANARY" in str(each) or "CANARY" in repr(each) for each in both)


# For those who reload


def test_what_needs_a_restart_can_be_asked() -> None:
    (found,) = changes(planned("server: {workers: 1}"), planned("server: {workers: 2}"))
    (other,) = changes(planned("server: {drain: 1s}"), planned("server: {drain: 2s}"))

    assert (found.restart, other.restart) == (True, False)
    assert {*RESTART} <= {*options_of(Server)}


@pytest.mark.parametrize(("path", "restart"), [(("tls",), True), (("tls", "certificate"), False)])
def test_another_certificate_needs_no_restart(path: tuple[str, ...], restart: bool) -> None:
    assert Change(section="server", path=path, old=None, new="x").restart is restart
