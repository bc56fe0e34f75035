"""A login server on a real socket: it publishes keys, and misbehaves on request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from headrace.testing import Loopback
from headrace.testing.misbehaviour import Behaviour, Received, Step, answers, status

from .tokens import ES, RS, Signer

WELL_KNOWN = "/.well-known/openid-configuration"


class Login:
    """Publishes the keys of `signers` until it is told to do something else."""

    def __init__(self, server: Loopback) -> None:
        self.server = server
        self.signers: tuple[Signer, ...] = (RS, ES)
        self.says: dict[str, Any] = {}
        """What it says of itself otherwise than it should."""
        self.well()

    @property
    def jwks(self) -> str:
        """Where the keys are."""
        return f"{self.server.url}/keys"

    @property
    def issuer(self) -> str:
        """What it calls itself."""
        return f"{self.server.url}/"

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return sum(asked.target == "/keys" for asked in self.server.requests)

    def well(self) -> None:
        """Answer as it should."""
        self.server.script(self._answer)

    def ill(self, behaviour: Behaviour | str) -> None:
        """Answer like this from now on."""
        self.server.script(behaviour)

    def _answer(self, asked: Received) -> Iterable[Step]:
        match asked.target:
            case "/keys":
                return answers({"keys": [signer.jwk() for signer in self.signers]})
            case target if target == WELL_KNOWN:
                return answers({"issuer": self.issuer, "jwks_uri": self.jwks, **self.says})
        return status(404, {})


@asynccontextmanager
async def logging_in() -> AsyncIterator[Login]:
    """The server, while it runs."""
    async with Loopback() as server:
        yield Login(server)
