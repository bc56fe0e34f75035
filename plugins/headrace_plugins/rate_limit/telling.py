"""What limits say: in the headers of replies and errors, and in refusals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

from headrace import Allowance, CallError, Duration, RateLimited, UpstreamError
from headrace_plugins.rate_limit.found import Found, Left

_UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
_MARGIN = 0.001
"""Seconds that are added to a wait, so that whoever comes back then is not too early."""


class Speech:
    """What the limits that a call meets say of themselves.

    Told as a fact from each plugin of this kind to those below; the outermost speaks for all.
    """

    def __init__(self) -> None:
        self.said: dict[str, tuple[Allowance, ...]] = {}
        """By the name of the plugin, for a call may pass one again."""

    def onto(self, headers: MutableMapping[str, str]) -> None:
        """Say it in headers, in place of what an upstream says of its own limits."""
        allowances = [each for said in self.said.values() for each in said]
        if allowances:
            for name in [name for name in headers if name.startswith("x-ratelimit-")]:
                del headers[name]
            headers.update(_as_openai(allowances))
            headers.update(_as_draft(allowances))


def _as_openai(allowances: Sequence[Allowance]) -> Mapping[str, str]:
    """OpenAI's headers, of the limit with the least share left."""
    headers = {}
    for counts in ("requests", "tokens"):
        such = [each for each in allowances if each.counts == counts]
        if such:
            least = min(such, key=lambda each: each.remaining / each.limit)
            headers[f"x-ratelimit-limit-{counts}"] = str(least.limit)
            headers[f"x-ratelimit-remaining-{counts}"] = str(least.remaining)
            headers[f"x-ratelimit-reset-{counts}"] = lasting(least.reset or 0)
    return headers
