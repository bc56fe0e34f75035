"""What limits say of themselves, in the headers of replies and errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from headrace import Allowance

_UNITS = {"requests": "", "tokens": ';qu="tokens"', "concurrent": ';qu="concurrent-requests"'}


class Speech:
    """What the limits that a call meets say of themselves.

    Each plugin of this kind tells it to those below as a fact; the outermost speaks for all.
    """

    def __init__(self) -> None:
        self.said: dict[str, Sequence[Allowance]] = {}
        """By the plugin's name, since a call may come to it again."""

    def over(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers that say it, in place of what an upstream says of limits of its own."""
        told = [allowance for said in self.said.values() for allowance in said]
        if not told:
            return dict(headers)
        others = {k: v for k, v in headers.items() if not k.lower().startswith("x-ratelimit-")}
        return {**others, **_as_openai(told), **_as_draft(told)}


def _as_openai(told: Sequence[Allowance]) -> dict[str, str]:
    """OpenAI's headers: of what is counted the limit that has the least share left."""
    headers = {}
    for counts in ("requests", "tokens"):
        such = [allowance for allowance in told if allowance.counts == counts]
        if such:
            least = min(such, key=lambda allowance: allowance.remaining / allowance.limit)
            headers[f"x-ratelimit-limit-{counts}"] = f"{least.limit}"
            headers[f"x-ratelimit-remaining-{counts}"] = f"{least.remaining}"
            headers[f"x-ratelimit-reset-{counts}"] = lasting(least.reset or 0)
    return headers


def _as_draft(told: Sequence[Allowance]) -> dict[str, str]:
    """The headers of draft-ietf-httpapi-ratelimit-headers-10: lists, a member for each limit.

    The first limit of a policy goes by the policy's name, which needs no escapes, others by more.
    """
    policies: dict[str, str] = {}
    states: list[str] = []
    for allowance in told:
        name = next(name for name in _names(allowance) if name not in policies)
        window = f";w={math.ceil(allowance.per)}" if allowance.per else ""
        reset = f";t={math.ceil(allowance.reset)}" if allowance.reset is not None else ""
        policies[name] = f'"{name}";q={allowance.limit}{window}{_UNITS[allowance.counts]}'
        states.append(f'"{name}";r={allowance.remaining}{reset}')
    return {"ratelimit-policy": ", ".join(policies.values()), "ratelimit": ", ".join(states)}


def _names(allowance: Allowance) -> Iterator[str]:
    yield allowance.policy
    yield f"{allowance.policy}-{allowance.counts}"
    number = 2
    while True:
        yield f"{allowance.policy}-{allowance.counts}-{number}"
        number += 1


def lasting(seconds: float) -> str:
    """A time as OpenAI writes it: 20ms, 1s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, left = divmod(math.ceil(seconds), 60)
    if not minutes:
        return f"{left}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{left}s" if hours else f"{minutes}m{left}s"
