"""Where answers are kept: no two owners, routes or caches share a place."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from headrace import Caller, Sha256, kept_under, owner_of
from headrace.keeping import owners_called

KEY = Sha256("0" * 64)


def test_each_owner_has_a_name_of_its_own() -> None:
    callers = [
        None,
        Caller(""),
        Caller("red"),
        Caller("ann", tenant="red"),
        Caller("ann", tenant="caller red"),
        Caller("tenant red"),
        Caller("red", key=KEY),
        Caller("key red"),
        Caller("staff", id="ann", listed=True),
        Caller("staff", id="bob", listed=True),
        *(Caller("red", issuer=issuer) for issuer in ("one", "two")),
        *(Caller("ann", tenant="red", issuer=issuer) for issuer in ("one", "two")),
    ]

    assert len({owner_of(caller) for caller in callers}) == len(callers)
    assert owner_of(Caller("ann", tenant="red")) == owner_of(Caller("bob", tenant="red"))


def test_an_entry_of_callers_owns_nothing() -> None:
    assert owner_of(Caller("staff", id="ann", listed=True)) == owner_of(Caller("ann"))


def test_a_name_may_mean_a_tenant_a_key_or_an_id_of_any_issuer() -> None:
    called = [Caller("ann", tenant="red"), Caller("x", id="red", key=KEY), Caller("x", id="red")]
    issued = [replace(caller, issuer="https://login.example.com/") for caller in called]
    places = [kept_under("a", "m", each) for each in owners_called("red")]

    for caller in (*called, *issued):
        assert kept_under("a", "m", owner_of(caller)).startswith(tuple(places))
    assert not kept_under("a", "m", owner_of(Caller("redder"))).startswith(tuple(places))


def test_each_cache_route_and_owner_has_a_place_of_its_own_below_the_one_above_it() -> None:
    names, routes = ("a", "b"), ("m", "m:", "*", "")
    owners = (("", ""), (":", ""), ("tenant red", ""), ("tenant red", "one"))

    places = [kept_under(*each) for each in product(names, routes, owners)]

    assert len(set(places)) == len(places)
    for (name, route, owner), place in zip(product(names, routes, owners), places, strict=True):
        assert place.startswith(kept_under(name, route))
        assert place.startswith(kept_under(name))
        above = [other for other in places if other.startswith(kept_under(name, route))]
        assert len(above) == len(owners), (route, owner)
