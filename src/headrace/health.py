"""Whether upstreams are well: those that say how are asked now and then, beside all calls."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import AfterValidator, Field
from starlette.datastructures import Headers

from headrace.call import PASSTHROUGH, Call, Deadline, Target, Timeouts
from headrace.chain import Next
from headrace.dialect import OPENAI
from headrace.errors import UpstreamError
from headrace.finding import Finding
from headrace.options import Duration
from headrace.record import Record
from headrace.rests import Rests

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


@dataclass(kw_only=True, eq=False)
class Probes:
    """Asks one upstream again and again, from its opening to its closing."""

    upstream: str
    health: Health
    forward: Next
    timeouts: Timeouts
    rests: Rests

    _why: str = ""
    """Why it rests, as far as that is of these probes."""

    def follows(self, before: Self) -> None:
        """Go on with what the other probes have found; one that answers here is well again."""
        self._why = before._why

    async def __aenter__(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ask no more."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def examine(self) -> AsyncIterator[Finding]:
        """Ask once."""
        fault = await self._fault()
        yield Finding(
            about=f"upstream {self.upstream}",
            state="fail" if fault else "ok",
            says=f"its probe failed with {fault}" if fault else "its probe is well",
            advice="no call is sent there while it fails; see `health` of it" if fault else None,
        )

    async def _watch(self) -> None:
        health, place = self.health, (self.upstream, None)
        until_next = 1.1 * health.every + health.timeout + _SLACK
        failures = 0
        while True:
            fault = await self._fault()
            failures = failures + 1 if fault else 0
            if failures >= health.failures:
                if not self._why:
                    said = "upstream %s is not asked: its probe failed with %s"
                    logger.warning(said, self.upstream, fault)
                self._why = f"its probe failed with {fault}"
                self.rests.rest(place, until_next, why=self._why, closed=True)
            elif self._why and not fault:
                logger.info("upstream %s is well again", self.upstream)
                rest = self.rests.at(place)
                if rest and rest.why == self._why:  # and not for another reason, or by hand
                    self.rests.resume(place)
                self._why = ""
            # At random, or all workers and replicas would ask at once.
            await asyncio.sleep(health.every * random.uniform(0.9, 1.1))  # noqa: S311  no secret

    async def _fault(self) -> str | None:
        """Ask once: what is wrong, in a word or two of ours; None where all is well."""
        record = Record(id="health", method="GET", path=self.health.path)
        asked = Call(
            id=record.id,
            method=record.method,
            path=record.path,
            query="",
            headers=Headers(),
            body=b"",
            dialect=OPENAI,
            operation=PASSTHROUGH,
            targets=(Target(self.upstream),),
            deadline=Deadline.after(self.health.timeout),
            record=record,
        )
        try:
            async with asyncio.timeout(self.health.timeout):
                reply = await self.forward(asked.telling(self.timeouts))
                try:
                    async for _ in reply.events:
                        pass  # to the end, so that the connection can be kept
                finally:
                    await reply.aclose()
        except TimeoutError:
            return f"no answer within {self.health.timeout}"
        except UpstreamError as error:
            return f"HTTP {error.said}" if error.said else str(error.code)
        except Exception as error:  # noqa: BLE001  a forwarder is anyone's
            return type(error).__name__
        return None
