"""Keys that verify: which algorithms each one fits, and which one a token means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jwt

from headrace_plugins.jwt_auth.tokens import Token

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
SYMMETRIC: tuple[Algorithm, ...] = ("HS256", "HS384", "HS512")
ASYMMETRIC: tuple[Algorithm, ...] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

_MOST_TRIED = 4
"""Keys that a token without a key id is tried against."""


@dataclass(frozen=True)
class Key:
    """A key, and what it may be used for."""

    id: str | None
    fits: Mapping[str, Any] = field(repr=False)
    """The key as PyJWT has it, by the algorithms it verifies."""
    fingerprint: bytes
    """The same for the same key with the same purpose, and no other."""

    def verifies(self, token: Token) -> bool:
        """Whether the token, whose algorithm this key fits, was signed with it."""
        algorithm = jwt.get_algorithm_by_name(token.algorithm)
        return algorithm.verify(token.signed, self.fits[token.algorithm], token.signature)


@dataclass(frozen=True)
class KeySet:
    """The keys of one source at one time."""

    keys: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __contains__(self, key: Key) -> bool:
        return key.fingerprint in self._fingerprints

    def knows(self, key_id: str | None) -> bool:
        """Whether one of the keys has this id."""
        return key_id in self._ids

    def verifying(self, token: Token) -> Key | None:
        """The key that the token was signed with: one of its key id, else one without an id."""
        meant = token.key_id if self.knows(token.key_id) else None
        for key in list(self._meant(token, meant))[:_MOST_TRIED]:
            if key.verifies(token):
                return key
        return None

    def _meant(self, token: Token, key_id: str | None) -> Iterator[Key]:
        """Those that may be meant; a token without a key id may mean any that fits."""
        for key in self.keys:
            if token.algorithm in key.fits and (token.key_id is None or key.id == key_id):
                yield key

    @cached_property
    def _fingerprints(self) -> frozenset[bytes]:
        return frozenset(key.fingerprint for key in self.keys)

    @cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(key.id for key in self.keys if key.id is not None)


NONE = KeySet()
"""No keys."""
