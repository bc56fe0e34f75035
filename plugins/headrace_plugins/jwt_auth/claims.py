"""What the claims of a token must say, and whom they are about (RFC 7519, 4.1)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace import Caller
from headrace_plugins.jwt_auth.tokens import Refused

About = Literal["id", "tenant", "groups"]
"""What is taken from the claims."""

NAMES: Mapping[About, str] = {"id": "sub", "tenant": "tenant", "groups": "groups"}
"""The claims it is taken from, where nothing else is configured."""

_LATEST = 253_402_300_799  # the end of the year 9999
_LONGEST = 256


class Expired(Refused):
    """A token whose time is over."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What is expected of the claims of a token whose signature holds."""

    issuers: frozenset[str]
    audiences: frozenset[str]
    required: tuple[str, ...]
    leeway: float
    names: Mapping[About, str]

    def caller(self, said: Mapping[str, Any]) -> Caller:
        """Whom the token is about. Raises `Refused` where it is not for here, or not for now."""
        for name in ("iss", "aud", "exp", *self.required):
            if said.get(name) is None:
                raise Refused(f"it has no claim {name!r}")
        self._check_origin(said)
        self._check_times(said)
        subject = self._text(said, "id")
        if subject is None:
            raise Refused(f"it has no claim {self.names['id']!r}, which would say who asks")
        return Caller(
            subject,
            id=subject,
            issuer=said["iss"],
            tenant=self._text(said, "tenant"),
            groups=self._texts(said, "groups"),
            claims=said,
        )

    def is_ours(self, said: Mapping[str, Any]) -> bool:
        """Whether a token says that it is for here; enough to ask for keys, and for no more."""
        try:
            self._check_origin({"iss": None, "aud": None, **said})
        except Refused:
            return False
        return True

    def _check_origin(self, said: Mapping[str, Any]) -> None:
        issuer, audience = said["iss"], said["aud"]
        if not isinstance(issuer, str) or issuer not in self.issuers:
            raise Refused("its issuer is not the one that is configured")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(one, str) for one in audiences):
            raise Refused("its audience is neither text nor a list of texts")
        if self.audiences.isdisjoint(audiences):
            raise Refused("its audience is not the one that is configured")

    def _check_times(self, said: Mapping[str, Any]) -> None:
        now = time.time()
        if _moment(said, "exp") <= now - self.leeway:
            raise Expired("it has expired")
        for name in {"nbf", "iat"} & said.keys():
            if _moment(said, name) > now + self.leeway:
                raise Refused(f"its {name} is in the future")

    def _text(self, said: Mapping[str, Any], about: About) -> str | None:
        value = _found(said, self.names[about])
        return None if value is None else self._fitting(value, about)

    def _texts(self, said: Mapping[str, Any], about: About) -> tuple[str, ...]:
        value = _found(said, self.names[about])
        values = [] if value is None else value if isinstance(value, list) else [value]
        return tuple(self._fitting(one, about) for one in values)

    def _fitting(self, value: Any, about: About) -> str:
        """A name as logs, limits and `callers` can take it."""
        if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable():
            return value
        what = f"its claim {self.names[about]!r}, for {about},"
        raise Refused(f"{what} is not printable text of 1 to {_LONGEST} characters")


def _moment(said: Mapping[str, Any], name: str) -> float:
    """A claim that is a time, in seconds since 1970."""
    value = said[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise Refused(f"its {name} is not a time in seconds")
    return value


def _found(said: Mapping[str, Any], name: str) -> Any:
    """The claim of this very name; else, with dots, the way to it through objects."""
    if name in said:
        return said[name]
    value: Any = said
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
