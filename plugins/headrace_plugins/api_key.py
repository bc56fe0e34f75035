"""Let in the callers whose key is listed."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from headrace import (
    Call,
    Caller,
    Callers,
    ConfigError,
    File,
    Happening,
    Key,
    Next,
    Reply,
    Sha256,
    Unauthorized,
    Vitals,
    bearer,
    sha256,
)

if TYPE_CHECKING:
    from headrace import KeyFile

logger = logging.getLogger("headrace.api_key")

_LOOKED_AT_EVERY = 1.0
_NOBODY = Sha256("0" * 64), Key(name="nobody")


@dataclass(kw_only=True)
class ApiKey:
    """Let in the callers whose key is listed.

    A key comes as `Authorization: Bearer`, `x-api-key` or `api-key`. Only its SHA-256 is kept, so
    neither the configuration nor the file holds a secret: `printf %s "$KEY" | sha256sum` prints it.
    Listed are the keys that stand here, those of a file, and those that entries of `callers` match.
    """

    keys: dict[Sha256, str | Key] | None = None
    """Callers by the SHA-256 of their key: a name, or what is known of the key."""
    file: File | None = None
    """A file of keys that `headrace keys` has made; what changes in it counts within a second."""
    callers: Callers = field(default_factory=Callers.of_server)
    vitals: Vitals = field(default_factory=Vitals.of_server)

    authenticates: ClassVar = True

    def __post_init__(self) -> None:
        self._looking: asyncio.Task[None] | None = None
        self._looked = 0.0
        self._seen: tuple[object, str | None] = None, None
        self._told: str | None = None
        if self.keys is None and self.file is None and not self.callers.keys:
            raise ValueError(
                "nobody has a key: list them in 'keys', name a 'file' that `headrace keys add` "
                "has made, or let entries of 'callers' match a 'key'"
            )
        self._known = self._all({})
        self._source: KeyFile | None = None
        if self.file is not None:
            from headrace import KeyFile  # for YAML, which those without a file do not need

            self._source = KeyFile(self.file)
            if wrong := self._read(self._source):
                raise ValueError(wrong)

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Find the caller, or refuse in words that are the same for every wrong key."""
        shown = sha256(bearer(call))
        if self._source:
            await self._look(self._source)
        listed, key = self._known.get(shown, _NOBODY)
        known = hmac.compare_digest(listed, shown)
        state = key.state(datetime.now(UTC))
        if not known or state != "good":
            if known:  # the digits are its id, as `headrace keys list` has it
                call.record.said = f"the key {shown[:12]} of {key.name!r} is {state}"
            raise Unauthorized("this key is not known here")
        return await call_next(call.replace(caller=_caller(listed, key)))

    async def _look(self, file: KeyFile) -> None:
        """Look at the file, once a second at most; who comes meanwhile waits, too."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (
            self._looking.done() and now - self._looked >= _LOOKED_AT_EVERY
        ):
            self._looked = now
            self._looking = asyncio.create_task(self._follow(file))
        if not self._looking.done():  # a disk that hangs holds nobody up for longer than that
            patience = max(0.0, self._looked + _LOOKED_AT_EVERY - now)
            await asyncio.wait((self._looking,), timeout=patience)

    async def _follow(self, file: KeyFile) -> None:
        """Take in what has changed; what cannot be read changes nothing, and is told once."""
        seen, before = self._seen, self._known
        wrong = await asyncio.to_thread(self._read, file)
        for what, digest, key in _changes(before, self._known):
            details = {"id": digest[:12]}  # as `headrace keys list` has it
            self.vitals.tell(Happening(what=what, target=key.name, details=details))
        if wrong and (wrong != self._told or self._seen is not seen):
            logger.error("%s; the keys that were read before stay in force", wrong)
        self._told = wrong

    def _read(self, file: KeyFile) -> str | None:
        """Read the file where it is another than before; what is wrong with it, if something is."""
        mark = file.mark()
        if mark is not None and mark == self._seen[0]:
            return self._seen[1]
        wrong: str | None = None
        try:
            self._known = self._all(file.read())
        except FileNotFoundError:
            make = f"headrace keys add NAME --file {file.path}"
            return f"there is no {file.path}; make it: {make}"
        except OSError as error:
            return f"cannot read {file.path}: {error.strerror}"
        except ConfigError as error:
            first, *more = [str(problem).partition("\n")[0] for problem in error.problems]
            wrong = f"{first} (and {len(more)} more)" if more else first
        self._seen = mark, wrong
        return wrong

    def _all(self, in_file: Mapping[Sha256, Key]) -> Known:
        """Every key there is; of one that is listed twice, what the file says counts."""
        keys = {
            **{digest: Key(name=name) for digest, name in self.callers.keys.items()},
            **{d: Key(name=k) if isinstance(k, str) else k for d, k in (self.keys or {}).items()},
            **in_file,
        }
        return {digest: (digest, key) for digest, key in keys.items()}


Known: TypeAlias = Mapping[Sha256, tuple[Sha256, Key]]


def _changes(before: Known, after: Known) -> Iterator[tuple[str, Sha256, Key]]:
    """What has happened to which key, in a word."""
    for digest, key in after.values():
        old = before.get(digest)
        if old is None:
            yield "key.added", digest, key
        elif old[1] != key:
            yield (
                "key.revoked" if key.revoked and not old[1].revoked else "key.changed",
                digest,
                key,
            )
    for digest, key in before.values():
        if digest not in after:
            yield "key.removed", digest, key


def _caller(digest: Sha256, key: Key) -> Caller:
    return Caller(
        key.name,
        id=key.name,
        tenant=key.tenant,
        groups=tuple(key.groups),
        key=digest,
        models=() if key.models is None else (tuple(key.models),),
    )
