"""What a client wants of the cache, for itself alone: `Cache-Control` (RFC 9111, 5.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from headrace import Call, CallError


@dataclass(frozen=True, kw_only=True)
class Control:
    """The directives of a request that are kept; all others say nothing here."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: float | None = None

    @classmethod
    def of(cls, call: Call) -> Self:
        """Those that came with a call. What cannot be read as a number says nothing."""
        said = directives(", ".join(call.headers.getlist("cache-control")))
        age = said.get("max-age", "")
        return cls(
            no_cache="no-cache" in said,
            no_store="no-store" in said,
            only_if_cached="only-if-cached" in said,
            max_age=float(age) if age.isdecimal() and age.isascii() and len(age) < 16 else None,
        )

    def takes(self, age: float) -> bool:
        """Whether an answer that was kept for `age` seconds is good enough."""
        return not self.no_cache and (self.max_age is None or age <= self.max_age)


def directives(header: str) -> dict[str, str]:
    """The directives of a `Cache-Control` header by name, each with what stands behind its `=`."""
    parts = (part.strip().partition("=") for part in header.split(","))
    return {name.strip().lower(): value.strip(' "') for name, _, value in parts}


class NotCached(CallError):
    """The client wants an answer that is kept, and there is none (RFC 9111, 5.2.1.7)."""

    status = 504
    type = "invalid_request_error"
    default_code = "not_cached"
    wanted = True


def not_cached(why: str) -> NotCached:
    """The refusal for a client that says `only-if-cached`."""
    reason = f" ({why})" if why else ""
    return NotCached(
        f"there is no kept answer to this{reason}, and 'Cache-Control: only-if-cached' asks for "
        "one; leave it out to have the question asked",
        headers={"x-should-retry": "false"},
    )
