"""Whether upstreams are well: those that say how are asked now and then, beside all calls."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field
from starlette.datastructures import Headers

from headrace.call import PASSTHROUGH, Call, Deadline, Target
from headrace.dialect import OPENAI
from headrace.errors import UpstreamError
from headrace.options import Duration
from headrace.record import Record
from headrace.rests import Rests

if TYPE_CHECKING:
    from headrace.attempts import Upstream

logger = logging.getLogger("headrace")

_SLACK = 1.0
"""Seconds that a rest outlasts the next answer, should this machine be busy."""


def _path(path: str) -> str:
    if not re.fullmatch(r"/[^\s?#\\]*", path):
        raise ValueError("must be a path such as /v1/models, without '?' and '#'")
    return path


def _some(time: Duration) -> Duration:
    if not time > 0:
        raise ValueError("must be more than 0")
    return time


@dataclass(frozen=True, kw_only=True)
class Health:
    """How an upstream is asked, beside all calls, whether it is well."""

    path: Annotated[str, AfterValidator(_path)] = "/v1/models"
    """What it is asked for with GET, as a path that is passed through; any 2xx is well."""
    every: Annotated[Duration, AfterValidator(_some)] = field(default_factory=lambda: Duration(10))
    """How often, more or less: a fifth of it is random."""
    timeout: Annotated[Duration, AfterValidator(_some)] = field(default_factory=lambda: Duration(2))
    """How long the whole answer may take."""
    failures: Annotated[int, Field(ge=1)] = 2
    """After how many failures in a row no call is sent there, until it is well again."""


@asynccontextmanager
async def watched(upstreams: Iterable[Upstream], rests: Rests) -> AsyncIterator[None]:
    """Ask the upstreams that say how, as long as this lasts; those that fail rest in `rests`."""
    tasks = [
        asyncio.create_task(_watch(upstream, upstream.health, rests))
        for upstream in upstreams
        if upstream.health
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _watch(upstream: Upstream, health: Health, rests: Rests) -> None:
    place = upstream.name, None
    until_next = 1.1 * health.every + health.timeout + _SLACK
    failures, why = 0, ""
    while True:
        fault = await _fault(upstream, health)
        failures = failures + 1 if fault else 0
        if failures >= health.failures:
            if not why:
                said = "upstream %s is not asked: its probe failed with %s"
                logger.warning(said, upstream.name, fault)
            why = f"its probe failed with {fault}"
            rests.rest(place, until_next, why=why, closed=True)
        elif why and not fault:
            logger.info("upstream %s is well again", upstream.name)
            rest = rests.at(place)
            if rest and rest.why == why:  # and not for another reason, or by hand
                rests.resume(place)
            why = ""
        # At random, or all workers and replicas would ask at once.
        await asyncio.sleep(health.every * random.uniform(0.9, 1.1))  # noqa: S311  no secret


async def _fault(upstream: Upstream, health: Health) -> str | None:
    """Ask once: what is wrong, in a word or two of ours; None where all is well."""
    record = Record(id="health", method="GET", path=health.path)
    asked = Call(
        id=record.id,
        method=record.method,
        path=record.path,
        query="",
        headers=Headers(),
        body=b"",
        dialect=OPENAI,
        operation=PASSTHROUGH,
        targets=(Target(upstream.name),),
        deadline=Deadline.after(health.timeout),
        record=record,
    )
    try:
        async with asyncio.timeout(health.timeout):
            reply = await upstream.forward(asked.telling(upstream.timeouts))
            try:
                async for _ in reply.events:
                    pass  # to the end, so that the connection can be kept
            finally:
                await reply.aclose()
    except TimeoutError:
        return f"no answer within {health.timeout}"
    except UpstreamError as error:
        return f"HTTP {error.said}" if error.said else str(error.code)
    except Exception as error:  # noqa: BLE001  a forwarder is anyone's
        return type(error).__name__
    return None
