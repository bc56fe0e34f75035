"""Several targets side by side: the first good reply wins, the others are cancelled and closed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headrace.call import Call, Others, leaves
from headrace.errors import CallError, UpstreamError
from headrace.record import Raced
from headrace.reply import Reply, shielded

if TYPE_CHECKING:
    from headrace.chain import Next

Delay = Callable[[Call], float]

logger = logging.getLogger("headrace")


async def first_good(
    call: Call,
    call_next: Next,
    *,
    by: str,
    width: int | None = None,
    delay: Delay | None = None,
    wider: Callable[[int], bool] = lambda width: True,
) -> Reply:
    """The first good reply of the call's targets, asked in order, `width` or all of them at once.

    A failure never wins. The next target takes its place, unless it says that no other one will do
    better; when all have failed, the most useful failure is raised. Where the one that was asked
    last has no output `delay` seconds later, the next is asked beside it if `wider` allows it,
    which is told how many are asked at once. A call that is not idempotent is asked of one target
    after the other.

    It returns, or raises, when nothing is being asked any more. The record says, by the name of the
    plugin `by`, who has won.
    """
    if not call.idempotent:
        width, delay = 1, None
    race = _Race(call, call_next, delay)
    try:
        winner, reply = await race.won(width or len(call.targets), wider)
    finally:
        await race.end()
    race.note(by, winner, reply)
    return reply


class _Ask:
    """One target, asked in a task of its own."""

    def __init__(self, call: Call, call_next: Next, patience: float | None) -> None:
        self.call = call
        self.due = None if patience is None else asyncio.get_running_loop().time() + patience
        """When the next one may be asked beside it."""
        self.over: float | None = None
        self.task = asyncio.create_task(self._answer(call_next))

    async def _answer(self, call_next: Next) -> Reply | CallError:
        """A failure is a value here: that of a loser is raised to nobody."""
        try:
            return await call_next(self.call)
        except CallError as error:
            return error
        finally:
            self.over = time.monotonic()


class _Race:
    """The asks of one call."""

    def __init__(self, call: Call, call_next: Next, delay: Delay | None) -> None:
        self._call = call
        self._call_next = call_next
        self._delay = delay
        self._waiting = deque(call.targets)
        self._asked: list[_Ask] = []
        self._running: list[_Ask] = []

    async def won(self, width: int, wider: Callable[[int], bool]) -> tuple[_Ask, Reply]:
        """Ask until one has a good reply; of several at the same moment, the first in order."""
        while True:
            while self._waiting and len(self._running) < width:
                self._ask(self._call.towards(self._waiting.popleft()))
            if not self._running:
                raise _most_useful([ask.task.result() for ask in self._asked])
            ended = await self._ended()
            if not ended and wider(width):
                width += 1
            elif not ended:
                self._running[-1].due = None
            for ask in ended:
                self._running.remove(ask)
                answer = ask.task.result()
                if isinstance(answer, Reply):
                    return ask, answer
                if not isinstance(answer, UpstreamError):
                    raise answer
                if not answer.elsewhere:
                    self._waiting.clear()

    def _ask(self, call: Call) -> None:
        told = call.telling(Others(self._replaces)) if self._waiting else call
        ask = _Ask(told, self._call_next, self._delay and self._delay(call))
        self._asked.append(ask)
        self._running.append(ask)

    def _replaces(self, error: UpstreamError) -> bool:
        """Whether another target takes the place of one that fails so."""
        return error.elsewhere and bool(self._waiting)

    async def _ended(self) -> list[_Ask]:
        """Those that have ended; none where the one that was asked last is slow."""
        due = self._running[-1].due if self._waiting else None
        left = None if due is None else max(0.0, due - asyncio.get_running_loop().time())
        tasks = [ask.task for ask in self._running]
        await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return [ask for ask in self._running if ask.task.done()]

    async def end(self) -> None:
        """Cancel those that are still running, and wait until they are over."""
        for ask in self._running:
            ask.task.cancel()
        if self._running:
            await shielded(asyncio.wait([ask.task for ask in self._running]))
        for ask in self._running:
            if not ask.task.cancelled() and (bug := ask.task.exception()):
                logger.error("asking %s failed", ask.call.targets, exc_info=bug)

    def note(self, by: str, won: _Ask, reply: Reply) -> None:
        """Write down who won, of how many, and by how much."""
        if len(self._asked) == 1:
            return
        winner = reply.attempt.target if reply.attempt else next(leaves(won.call.targets))
        raced = Raced(plugin=by, winner=winner, of=len(self._asked))
        others = [ask.over for ask in self._running if ask.over is not None]
        if won.over and others:
            raced.margin = max(0.0, min(others) - won.over)
        self._call.record.races.append(raced)


def _most_useful(answers: Sequence[Reply | CallError]) -> UpstreamError:
    """The failure to tell where all have failed.

    It is the first that no other target will do better about, which most often is the client's own
    fault; else the one that can be asked again soonest, else the last.
    """
    errors = [answer for answer in answers if isinstance(answer, UpstreamError)]
    final = [e for e in errors if not e.elsewhere and e.code != "attempts_used_up"]
    if final:
        return final[0]
    failed = [e for e in errors if e.elsewhere] or errors
    return min((e for e in failed if e.retry_after), key=_wait, default=failed[-1])


def _wait(error: UpstreamError) -> float:
    return error.retry_after or 0.0
