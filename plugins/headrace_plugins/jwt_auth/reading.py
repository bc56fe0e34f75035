"""Keys as they are written: a shared secret, PEM, a JWK Set; read strictly, the weak refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import jwt
from jwt.algorithms import has_crypto

from headrace_plugins.jwt_auth.keys import Algorithm, Key, KeySet

_MOST_KEYS = 100
"""Keys of a document that are looked at; real ones have fewer than twenty."""
_LENGTHS = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, 3.2
# What reads a key of which type (RFC 7518, 6.1; RFC 8037, 2). Secrets (oct) are not published.
_READERS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_LONGEST_NUMBER = 16384 // 6 + 1  # characters of the longest modulus that OpenSSL takes


def check_cryptography() -> None:
    """Raise `ValueError` where public keys cannot be used."""
    if not has_crypto:
        raise ValueError(
            "public keys need the package cryptography: pip install 'headrace[standard]'"
        )


def of_secret(secret: str, algorithms: Sequence[Algorithm]) -> KeySet:
    """The one key that a shared secret is. Raises `ValueError` where it is none, or too short."""
    data = secret.encode(errors="surrogatepass")
    for name in algorithms:
        if len(data) < (length := _LENGTHS[name]):
            raise ValueError(
                f"secret must have at least {length} bytes for {name}; "
                f"make one with: openssl rand -base64 {length}"
            )
    hmac = jwt.get_algorithm_by_name("HS256")
    for form in (data, _without_armour(data)):  # Keycloak shows public keys without their armour
        try:
            hmac.prepare_key(form)
        except jwt.InvalidKeyError:
            raise ValueError(
                "secret is a public key, or a JSON Web Key, which others may know; "
                "a public key belongs into public_key or jwks"
            ) from None
    return KeySet((Key(None, dict.fromkeys(algorithms, data), hashlib.sha256(data).digest()),))


def _without_armour(data: bytes) -> bytes:
    try:
        return base64.b64decode(data) or data
    except binascii.Error:
        return data


def of_pem(pem: str, algorithms: Sequence[Algorithm]) -> KeySet:
    """The one key of a PEM text. Raises `ValueError` where it is no public key, or a weak one."""
    check_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            "public_key is not a public key in PEM, which begins with BEGIN PUBLIC KEY; "
            "'openssl pkey -pubout' or 'openssl x509 -pubkey -noout' makes one"
        ) from None
    fits = _fits(found, algorithms)
    if not fits:
        raise ValueError(
            f"public_key is too short, or for none of the algorithms {', '.join(algorithms)}"
        )
    return KeySet((Key(None, fits, hashlib.sha256(pem.encode()).digest()),))


def of_document(document: Any, algorithms: Sequence[Algorithm]) -> KeySet:
    """The keys of a JWK Set (RFC 7517, 5) that can be used here, at least one.

    Raises `ValueError` where there is none: an empty or broken document is no reason to forget
    the keys of the one before.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no JWK Set: a JSON object with the member keys, a list")
    keys: list[Key] = []
    reasons: dict[str, None] = {}
    for jwk in listed[:_MOST_KEYS]:
        try:
            keys.append(_of_jwk(jwk, algorithms))
        except (ValueError, RecursionError) as error:
            reasons[str(error)] = None
    if not keys:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        raise ValueError(f"none of its {len(listed)} keys can be used{why}")
    return KeySet(tuple(keys))


def _of_jwk(jwk: Any, algorithms: Sequence[Algorithm]) -> Key:
    """One key. Raises `ValueError` for one that is not there to verify, weak or broken."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in list(_READERS):
        raise ValueError("a kty that is not RSA, EC or OKP")
    if jwk.get("use") not in (None, "sig") or "verify" not in _list(jwk.get("key_ops"), "verify"):
        raise ValueError("a key that is not for verifying")
    if "d" in jwk:
        raise ValueError("a private key, which others may have read")
    key_id, named = jwk.get("kid"), jwk.get("alg")
    if not isinstance(key_id, str | None):
        raise ValueError("a kid that is not text")
    if any(len(str(jwk.get(name))) > _LONGEST_NUMBER for name in ("n", "e", "x", "y")):
        raise ValueError("a key of more than 16384 bits")
    try:
        found = jwt.get_algorithm_by_name(_READERS[jwk["kty"]]).from_jwk(jwk)
    except (ValueError, TypeError, jwt.PyJWTError):
        raise ValueError("a broken key") from None
    fits = _fits(found, [name for name in algorithms if named in (None, name)])
    if not fits:
        raise ValueError("a key that is too short, or for other algorithms than are configured")
    told = json.dumps(jwk, sort_keys=True).encode()
    return Key(key_id, fits, hashlib.sha256(told).digest())


def _list(value: Any, otherwise: str) -> list[Any]:
    return [otherwise] if value is None else value if isinstance(value, list) else []


def _fits(key: Any, algorithms: Iterable[str]) -> dict[str, Any]:
    """The algorithms that a public key is of the right type, curve and length for."""
    fits: dict[str, Any] = {}
    for name in algorithms:
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            prepared = algorithm.prepare_key(key)
        except (TypeError, jwt.InvalidKeyError):
            continue  # of another type, or on another curve
        if algorithm.check_key_length(prepared) is None:
            fits[name] = prepared
    return fits
