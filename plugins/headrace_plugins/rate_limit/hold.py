"""What one call holds, and the note of it, by which it is given back once however often one tries.

The note stands under a key of the call's own. It is written with what is taken and forgotten with
what is given back; where nobody knows whether that has been done, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from headrace import Step
from headrace_plugins.rate_limit.policies import Limit, Run

Twins: TypeAlias = tuple[Run, str]
"""A step's function, and the same in Lua."""

_BEGIN: Twins = (lambda *_: ({"held": 1}, ()), "return {held = 1}, {}")
_GO_ON: Twins = (lambda value, *_: (value, ()), "return value, {}")
_END: Twins = (lambda *_: (None, ()), "return nil, {}")
_END_ONCE: Twins = (  # refuses where there is no note, so that nothing happens with it either
    lambda value, *_: (None if value else False, ()),
    "if next(value) then return nil, {} end return false, {}",
)


class Hold(NamedTuple):
    """What one call holds of some limits, as one of a group of calls."""

    key: str
    """Where the note is."""
    group: int
    limits: tuple[Limit, ...]

    def begin(self, lease: float) -> list[Step]:
        """Note that it holds something, if it does."""
        return [self._step(_BEGIN, lease)] if self.limits else []

    def go_on(self, lease: float) -> Step:
        """Keep the note."""
        return self._step(_GO_ON, lease)

    def settle(self, used: Sequence[int], lease: float, *, again: bool) -> list[Step]:
        """Give it back, but for what was used; `again`, only if that has not been done before."""
        pairs = zip(self.limits, used, strict=True)
        return [
            self._step(_END_ONCE if again else _END, lease),
            *(limit.settle(self.group, tokens, lease) for limit, tokens in pairs),
        ]

    def _step(self, twins: Twins, lease: float) -> Step:
        run, lua = twins
        return Step(key=self.key, run=run, lua=lua, ttl=2 * lease)
