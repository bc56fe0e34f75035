"""The token bucket: what happens to the numbers under one key. `lua.py` has it once more, in Lua.

Under a key stand, by name, the level of each bucket (`requests60` counts calls and fills in a
minute, `tokens86400` counts tokens and fills in a day), and `at`, the moment up to which they were
filled. A level below zero is owed. Names go by the period, so that what was counted stays when an
amount changes. What calls hold stands there by groups, those that one process began together:
`calls<id>`, how many run, `held<id>`, the tokens put aside for them, and `until<id>`, when all that
lapses unless it is renewed. So a thousand calls are no more to go through than a few.

Steps take numbers alone: their own first, then four for each bucket (1 for tokens or 0 for
requests, period, amount, capacity). A clock that goes back fills nothing and takes nothing away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

Numbers: TypeAlias = Mapping[str, float]
Answer: TypeAlias = tuple[float, ...]
Row: TypeAlias = tuple[str, bool, float, float, float]
"""The name of a bucket's level, whether it counts tokens, its period, amount and capacity."""

SLACK = 1e-6
"""What a level may lack: so much is lost where fractions are added up."""


class Bucket(NamedTuple):
    """Fills evenly, by `amount` in `period` seconds, up to `capacity`."""

    counts: Literal["requests", "tokens"]
    amount: float
    period: float
    capacity: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """What stands for it among the arguments of a step."""
        return float(self.counts == "tokens"), self.period, self.amount, self.capacity


def take(
    value: Numbers, now: float, arguments: Sequence[float]
) -> tuple[Numbers | Literal[False], Answer]:
    """Take a call, and the tokens to put aside for it, from every bucket, and a slot; or refuse.

    Arguments: the group (0 where the call holds nothing), seconds until it lapses, how many slots
    there are (-1 without an end), tokens, buckets. The answer is 1 or 0, by how much the clock has
    gone back, how many calls are running, and the levels, all as they were found. What has lapsed
    is given back first.
    """
    group, lease, slots, tokens, *numbers = arguments
    rows = list(_rows(numbers))
    kept = _filled(value, now, rows)
    for lapsed in [name[5:] for name, n in kept.items() if name[:5] == "until" and n <= now]:
        _give(kept, kept[f"held{lapsed}"], rows)
        _forget(kept, lapsed)
    running = sum(number for name, number in kept.items() if name[:5] == "calls")
    fits = slots < 0 or running < slots
    levels = [kept[name] for name, *_ in rows]
    for name, of_tokens, *_ in rows:
        wanted = tokens if of_tokens else 1
        fits = fits and (wanted == 0 or kept[name] + SLACK >= wanted)
        kept[name] -= wanted
    if group:
        calls, held, until = _names(f"{group:.0f}")
        kept[calls] = kept.get(calls, 0) + 1
        kept[held] = kept.get(held, 0) + tokens
        kept[until] = now + lease
    back = max(0.0, value.get("at", now) - now)
    return kept if fits else False, (float(fits), back, running, *levels)


def peek(value: Numbers, now: float, arguments: Sequence[float]) -> tuple[Literal[False], Answer]:
    """Answer as `take` would, and change nothing."""
    return False, take(value, now, arguments)[1]


def settle(value: Numbers, now: float, arguments: Sequence[float]) -> tuple[Numbers, Answer]:
    """End a call: tokens put aside that it did not use go back, those it used beyond are owed.

    Arguments: the group, the tokens put aside for the call, those it used, buckets. Where the group
    has lapsed, what was put aside has gone back already.
    """
    group, reserved, used, *numbers = arguments
    rows = list(_rows(numbers))
    kept = _filled(value, now, rows)
    calls, held, _ = _names(f"{group:.0f}")
    if calls in kept:
        _give(kept, reserved - used, rows)
        kept[calls] -= 1
        kept[held] -= reserved
        if kept[calls] <= 0:
            _forget(kept, f"{group:.0f}")
    else:
        _give(kept, -used, rows)
    return kept, ()


def renew(value: Numbers, now: float, arguments: Sequence[float]) -> tuple[Numbers, Answer]:
    """Let what groups hold last longer. Arguments: seconds, groups.

    Without any group, it takes note of a clock that has gone back, which a refusal cannot.
    """
    lease, *groups = arguments
    kept = _copied(value, now)
    names = [f"until{group:.0f}" for group in groups]
    return kept | {name: now + lease for name in names if name in kept}, ()


def _names(group: str) -> tuple[str, str, str]:
    return f"calls{group}", f"held{group}", f"until{group}"


def _forget(kept: dict[str, float], group: str) -> None:
    for name in _names(group):
        del kept[name]


def _rows(numbers: Sequence[float]) -> Iterator[Row]:
    for at in range(0, len(numbers), 4):
        tokens, period, amount, capacity = numbers[at : at + 4]
        kind = "tokens" if tokens else "requests"
        yield f"{kind}{period:.10g}", bool(tokens), period, amount, capacity


def _copied(value: Numbers, now: float) -> dict[str, float]:
    """All that is there; where the clock has gone back, the moments have gone back with it."""
    back = value.get("at", now) - now
    if back <= 0:
        return dict(value)
    return {
        name: number - back if name.startswith(("at", "until")) else number
        for name, number in value.items()
    }


def _filled(value: Numbers, now: float, rows: Sequence[Row]) -> dict[str, float]:
    kept = _copied(value, now)
    passed = now - kept.get("at", now)
    for name, _, period, amount, capacity in rows:
        kept[name] = min(capacity, kept.get(name, capacity) + passed * amount / period)
    kept["at"] = now
    return kept


def _give(kept: dict[str, float], tokens: float, rows: Sequence[Row]) -> None:
    for name, of_tokens, _, _, capacity in rows:
        if of_tokens:
            kept[name] = min(capacity, kept[name] + tokens)
