"""Plugins in order: a chain is one function from call to reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from headrace.call import Call
from headrace.reply import Reply, shielded

Next: TypeAlias = Callable[[Call], Awaitable[Reply]]
"""Whoever answers a call: a forwarder, the router, or the rest of a chain."""


class Plugin(Protocol):
    """Wraps a call: looks, changes, refuses, asks again, or answers itself.

    A class may say more about its plugins by attributes: `authenticates`, where each call that
    passes has shown who asks; `divides`, where it tries several targets, taking the outer list
    apart; `orders`, where it puts that list in order and passes all of it on, so that the first one
    is asked; `of_upstream`, where it belongs among an upstream's plugins, and `inside_attempt`,
    where it belongs there inside each attempt; `enforces_limits`, where it keeps what `callers`
    says of limits; `counts`, where it counts in the store under its option `name`, which no other
    plugin may have. One that works in each worker alone says `per_worker`. `needs_route` makes no
    sense before a route is known. `owns_replies` closes by itself what it asked for, because it
    shares a reply among calls. `caches` has answers that
    `headrace cache clear` clears. `keeps_answers` changes no answer, whatever its options are, so
    that answers that are kept stay good when these are changed; a class says that of itself, not
    of those that inherit from it. `shorthand` names the option that a bare value stands for.

    When a configuration takes the place of another one, a part whose options are the same stays as
    it is; any other one may have a method `follows(before)`, to go on with what the part keeps
    whose place it takes. It comes before the opening of the new one; the old one still has calls.
    """

    def __call__(self, call: Call, call_next: Next, /) -> Awaitable[Reply]:
        """Answer `call`, most often by asking `call_next`."""


Plugins: TypeAlias = tuple[Plugin, ...]
"""The type of an option that takes plugins, written as a chain is."""


def compose(plugins: Sequence[Plugin], forward: Next) -> Next:
    """One function that sends a call through `plugins`, the first outermost, then to `forward`.

    A reply that a plugin asked for and did not return is closed for it.
    """
    for plugin in reversed(plugins):
        forward = _link(plugin, forward)
    return forward


def _link(plugin: Plugin, forward: Next) -> Next:
    if getattr(plugin, "owns_replies", False):

        async def alone(call: Call) -> Reply:
            return _checked(plugin, await plugin(call, forward))

        return alone

    async def run(call: Call) -> Reply:
        asked: list[Reply] = []
        over = False

        async def call_next(call: Call) -> Reply:
            reply = await forward(call)
            if over:  # asked by a task that outlived its plugin's answer
                await reply.aclose(asyncio.CancelledError("nobody waits for this reply"))
            else:
                asked.append(reply)
            return reply

        try:
            kept = _checked(plugin, await plugin(call, call_next))
        except BaseException as error:
            over = True
            await _close(asked, error)
            raise
        over = True
        others = [reply for reply in asked if reply is not kept]
        try:
            await _close(others, asyncio.CancelledError("this reply was not returned"))
        except BaseException as error:
            await kept.aclose(error)
            raise
        return kept

    return run


def _checked(plugin: Plugin, kept: object) -> Reply:
    if not isinstance(kept, Reply):
        raise TypeError(
            f"the plugin {type(plugin).__qualname__} returned {kept!r}, expected the Reply; "
            "is a `return` missing?"
        )
    return kept


async def _close(replies: Sequence[Reply], error: BaseException) -> None:
    if replies:
        await shielded(asyncio.gather(*(reply.aclose(error) for reply in replies)))
