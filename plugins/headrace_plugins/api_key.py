"""Let in the callers whose key is listed."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import ClassVar

from headrace import Call, Caller, Next, Reply, Sha256, Unauthorized, bearer, sha256


@dataclass(kw_only=True)
class ApiKey:
    """Let in the callers whose key is listed.

    A key comes as `Authorization: Bearer`, `x-api-key` or `api-key`. Only its SHA-256 is kept, so
    the configuration holds no secret: `printf %s "$KEY" | sha256sum` prints it.
    """

    keys: dict[Sha256, str]
    """Caller names by the SHA-256 of their key."""

    authenticates: ClassVar = True

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Find the caller, or refuse in words that are the same for every wrong key."""
        shown = sha256(bearer(call))
        # Every key is compared, each in constant time: how long it takes tells nothing.
        names = [name for known, name in self.keys.items() if hmac.compare_digest(known, shown)]
        if not names:
            raise Unauthorized("this key is not known here")
        return await call_next(call.replace(caller=Caller(names[0])))
