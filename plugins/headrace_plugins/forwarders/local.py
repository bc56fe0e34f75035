"""A small language model that runs on this machine, without an account or a network."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from headrace import (
    PASSTHROUGH,
    Call,
    File,
    Finding,
    Found,
    Reply,
    Transport,
    UpstreamError,
    exchange,
)
from headrace_plugins.forwarders.local_model.fetch import MODELS, ModelMissing, fetch, model_file
from headrace_plugins.forwarders.local_model.server import ModelServer, ModelServerFailed

logger = logging.getLogger("headrace.local")

_DEFAULT: Final = "smollm2-135m-instruct"
_NOT_STARTED = "http://127.0.0.1:0"


@dataclass(kw_only=True)
class Local:
    """Run a small model in a child process: chat, completions and embeddings.

    One server (llama.cpp, in the package `xllamacpp`) serves all gateways and workers of this
    machine and user. It starts with the gateway, is restarted when it dies, and goes when the last
    gateway goes. It knows no tools and no images.
    """

    model: Literal["smollm2-135m-instruct"] | File = _DEFAULT
    """A known model (`smollm2-135m-instruct`, fetched when it is not there), or a .gguf file."""
    context: int = 2048
    """Tokens of one call, prompt and answer together."""
    parallel: int = 4
    """How many calls it works on at once; others wait."""
    threads: int | None = None
    """Threads for computing; as many as there are cores where it is not written."""
    transport: Transport = field(default_factory=Transport.of_server)

    timeouts: ClassVar = {"first_event": "300s"}

    def __post_init__(self) -> None:
        if self.model not in MODELS and not self.model.endswith(".gguf"):
            known = ", ".join(sorted(MODELS))
            raise ValueError(f"model must be one of {known}, or the path of a .gguf file")
        self._server: ModelServer | None = None
        self._missing = "the local model was not started"
        self._stack = AsyncExitStack()

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.model if self.model in MODELS else Path(self.model).stem

    async def __aenter__(self) -> Self:
        """Have the file, start the server. A failure is told once, and again to each call."""
        try:
            file = model_file(self.model)
            if file is None:
                file = await asyncio.to_thread(fetch, self.model, progress=sys.stderr)
            server = ModelServer(
                model=file,
                alias=self.name,
                context=self.context,
                parallel=self.parallel,
                threads=self.threads,
            )
            self._server = await self._stack.enter_async_context(server)
            await server.address()
        except (ModelMissing, ModelServerFailed) as error:
            self._missing = str(error)
            logger.warning("%s", error)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the server go."""
        self._server = None
        await self._stack.aclose()

    async def __call__(self, call: Call) -> Reply:
        """Send the call to the server; once more if the server was just replaced."""
        address = await self._address()
        try:
            return await self._ask(call, address)
        except UpstreamError as error:
            if error.code != "connect_failed" or self._server is None:
                raise
        return await self._ask(call, await self._address(refused=address))

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether all that it needs is on this machine; no server is started for that."""
        if find_spec("xllamacpp") is None:
            advice = "pip install 'headrace[local]'"
            yield Finding(state="fail", says="its package is not installed", advice=advice)
        elif model_file(self.model):
            yield Finding(says=f"the file of {self.name} is here")
        elif self.model in MODELS:
            yield Finding(state="warn", says=f"{self.name} is fetched at the first start (93 MB)")
        else:
            yield Finding(state="fail", says=f"there is no file {self.model}")

    async def models(self) -> list[str]:
        """The one model it runs."""
        return [self.name]

    @classmethod
    async def find(cls, environ: Mapping[str, str]) -> list[Found]:
        """The built-in model, where the extra `local` is installed."""
        if find_spec("xllamacpp") is None:
            return []
        fetched = "" if model_file(_DEFAULT) else ", which is fetched first (93 MB)"
        says = f"a small model that runs on this machine{fetched}"
        return [Found(name="local", says=says, models=(_DEFAULT,), rank=60)]

    async def _address(self, *, refused: str | None = None) -> str:
        if self._server is None:
            return _NOT_STARTED
        try:
            return await self._server.address(refused=refused)
        except ModelServerFailed as error:
            self._missing = str(error)
            raise self._unavailable() from None

    async def _ask(self, call: Call, address: str) -> Reply:
        if self._server is None and address == _NOT_STARTED and self.transport.name != "capture":
            raise self._unavailable()
        path = (
            call.path
            if call.operation == PASSTHROUGH
            else f"/v1{call.dialect.path(call.operation)}"
        )
        return await exchange(call, self.transport, base_url=address, path=path)

    def _unavailable(self) -> UpstreamError:
        logger.warning("%s", self._missing)
        return UpstreamError(
            "the local model is not available; the gateway's log says why",
            code="local_model_unavailable",
            status=503,
            again=False,
        )
