"""What tokens are forged with: other keys, public keys taken for secrets, changes afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .tokens import ABSENT, ED, ES, PS, RS, base64url, claims, hmac, rs
from .tokens import token as good

Forged = tuple[str, Callable[[], str]]
"""What the log says, and the token."""

ENCRYPTING = rs("enc")
WRAPPING = rs("wrap")
WEAK = rs("weak", bits=1024)
LEAKED = rs("leaked")
STRANGER = rs("stranger")
PUBLISHED = b"a secret that somebody has put into a public document"

DOCUMENT = {
    "keys": [
        *(signer.jwk() for signer in (RS, ES, ED, PS)),
        ENCRYPTING.jwk(use="enc", key_ops=ABSENT),
        WEAK.jwk(),
        WRAPPING.jwk(use=ABSENT, key_ops=["wrapKey"]),
        LEAKED.jwk(
            **json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(LEAKED.private))
            | {"key_ops": ["verify"]}
        ),
        {"kty": "oct", "kid": "oct", "alg": "HS256", "k": base64url(PUBLISHED)},
    ]
}
"""The keys that count are the first four."""


def junk(data: bytes) -> bytes:
    return b"signed, as it were"


def public_key() -> rsa.RSAPublicKey:
    public: rsa.RSAPublicKey = RS.private.public_key()
    return public


def modulus() -> bytes:
    number = public_key().public_numbers().n
    return number.to_bytes(256, "big")


def der() -> bytes:
    return public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def stripped() -> bytes:
    return "".join(RS.pem.splitlines()[1:-1]).encode()


def with_alg(alg: Any) -> Callable[[], str]:
    return lambda: good(header={"alg": alg}, sign=junk)


def as_hmac(secret: Callable[[], bytes], alg: str = "HS256") -> Callable[[], str]:
    """Signed with what everybody can read, in the hope that it is taken for a secret."""
    return lambda: good(header={"alg": alg}, sign=hmac(secret(), alg))


def with_header(**fields: Any) -> Callable[[], str]:
    """Signed with the right key, so that the header alone decides."""
    return lambda: good(header=fields)


def by_stranger(**fields: Any) -> Callable[[], str]:
    return lambda: good(STRANGER, header=fields)


def with_claims(**changes: Any) -> Callable[[], str]:
    return lambda: good(**changes)


def with_payload(payload: Any) -> Callable[[], str]:
    return lambda: good(payload=payload)


def with_member(written: bytes) -> Callable[[], str]:
    """Good claims and one more, as it is written."""
    return lambda: good(payload=json.dumps(claims()).encode()[:-1] + b", " + written + b"}")


def changed(change: Callable[[str, str, str], str]) -> Callable[[], str]:
    """A good token, changed afterwards."""
    return lambda: change(*good().split("."))


def in_der(data: bytes) -> bytes:
    """A right signature, but not in the form that tokens have (RFC 7518, 3.4)."""
    private: ec.EllipticCurvePrivateKey = ES.private
    return private.sign(data, ec.ECDSA(hashes.SHA256()))


def flipped(signature: str) -> str:
    return ("A" if signature[0] != "A" else "B") + signature[1:]


def certificate() -> list[str]:
    return ["MIIBszCCARygAwIBAgIB"]


def from_now(seconds: float) -> int:
    return int(time.time() + seconds)


def instead(name: str, written: bytes) -> str:
    """Good claims, but for one number as it is written."""
    payload = json.dumps(claims(**{name: 4711})).encode().replace(b"4711", written)
    return good(payload=payload)


def other_claims(**changes: Any) -> str:
    return base64url(json.dumps(claims(**changes)).encode())


def other_header(**fields: Any) -> str:
    return base64url(json.dumps(fields).encode())


def respelled(token: str) -> str:
    """Of an elliptic signature's last letter, four bits are spare: another one, the same bytes."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) ^ 1]
