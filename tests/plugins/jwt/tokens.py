"""Makes tokens, good ones and whatever else can be put in three parts."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://login.example.com/"
AUDIENCE = "headrace"
SECRET = "a secret of 64 characters, which is enough for HS512, HS256 too."
ABSENT: Any = object()
"""As the value of a header field or claim: it is not there."""

Sign = Callable[[bytes], bytes]


@cache
def _rsa_key(name: str, bits: int) -> rsa.RSAPrivateKey:
    """The RSA key of that name; it takes a moment to make, so it is made once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass(frozen=True)
class Signer:
    """A key pair, and what a JWK Set says of it."""

    kid: Any
    """Its key id, or `ABSENT`."""
    alg: str
    private: Any

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`."""
        signature: bytes = jwt.get_algorithm_by_name(self.alg).sign(data, self.private)
        return signature

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key, as its issuer publishes it."""
        public = json.loads(jwt.get_algorithm_by_name(self.alg).to_jwk(self.private.public_key()))
        named = {"kid": self.kid, "alg": self.alg, "use": "sig", "key_ops": ["verify"]}
        return _present({**public, **named, **changes})

    @property
    def pem(self) -> str:
        """The public key in PEM."""
        public = self.private.public_key()
        pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem.decode()


def rs(name: str = "rs", alg: str = "RS256", *, bits: int = 2048) -> Signer:
    """An RSA key; the same name is the same key."""
    return Signer(name, alg, _rsa_key(name, bits))


RS = rs()
ES = Signer("es", "ES256", ec.derive_private_key(7, ec.SECP256R1()))
ED = Signer("ed", "EdDSA", ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
PS = rs("ps", "PS256")
EVERY_KIND = (
    *(rs("any", f"{family}{size}") for family in ("RS", "PS") for size in (256, 384, 512)),
    ES,
    Signer("es384", "ES384", ec.derive_private_key(7, ec.SECP384R1())),
    Signer("es512", "ES512", ec.derive_private_key(7, ec.SECP521R1())),
    ED,
    Signer("ed448", "EdDSA", ed448.Ed448PrivateKey.from_private_bytes(bytes(57))),
)
"""A signer for each algorithm with a public key, and each curve."""


def hmac(secret: bytes | str, alg: str = "HS256") -> Sign:
    """Signs with a secret, whatever it is: PyJWT itself would refuse some."""
    data = secret.encode() if isinstance(secret, str) else secret
    digest = jwt.get_algorithm_by_name(alg)
    return lambda signed: digest.sign(signed, data)


def claims(**changes: Any) -> dict[str, Any]:
    """What a good token says, with these claims changed."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 3600}
    return _present({**good, **changes})


def token(
    signer: Signer = RS,
    *,
    sign: Sign | None = None,
    header: Mapping[str, Any] | bytes = {},
    payload: Any = None,
    **changes: Any,
) -> str:
    """A token. `header` has changes, or is all of it in bytes; `changes` are those of claims."""
    usual = {"typ": "JWT", "alg": signer.alg, "kid": signer.kid}
    head = header if isinstance(header, bytes) else _json(_present({**usual, **header}))
    body = _json(claims(**changes)) if payload is None else payload
    signed = f"{base64url(head)}.{base64url(body if isinstance(body, bytes) else _json(body))}"
    return f"{signed}.{base64url((sign or signer.sign)(signed.encode()))}"


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}
