"""The door of the administration: which paths are its own, who is let in, and what is told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import posixpath
import re
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson
from starlette.requests import Request

from headrace.admin import acts
from headrace.body import read
from headrace.caller import network
from headrace.config.plan import Plan
from headrace.config.problems import did_you_mean
from headrace.errors import (
    BadRequest,
    CallError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RateLimited,
    Unauthorized,
)
from headrace.intake import Bounds, check_head
from headrace.options import Secret
from headrace.pages import Page
from headrace.record import Happening
from headrace.store import Full, Unavailable

_HOW = "send one of 'server: {admin: {key: …}}' as 'Authorization: Bearer KEY'"
_LARGEST = 1_000_000
"""Bytes of a request's body."""
_LONGEST = 200
"""Characters of a path that observers are told."""
_PATIENCE = 10.0
"""Seconds for it to arrive."""
_MINUTE = 60.0
_MOST = 10
"""Wrong keys of one address in a minute that are told as what they are."""
_KNOWN = 1000
"""Addresses whose wrong keys are counted."""


class Operated(Protocol):
    """The gateway that is operated."""

    @property
    def plan(self) -> Plan:
        """The configuration in force."""

    @property
    def workers(self) -> int:
        """How many processes serve its port."""

    @property
    def misses(self) -> Misses:
        """The wrong keys that were shown to it."""

    async def reload(self) -> bool:
        """Take the configuration as it is written now; whether it is another one."""

    def tell_others(self) -> None:
        """Let the other processes of its port take it, too."""


def is_path(path: str) -> bool:
    """Whether a path belongs to the administration, however it is spelled."""
    segments = [each.partition(";")[0] for each in path.replace("\\", "/").split("/")]
    plain = posixpath.normpath("/" + "/".join(segments)).casefold()
    return plain.lstrip("/").split("/")[0] == "admin" or plain.lstrip("/") == "health/detailed"


class Misses:
    """Wrong keys by the address they came from, for a minute."""

    def __init__(self) -> None:
        self._at: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, address: str) -> int:
        """Count another one; how many there were in the last minute."""
        misses = self._at.setdefault(address, deque())
        self._at.move_to_end(address)
        misses.append(time.monotonic())
        while misses[0] <= misses[-1] - _MINUTE:
            misses.popleft()
        if len(misses) > _MOST + 1:  # as many as matter
            misses.popleft()
        if len(self._at) > _KNOWN:
            self._at.popitem(last=False)
        return len(misses)


class Admin:
    """Answers `/health/detailed` and everything below `/admin`, for who shows one of `keys`."""

    def __init__(self, keys: Sequence[Secret], gateway: Operated) -> None:
        self._keys = [_digest(key.reveal()) for key in keys]
        self._gateway = gateway

    async def __call__(self, asked: Request, path: str) -> Page:
        """Do what is asked. Raises `CallError` where that is not to be."""
        check_head(asked.scope, asked.headers, path, Bounds(body=_LARGEST))
        who = asked.client.host if asked.client else "unknown"
        done = _Done(who=who, target=path)
        key = self._key(asked)
        if key is None:
            raise self._refused(done)
        done.what, done.details["key"] = "unknown", key
        try:
            told = await self._act(asked, path, done)
        except Exception as error:
            done.outcome = "failed"
            done.details["why"] = str(error) or type(error).__name__
            raise
        finally:
            if asked.method != "GET" or done.outcome != "ok":
                self._gateway.plan.vitals.tell(done.happening())
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return Page(200, headers, orjson.dumps(told, option=orjson.OPT_INDENT_2, default=str))

    def _key(self, asked: Request) -> str | None:
        """The id of the key that is shown, once and nowhere but in its header; None where none is.

        A right one is always let in: nobody finds it by trying, however often.
        """
        shown = asked.headers.getlist("authorization")
        scheme, _, key = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
        digest = _digest(key.strip())
        # All of them, so that the time does not tell which one it was.
        good = [hmac.compare_digest(digest, known) for known in self._keys]
        return digest.hex()[:12] if scheme.lower() == "bearer" and any(good) else None

    def _refused(self, done: _Done) -> CallError:
        """What who shows no key is told; an observer is, too, as long as that is news."""
        misses = self._gateway.misses.note(network(done.who) or done.who)
        done.outcome = "refused"
        if misses <= _MOST:
            self._gateway.plan.vitals.tell(done.happening())
            return Unauthorized(f"this is for those who operate the gateway; {_HOW}")
        return RateLimited(
            f"more than {_MOST} wrong keys were shown from this address within a minute; {_HOW}",
            code="admin_locked",
            headers={"retry-after": f"{_MINUTE:.0f}"},
        )

    async def _act(self, asked: Request, path: str, done: _Done) -> Any:
        act, done.target, names = _find(asked.method, path)
        done.what = act.__name__
        said = await _said(asked)
        for name in said:
            if name not in names:
                hint = did_you_mean(name, names) or f"; it takes {', '.join(names) or 'nothing'}"
                raise BadRequest(f"nothing is called {name!r} here{hint}", param=name)
        try:
            told = await act(self._gateway, done.target, said)
        except Full:
            message = "somebody else is at it; ask again in a moment"
            raise Overloaded(message, code="store_down", headers={"retry-after": "1"}) from None
        except Unavailable as error:
            raise Overloaded(f"the store does not answer: {error}", code="store_down") from None
        if asked.method != "GET":
            plain = {**said, **told}.items()
            done.details |= {k: v for k, v in plain if isinstance(v, str | int | float)}
        return told


@dataclass
class _Done:
    """What was done, for those who want to know."""

    who: str
    target: str
    what: str = "refused"
    outcome: Literal["ok", "refused", "failed"] = "ok"
    details: dict[str, Any] = field(default_factory=dict)

    def happening(self) -> Happening:
        return Happening(
            what=f"admin.{self.what}",
            who=self.who,
            target=self.target[:_LONGEST],
            outcome=self.outcome,
            details=self.details,
        )


def _find(method: str, path: str) -> tuple[acts.Act, str, tuple[str, ...]]:
    """What is to be done, to what, and what can be said with it."""
    allowed = []
    for verb, pattern, act, names in acts.ACTS:
        if found := re.fullmatch(re.sub(r"\{\w+\}", "(.+)", pattern), path):
            if verb == method:
                return act, next(iter(found.groups()), path), names
            allowed.append(verb)
    if allowed:
        raise MethodNotAllowed(
            f"this path takes {' and '.join(allowed)}, not {method}",
            code="method_not_allowed",
            headers={"allow": ", ".join(allowed)},
        )
    raise NotFound("nothing is done at this path; GET /admin tells what is", code="unknown_url")


async def _said(asked: Request) -> dict[str, Any]:
    """What the query and the body say; a body is a JSON object."""
    body = b""
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in asked.stream():
                body += chunk
                if len(body) > _LARGEST:
                    raise BadRequest(f"the body is larger than {_LARGEST} bytes")
    except TimeoutError:
        message = f"the body did not arrive within {_PATIENCE:g} s"
        raise BadRequest(message, code="body_timeout") from None
    said = read(body) if body else {}
    if not isinstance(said, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    return {**asked.query_params, **said}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
