"""The token bucket as one would explain it: slow, exact, and made from all that ever happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from headrace_plugins.rate_limit.bucket import SLACK, Bucket


class Happened(NamedTuple):
    """Something that changed the levels."""

    when: Fraction
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Group:
    """Calls that lapse together."""

    until: Fraction
    calls: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Reference:
    """Keeps a list of what happened, and goes through all of it for every question."""

    buckets: tuple[Bucket, ...]
    slots: int | None
    lease: int
    past: tuple[Happened, ...] = ()
    groups: Mapping[int, Group] = field(default_factory=dict)

    def level(self, bucket: Bucket, now: Fraction) -> Fraction:
        """How full a bucket is."""
        capacity = level = Fraction(bucket.capacity)
        at = self.past[0].when if self.past else now
        for event in (*self.past, Happened(now)):
            passed = max(Fraction(0), event.when - at)
            level += passed * Fraction(bucket.amount) / Fraction(bucket.period)
            added = event.tokens if bucket.counts == "tokens" else event.requests
            level = min(capacity, min(capacity, level) + added)
            at = event.when
        return level

    def after(self, event: Happened) -> Reference:
        """Once more has happened. A clock that goes back takes what is to come with it."""
        back = max(Fraction(0), self.past[-1].when - event.when) if self.past else Fraction(0)
        groups = {
            number: replace(group, until=group.until - back)
            for number, group in self.groups.items()
        }
        return replace(self, past=(*self.past, event), groups=groups)

    def having(self, number: int, group: Group) -> Reference:
        """With one group as it is now; one without calls is none."""
        others = {each: them for each, them in self.groups.items() if each != number}
        return replace(self, groups={**others, number: group} if group.calls else others)

    def taking(self, now: Fraction, number: int, tokens: int) -> Reference | None:
        """Once a call is let in; None where it is not."""
        trial = self.after(Happened(now))
        for lapsed, group in trial.groups.items():
            if group.until <= now:
                gone = trial.having(lapsed, Group(now))
                trial = gone.after(Happened(now, tokens=group.tokens))
        running = sum(group.calls for group in trial.groups.values())
        if trial.slots is not None and running >= trial.slots:
            return None
        for bucket in trial.buckets:
            wanted = tokens if bucket.counts == "tokens" else 1
            if wanted and trial.level(bucket, now) + Fraction(SLACK) < wanted:
                return None
        old = trial.groups.get(number, Group(now))
        group = Group(now + self.lease, old.calls + 1, old.tokens + tokens)
        return trial.having(number, group).after(Happened(now, requests=-1, tokens=-tokens))

    def settling(self, now: Fraction, number: int, reserved: int, used: int) -> Reference:
        """Once a call is over."""
        told = self.after(Happened(now))
        if number not in told.groups:
            return told.after(Happened(now, tokens=-used))
        old = told.groups[number]
        group = Group(old.until, old.calls - 1, old.tokens - reserved)
        return told.having(number, group).after(Happened(now, tokens=reserved - used))

    def renewing(self, now: Fraction, numbers: list[int]) -> Reference:
        """Once groups are known to go on."""
        went_back = bool(self.past) and now < self.past[-1].when
        told = self.after(Happened(now)) if went_back else self
        for number in numbers:
            if number in told.groups:
                told = told.having(number, replace(told.groups[number], until=now + self.lease))
        return told
