"""The token bucket: what happens to the numbers under one key. `lua.py` has it once more, in Lua.

Under a key stand, by name, the level of each bucket (`requests60` counts calls and fills in a
minute, `tokens86400` counts tokens and fills in a day), `at`, the moment up to which they were
filled, and for each call that holds something `until<id>`, when that lapses, and `reserved<id>`,
the tokens put aside for it. A level below zero is owed. Names go by the period, so that what was
counted stays when an amount changes.

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

    Arguments: the call's id (0 where it holds nothing), seconds until its hold lapses, how many
    slots there are (-1 without an end), tokens, buckets. The answer is 1 or 0, how many calls are
    running, and the levels, all as they were found. Holds that have lapsed are given back first.
    """
    call, lease, slots, tokens, *numbers = arguments
    rows = list(_rows(numbers))
    kept = _filled(value, now, rows)
    running = 0
    for name, until in value.items():
        if name.startswith("until"):
            if until > now:
                running += 1
                kept[name] = min(until, now + lease)  # it is later where the clock went back
            else:
                _end(kept, name.removeprefix("until"), 0, rows)
    fits = slots < 0 or running < slots
    levels = [kept[name] for name, *_ in rows]
    for name, of_tokens, *_ in rows:
        wanted = tokens if of_tokens else 1
        fits = fits and (wanted == 0 or kept[name] + SLACK >= wanted)
        kept[name] -= wanted
    if call:
        kept[f"until{call:.0f}"] = now + lease
        kept[f"reserved{call:.0f}"] = tokens
    return kept if fits else False, (float(fits), running, *levels)


def peek(
    value: Numbers, now: float, arguments: Sequence[float]
) -> tuple[Literal[False], Answer]:
    """Answer as `take` would, and change nothing."""
    return False, take(value, now, arguments)[1]


def settle(value: Numbers, now: float, arguments: Sequence[float]) -> tuple[Numbers, Answer]:
    """End a call's hold: tokens that it did not use go back, those it used beyond are owed.

    Arguments: the call's id, the tokens it used, 1 where this may have been done before, buckets.
    A hold that is not there has lapsed, and all that was used is owed; or this was done before.
    """
    call, used, again, *numbers = arguments
    rows = list(_rows(numbers))
    kept = _filled(value, now, rows)
    if f"until{call:.0f}" in kept:
        _end(kept, f"{call:.0f}", used, rows)
    elif not again:
        _give(kept, -used, rows)
    return kept, ()


def renew(value: Numbers, now: float, arguments: Sequence[float]) -> tuple[Numbers, Answer]:
    """Let the holds of calls that go on last longer. Arguments: seconds, the calls' ids."""
    lease, *calls = arguments
    names = [f"until{call:.0f}" for call in calls]
    return {**value, **{name: now + lease for name in names if name in value}}, ()


def _rows(numbers: Sequence[float]) -> Iterator[Row]:
    for at in range(0, len(numbers), 4):
        tokens, period, amount, capacity = numbers[at : at + 4]
        kind = "tokens" if tokens else "requests"
        yield f"{kind}{period:g}", bool(tokens), period, amount, capacity


def _filled(value: Numbers, now: float, rows: Sequence[Row]) -> dict[str, float]:
    kept = {**value, "at": now}
    passed = max(0.0, now - value.get("at", now))
    for name, _, period, amount, capacity in rows:
        kept[name] = min(capacity, value.get(name, capacity) + passed * amount / period)
    return kept


def _give(kept: dict[str, float], tokens: float, rows: Sequence[Row]) -> None:
    for name, of_tokens, _, _, capacity in rows:
        if of_tokens:
            kept[name] = min(capacity, kept[name] + tokens)


def _end(kept: dict[str, float], call: str, used: float, rows: Sequence[Row]) -> None:
    del kept[f"until{call}"]
    _give(kept, kept.pop(f"reserved{call}", 0.0) - used, rows)
