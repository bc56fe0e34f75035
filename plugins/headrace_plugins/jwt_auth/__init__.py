"""Let in the callers whose JSON Web Token is valid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar, Self

from headrace import (
    Call,
    Caller,
    Duration,
    File,
    Finding,
    Next,
    Reply,
    Secret,
    Size,
    Store,
    Transport,
    Unauthorized,
    Vitals,
    bearer,
    sha256,
)
from headrace_plugins.jwt_auth.claims import NAMES, About, Claims, Expired
from headrace_plugins.jwt_auth.configured import each, source_of
from headrace_plugins.jwt_auth.jwks import Jwks
from headrace_plugins.jwt_auth.keys import Algorithm
from headrace_plugins.jwt_auth.tokens import LONGEST, Refused, Token
from headrace_plugins.jwt_auth.verified import Verified

_MOST_LEEWAY = 30


@dataclass(kw_only=True)
class JwtAuth:
    """Let in the callers whose JSON Web Token is valid.

    A token comes as `Authorization: Bearer`. It must be signed with a key of the issuer, be issued
    for this gateway, and be in its time; what it says of itself decides nothing. Keys are a shared
    `secret`, a `public_key` or a set of them (`jwks`); where none of these is written, the set that
    the issuer names by OpenID Connect Discovery.
    """

    issuer: str | list[str]
    """Who must have issued the token: its `iss`, to the letter."""
    audience: str | list[str]
    """For whom it must have been issued: its `aud`, or one of them."""
    secret: Secret | None = None
    """The secret that the issuer signs with; at least 32 bytes."""
    public_key: str | None = None
    """The issuer's public key in PEM."""
    jwks: File | str | None = None
    """The issuer's public keys as a JWK Set: its URL, or a file, which is watched."""
    algorithms: list[Algorithm] | None = None
    """Algorithms that may sign. If not written: `HS256` with a `secret`, else all but `HS…`.

    Each key verifies only what its own type and its own `alg` allow."""
    require: list[str] = field(default_factory=lambda: ["sub"])
    """Claims that must be there, beside `iss`, `aud` and `exp`, which always must."""
    leeway: Duration = field(default_factory=lambda: Duration(30))
    """How far the issuer's clock may be off; at most 30s."""
    claims: dict[About, str] = field(default_factory=lambda: dict(NAMES))
    """The claims that say who asks, for which tenant, in which groups.

    With dots, it may be inside another one: `realm_access.roles`."""
    cache: Size = field(default_factory=lambda: Size(32_000_000))
    """How much room verified tokens take; they are not verified again until they expire."""
    refresh: Duration = field(default_factory=lambda: Duration(300))
    """How old keys from a URL get; one that was taken away counts no longer than this."""
    cool_down: Duration = field(default_factory=lambda: Duration(10))
    """How long keys are not asked for again, whatever tokens come; all gateways of a store wait."""
    max_stale: Duration = field(default_factory=lambda: Duration(3600))
    """How long keys count while their source is down; then it is a 503."""
    store: Store = field(default_factory=Store.of_server)
    transport: Transport = field(default_factory=Transport.of_server)
    vitals: Vitals = field(default_factory=Vitals.of_server)

    authenticates: ClassVar = True

    def __post_init__(self) -> None:
        if self.leeway > _MOST_LEEWAY:
            raise ValueError(f"leeway must be at most {_MOST_LEEWAY}s, found {self.leeway}")
        self._expected = Claims(
            issuers=frozenset(each("issuer", self.issuer)),
            audiences=frozenset(each("audience", self.audience)),
            required=tuple(self.require),
            leeway=self.leeway,
            names={**NAMES, **self.claims},
        )
        self._source = source_of(self)
        self.vitals.issuers.update(self._expected.issuers)
        self._verified = Verified(self.cache)

    def follows(self, before: Self) -> None:
        """Go on with the keys that are there, if they come from the same place."""
        if isinstance(self._source, Jwks) and isinstance(before._source, Jwks):
            self._source.follows(before._source)

    async def __aenter__(self) -> Self:
        """Ask for the keys; whether or not they are there in a moment, the gateway starts."""
        if isinstance(self._source, Jwks):
            await self._source.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Ask no more."""
        if isinstance(self._source, Jwks):
            await self._source.__aexit__(*error)

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether the keys can be had now."""
        if isinstance(self._source, Jwks):
            async for finding in self._source.examine():
                yield finding

    @property
    def fetches(self) -> int:
        """How often this gateway has asked for keys."""
        return self._source.fetches

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Find the caller, or refuse in words that are the same for every wrong token."""
        shown = bearer(call)
        try:
            caller = await self._caller(shown)
        except Refused as refused:
            call.record.said = f"the token: {refused}"
            late = isinstance(refused, Expired)  # known only once its signature held
            message = "this token has expired" if late else "this token is not valid here"
            raise Unauthorized(message, code="invalid_token", error="invalid_token") from None
        return await call_next(call.replace(caller=caller))

    async def _caller(self, shown: str) -> Caller:
        """Who has shown this token. Raises `Refused`, or `Overloaded` where there are no keys."""
        if len(shown) > LONGEST:
            raise Refused(f"it is longer than {LONGEST} characters")
        digest = sha256(shown)
        if caller := self._verified.get(digest, self._source.keys):
            return caller
        token = Token.read(shown)
        if token.algorithm not in self._source.algorithms:
            raise Refused("its alg is not one of those that are configured")
        keys = self._source.keys
        key = keys.verifying(token)
        if key is None and not keys.knows(token.key_id):
            if not self._expected.is_ours(token.claims()):
                raise Refused("by its own word it is another issuer's, or for somebody else")
            keys = await self._source.renewed()
            key = keys.verifying(token)
        if key is None:
            if keys.knows(token.key_id):
                raise Refused("not signed with the key that it names, or that is not for its alg")
            raise Refused("not signed with any key known here")
        said = token.claims()
        caller = self._expected.caller(said)
        until = said["exp"] + self.leeway
        self._verified.put(digest, caller, key, until=until, length=len(token.payload))
        return caller
