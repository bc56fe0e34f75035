"""One call that meets limits: what it has taken, and what was used of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace import Allowance, Attempt, Call, CallError, Limited, Next, Reply
from headrace_plugins.rate_limit.budget import Budget
from headrace_plugins.rate_limit.counter import Counter
from headrace_plugins.rate_limit.estimates import Estimate, Used, may_have_cost, used
from headrace_plugins.rate_limit.found import Found
from headrace_plugins.rate_limit.hold import Hold
from headrace_plugins.rate_limit.policies import Limit

_FOREVER = 60.0


@dataclass(kw_only=True)
class Visit:
    """A call on its way past its limits, from the taking to the giving back."""

    call: Call
    limits: Sequence[Limit]
    estimate: Estimate
    dry_run: bool
    found: Sequence[Found] = ()
    """What was left of each limit when it came."""
    _budget: Budget = field(default_factory=Budget)
    _attempts: list[Attempt] = field(default_factory=list)
    _taken: list[tuple[Limit, Limited]] = field(default_factory=list)
    _held: tuple[Counter, Hold] | None = None

    async def take(
        self, counter: Counter, limits: Sequence[Limit], *, local: bool = False
    ) -> list[Found]:
        """Take what it needs from all limits; those that refuse, if any. Raises `Unavailable`.

        To tell a caller what is left to it, nothing is taken.
        """
        budget = Budget(_FOREVER) if local else self._budget  # nobody waits for a store then
        if self.call.operation == "me" and self.call.caller:
            self.found = await counter.peek(limits, budget)
            return []
        self.found, hold = await counter.take(limits, budget)
        refusing = [each for each in self.found if not each.fits]
        for each in refusing:
            self.note(Limited(policy=each.limit.policy, outcome="refused", local=local))
        if not refusing:
            self._held = counter, hold
            for limit in limits:
                limited = Limited(policy=limit.policy, outcome="admitted", local=local)
                limited.reserved = limit.tokens
                self._taken.append((limit, limited))
                self.note(limited)
        return refusing

    def begin_anew(self) -> None:
        """Have all the time for the store once more."""
        self._budget = Budget()

    @property
    def allowances(self) -> list[Allowance]:
        """What is left of each limit now."""
        taken = self._held is not None
        return [each for found in self.found for each in found.allowances(taken=taken)]

    @property
    def watched(self) -> Call:
        """The call to ask below, so that what its attempts use is known here."""
        if not any(limit.tokens for limit in self.limits):
            return self.call
        return self.call.replace(each_attempt=(*self.call.each_attempt, self._watch))

    def note(self, limited: Limited) -> None:
        """Write down what a limit did."""
        limited.dry_run = self.dry_run
        self.call.record.limits.append(limited)

    async def _watch(self, call: Call, call_next: Next) -> Reply:
        """Note an attempt once it is answered, or is over, and may have cost something."""
        attempt, costs = call.told(Attempt), True
        try:
            return await call_next(call)
        except CallError as error:
            costs = attempt is not None and may_have_cost(attempt, error)
            raise
        finally:
            if attempt and costs:
                self._attempts.append(attempt)

    async def settle(self) -> None:
        """Give back what it holds, but for the tokens that were used."""
        if self._held is None:
            return
        for limit, limited in self._taken:
            spent = self._spent(limit)
            limited.settled = min(spent.tokens, limited.reserved)
            limited.released = limited.reserved - limited.settled
            limited.beyond = spent.tokens - limited.settled
            limited.estimated = spent.estimated
        counter, hold = self._held
        spent_of = [self._spent(limit).tokens for limit in hold.limits]
        await counter.holds.end(hold, spent_of, self._budget)

    def _spent(self, limit: Limit) -> Used:
        """The tokens that the attempts used, as far as a limit counts tokens."""
        if not (limit.rule.largest and self._attempts):
            return Used(0, estimated=False)
        streams = self.call.members.get("stream") is True
        return used(self._attempts, self.estimate, limit.tokens, streams=streams)
