"""A store that fails when it is told to, and a client that leaves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from headrace import Call, CallError, Memory, Next, Plugin, Reply, Step, Unavailable
from headrace.testing import Upstream, ask


class Faulty(Memory):
    """Memory that does with each `apply` what its script says; after that, all goes well.

    `well` and `refuses` say before anything has happened, `forgets` when all has, that it does not
    answer; `hangs` and `stalls` are the same without a word; `slowly` is well, 30 ms later.
    """

    def __init__(self, *script: str) -> None:
        super().__init__()
        self.script = list(script)
        self.asked = 0

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        self.asked += 1
        act = self.script.pop(0) if self.script else "well"
        answers = await super().apply(*steps) if act not in ("refuses", "hangs") else []
        if act == "slowly":
            await asyncio.sleep(0.03)
        if act in ("hangs", "stalls"):
            await asyncio.Event().wait()
        if act in ("refuses", "forgets"):
            raise Unavailable("scripted")
        return answers


class Race:
    """Ask all targets, keep the first that answers."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        asked = [asyncio.ensure_future(call_next(call.towards(target))) for target in call.targets]
        failure: CallError | None = None
        try:
            for first in asyncio.as_completed(asked):
                try:
                    return await first
                except CallError as error:
                    failure = error
        finally:
            for each in asked:
                each.cancel()
            await asyncio.wait(asked)
        assert failure
        raise failure


class Cache:
    """Answer without asking."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        return Reply.plain({"object": "chat.completion", "choices": [{}]})


async def served(
    call: Call, plugins: Sequence[Plugin], upstream: Upstream, *, leaves: int | None = None
) -> None:
    """Serve a call as the edge does; the client leaves after so many turns of the loop.

    In any case it leaves when it has waited for longer than a hold lasts that nobody renews.
    """

    async def work() -> None:
        reply = await ask(*plugins, upstream=upstream, call=call)
        try:
            async for _ in reply.events:
                pass
        except BaseException as error:
            await reply.aclose(error)
            raise
        await reply.aclose()

    task = asyncio.ensure_future(work())
    if leaves is not None:
        for _ in range(leaves):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait((task,), timeout=100)
    task.cancel()
    with suppress(CallError, asyncio.CancelledError):
        await task
