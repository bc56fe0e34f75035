"""Where answers are kept in the store: by the cache's name, their route, and whose they are.

In this order, so that all answers of a cache, of one of its routes, and of one owner on a route can
be cleared by the beginning of their keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from headrace.caller import Caller

Owner: TypeAlias = tuple[str, ...]
"""A tenant, key or id by its name, then the issuer of its token; a name alone is all issuers'."""


def owner_of(caller: Caller | None) -> Owner:
    """Whose answers those to a caller are: its tenant's, else its own, else nobody's.

    Its own are those of the name of its key, or of its id; an entry of `callers` owns nothing.
    """
    if caller is None:
        return ("", "")
    kind, name, issuer = caller.owner
    return (f"{kind} {name}", issuer)


def owners_called(name: str) -> list[Owner]:
    """All owners who may be meant by a name: a tenant, a key, and an id, whoever issues it."""
    return [(f"{kind} {name}",) for kind in ("tenant", "key", "id")]


def kept_under(cache: str, route: str | None = None, owner: Owner | None = None) -> str:
    """What the keys of a cache's answers begin with: of all, of a route, of an owner on a route."""
    parts = [route] if owner is None else [route or "", *owner]
    hashes = [f"{_hash(part)}:" for part in parts if part is not None]
    return "".join([f"cache:{cache}:", *hashes])


def all_under(
    cache: str, routes: Iterable[str], *, tenant: str | None = None, route: str | None = None
) -> list[str]:
    """What the keys of those answers begin with that are to be cleared.

    Keys have the route before the owner, so those of a tenant begin otherwise for each of `routes`.
    """
    if tenant is None:
        return [kept_under(cache, route)]
    return [
        kept_under(cache, each, owner)
        for each in ([route] if route else routes)
        for owner in owners_called(tenant)
    ]


def _hash(text: str) -> str:
    """Names may hold anything, and be of any length."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
