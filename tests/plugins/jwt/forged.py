"""Tokens that must not let anybody in: what is wrong with each, what the log says, how to make it.

They are shown to a gateway that trusts the keys of `DOCUMENT`. Each is a good token but for its
point, so the words of the log tell whether it was refused for that.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .tokens import ABSENT, AUDIENCE, ED, ES, ISSUER, PS, RS, Signer, base64url, claims, hmac, rs
from .tokens import token as good

Forged = tuple[str, Callable[[], str]]
"""What the log says, and the token."""

ENCRYPTING = rs("enc")
WEAK = rs("weak", bits=1024)
LEAKED = rs("leaked")
STRANGER = rs("stranger")
PUBLISHED = b"a secret that somebody has put into a public document"

DOCUMENT = {
    "keys": [
        *(signer.jwk() for signer in (RS, ES, ED, PS)),
        ENCRYPTING.jwk(use="enc", key_ops=ABSENT),
        WEAK.jwk(),
        LEAKED.jwk(d="AQAB"),
        {"kty": "oct", "kid": "oct", "alg": "HS256", "k": base64url(PUBLISHED)},
    ]
}
"""The keys that count are the first four."""

SHAPE = "not three parts of base64url"
LONG = "longer than 8192 characters"
HEADER = "the header is not"
PAYLOAD = "the payload is not"
ALG = "alg is not one of those that are configured"
ALG_TEXT = "alg is not text"
KID = "kid is not text of at most 256 characters"
NOT_DONE = "which is not done here"
TYP = "typ is not JWT"
NAMED = "not signed with the key that it names"
UNKNOWN = "not signed with any key known here"
AUD = "its audience is not the one that is configured"
AUD_TEXT = "its audience is neither text nor a list of texts"
ISS = "its issuer is not the one that is configured"
EXPIRED = "it has expired"
EXP = "its exp is not a time in seconds"
FUTURE = "is in the future"
NO_SUB = "it has no claim 'sub'"
SUB = "its claim 'sub', for id, is not printable text"


def _junk(data: bytes) -> bytes:
    return b"signed, as it were"


def _public() -> rsa.RSAPublicKey:
    public: rsa.RSAPublicKey = RS.private.public_key()
    return public


def _modulus() -> bytes:
    number = _public().public_numbers().n
    return number.to_bytes(256, "big")


def _der() -> bytes:
    return _public().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _stripped() -> bytes:
    return "".join(RS.pem.splitlines()[1:-1]).encode()


def _alg(alg: Any) -> Callable[[], str]:
    return lambda: good(header={"alg": alg}, sign=_junk)


def _as_hmac(secret: Callable[[], bytes], alg: str = "HS256") -> Callable[[], str]:
    """Signed with what everybody can read, in the hope that it is taken for a secret."""
    return lambda: good(header={"alg": alg}, sign=hmac(secret(), alg))


def _header(**fields: Any) -> Callable[[], str]:
    """Signed with the right key, so that the header alone decides."""
    return lambda: good(header=fields)


def _stranger(**fields: Any) -> Callable[[], str]:
    return lambda: good(STRANGER, header=fields)


def _claims(**changes: Any) -> Callable[[], str]:
    return lambda: good(**changes)


def _payload(payload: Any) -> Callable[[], str]:
    return lambda: good(payload=payload)


def _member(written: bytes) -> Callable[[], str]:
    """Good claims and one more, as it is written."""
    return lambda: good(payload=json.dumps(claims()).encode()[:-1] + b", " + written + b"}")


def _changed(change: Callable[[str, str, str], str]) -> Callable[[], str]:
    """A good token, changed afterwards."""
    return lambda: change(*good().split("."))


def _flipped(signature: str) -> str:
    return ("A" if signature[0] != "A" else "B") + signature[1:]


def _certificate() -> list[str]:
    return ["MIIBszCCARygAwIBAgIB"]


def _now(seconds: float) -> int:
    return int(time.time() + seconds)


ALGORITHMS: Mapping[str, Forged] = {
    "alg none": (ALG, _alg("none")),
    "alg none, no signature": (SHAPE, lambda: good(header={"alg": "none"}, sign=lambda _: b"")),
    "alg None": (ALG, _alg("None")),
    "alg NONE": (ALG, _alg("NONE")),
    "alg nOnE": (ALG, _alg("nOnE")),
    "alg empty": (ALG, _alg("")),
    "alg null": (ALG_TEXT, _alg(None)),
    "alg missing": (ALG_TEXT, _alg(ABSENT)),
    "alg a list": (ALG_TEXT, _alg(["RS256"])),
    "alg an object": (ALG_TEXT, _alg({"RS256": 1})),
    "alg a number": (ALG_TEXT, _alg(256)),
    "alg true": (ALG_TEXT, _alg(True)),
    "alg in small letters": (ALG, _header(alg="rs256")),
    "alg with a blank": (ALG, _header(alg="RS256 ")),
    "alg with a NUL": (ALG, _header(alg="RS256\0")),
    "alg twice": (HEADER, lambda: good(header=b'{"alg":"none","kid":"rs","alg":"RS256"}')),
    "alg unknown": (ALG, _alg("XX999")),
    "alg ES256K": (ALG, _alg("ES256K")),
    "HS256 with the public key in PEM": (ALG, _as_hmac(lambda: RS.pem.encode())),
    "HS256 with the PEM's lines ended otherwise": (
        ALG,
        _as_hmac(lambda: RS.pem.replace("\n", "\r\n").encode()),
    ),
    "HS256 with the PEM less its last line end": (ALG, _as_hmac(lambda: RS.pem.strip().encode())),
    "HS256 with the public key in DER": (ALG, _as_hmac(_der)),
    "HS256 with the PEM stripped": (ALG, _as_hmac(_stripped)),
    "HS256 with the modulus": (ALG, _as_hmac(_modulus)),
    "HS256 with the modulus in base64url": (
        ALG,
        _as_hmac(lambda: base64url(_modulus()).encode()),
    ),
    "HS256 with the JWK": (ALG, _as_hmac(lambda: json.dumps(RS.jwk()).encode())),
    "HS256 with the JWK Set": (ALG, _as_hmac(lambda: json.dumps(DOCUMENT).encode())),
    "HS256 with nothing": (ALG, _as_hmac(lambda: b"")),
    "HS384 with the public key in PEM": (ALG, _as_hmac(lambda: RS.pem.encode(), "HS384")),
    "HS512 with the public key in PEM": (ALG, _as_hmac(lambda: RS.pem.encode(), "HS512")),
    "HS512 with the public key in DER": (ALG, _as_hmac(_der, "HS512")),
    "HS256 with the secret of the JWK Set": (
        ALG,
        lambda: good(header={"alg": "HS256", "kid": "oct"}, sign=hmac(PUBLISHED)),
    ),
    "RS256 with an elliptic key's id": (NAMED, _header(kid="es")),
    "ES256 with an RSA key's id": (NAMED, lambda: good(ES, header={"kid": "rs"})),
    "RS256 with a key for PS256": (
        NAMED,
        lambda: good(header={"kid": "ps"}, sign=rs("ps", "RS256").sign),
    ),
    "PS256 with a key for RS256": (
        NAMED,
        lambda: good(header={"alg": "PS256"}, sign=rs("rs", "PS256").sign),
    ),
    "RS512 with a key for RS256": (
        NAMED,
        lambda: good(header={"alg": "RS512"}, sign=rs("rs", "RS512").sign),
    ),
    "RS256 said of an RS512 signature": (NAMED, lambda: good(sign=rs("rs", "RS512").sign)),
    "ES384 with a key on another curve": (NAMED, lambda: good(ES, header={"alg": "ES384"})),
    "EdDSA with an RSA key's id": (NAMED, lambda: good(ED, header={"kid": "rs"})),
}

KEYS: Mapping[str, Forged] = {
    "a stranger's key, its own id": (UNKNOWN, _stranger()),
    "a stranger's key, no id": (UNKNOWN, _stranger(kid=ABSENT)),
    "a stranger's key, a known id": (NAMED, _stranger(kid="rs")),
    "a key that encrypts": (UNKNOWN, lambda: good(ENCRYPTING)),
    "a key of 1024 bits": (UNKNOWN, lambda: good(WEAK)),
    "a private key in the open": (UNKNOWN, lambda: good(LEAKED)),
    "the key in jwk": (NAMED, lambda: _stranger(kid="rs", jwk=STRANGER.jwk())()),
    "the key in jwk, no id": (UNKNOWN, lambda: _stranger(kid=ABSENT, jwk=STRANGER.jwk())()),
    "the keys at jku": (UNKNOWN, _stranger(jku="https://evil.example.com/keys")),
    "the keys at jku, a known id": (NAMED, _stranger(kid="rs", jku="http://169.254.169.254/")),
    "a jku at the issuer": (UNKNOWN, _stranger(jku=ISSUER + "redirect?to=evil.example.com")),
    "a certificate at x5u": (NAMED, _stranger(kid="rs", x5u="https://evil.example.com/c.pem")),
    "a certificate in x5c": (NAMED, _stranger(kid="rs", x5c=_certificate())),
    "x5t of a certificate": (UNKNOWN, _stranger(kid=ABSENT, x5t="dGhpcyBpcyBhIFNIQTEgdGVzdA")),
    "an id that leads to a file": (UNKNOWN, _stranger(kid="../../../../dev/null")),
    "an id that leads to nothing": (ALG, lambda: good(
        header={"alg": "HS256", "kid": "/dev/null"}, sign=hmac(b""))),
    "an id of SQL": (UNKNOWN, _stranger(kid="x' UNION SELECT 'key' --")),
    "an id with line ends": (UNKNOWN, _stranger(kid="rs\r\nx-evil: 1")),
    "an id with a NUL": (UNKNOWN, _stranger(kid="rs\0")),
    "an id that is an address": (UNKNOWN, _stranger(kid="https://evil.example.com/key")),
    "an id of a command": (UNKNOWN, _stranger(kid="rs|touch /tmp/x")),
    "an empty id": (UNKNOWN, _stranger(kid="")),
    "an id in another case": (UNKNOWN, _stranger(kid="RS")),
    "an id with half a character": (HEADER, lambda: good(header=b'{"alg":"RS256","kid":"\\ud800"}')),
    "an id that is a number": (KID, _header(kid=1)),
    "an id that is zero": (KID, _header(kid=0)),
    "an id that is a list": (KID, _header(kid=["rs"])),
    "an id that is an object": (KID, _header(kid={"rs": "rs"})),
    "an id that is false": (KID, _header(kid=False)),
    "an id of 4 KB": (KID, _header(kid="r" * 4096)),
}  # fmt: skip

CLAIMS: Mapping[str, Forged] = {
    "aud wrong": (AUD, _claims(aud="other")),
    "aud missing": (AUD_TEXT, _claims(aud=ABSENT)),
    "aud null": (AUD_TEXT, _claims(aud=None)),
    "aud empty": (AUD, _claims(aud="")),
    "aud an empty list": (AUD, _claims(aud=[])),
    "aud a list of others": (AUD, _claims(aud=["other", "another"])),
    "aud a list with a number": (AUD_TEXT, _claims(aud=[AUDIENCE, 1])),
    "aud a list in a list": (AUD_TEXT, _claims(aud=[[AUDIENCE]])),
    "aud an object": (AUD_TEXT, _claims(aud={AUDIENCE: 1})),
    "aud begins like ours": (AUD, _claims(aud=AUDIENCE + "-test")),
    "aud is how ours begins": (AUD, _claims(aud=AUDIENCE[:-1])),
    "aud in another case": (AUD, _claims(aud=AUDIENCE.upper())),
    "aud with a blank": (AUD, _claims(aud=AUDIENCE + " ")),
    "aud among others in one text": (AUD, _claims(aud=f"other {AUDIENCE}")),
    "iss wrong": (ISS, _claims(iss="https://evil.example.com/")),
    "iss missing": (ISS, _claims(iss=ABSENT)),
    "iss null": (ISS, _claims(iss=None)),
    "iss a list": (ISS, _claims(iss=[ISSUER])),
    "iss an object": (ISS, _claims(iss={ISSUER: 1})),
    "iss less its slash": (ISS, _claims(iss=ISSUER[:-1])),
    "iss begins like ours": (ISS, _claims(iss=ISSUER + "evil")),
    "iss in another case": (ISS, _claims(iss=ISSUER.upper())),
    "iss with http": (ISS, _claims(iss=ISSUER.replace("https", "http"))),
    "iss with our host as user": (ISS, _claims(iss="https://login.example.com@evil.example.com/")),
    "exp an hour ago": (EXPIRED, _claims(exp=_now(-3600))),
    "exp a little more than the leeway ago": (EXPIRED, _claims(exp=_now(-31))),
    "exp zero": (EXPIRED, _claims(exp=0)),
    "exp below zero": (EXP, _claims(exp=-1)),
    "exp missing": ("it has no claim 'exp'", _claims(exp=ABSENT)),
    "exp null": (EXP, _claims(exp=None)),
    "exp as text": (EXP, _claims(exp=str(_now(3600)))),
    "exp as a date": (EXP, _claims(exp="2099-01-01T00:00:00Z")),
    "exp true": (EXP, _claims(exp=True)),
    "exp a list": (EXP, _claims(exp=[_now(3600)])),
    "exp NaN": (PAYLOAD, _claims(exp=math.nan)),
    "exp Infinity": (PAYLOAD, _claims(exp=math.inf)),
    "exp 1e999": (PAYLOAD, lambda: _instead("exp", b"1e999")),
    "exp 1e300": (EXP, _claims(exp=1e300)),
    "exp in milliseconds": (EXP, _claims(exp=_now(3600) * 1000)),
    "exp of 400 digits": (EXP, _claims(exp=10**400)),
    "exp of 5000 digits": (PAYLOAD, lambda: _instead("exp", b"9" * 5000)),
    "nbf in an hour": (FUTURE, _claims(nbf=_now(3600))),
    "nbf as text": ("its nbf is not a time", _claims(nbf="0")),
    "nbf true": ("its nbf is not a time", _claims(nbf=True)),
    "nbf null": ("its nbf is not a time", _claims(nbf=None)),
    "iat in an hour": (FUTURE, _claims(iat=_now(3600))),
    "iat as text": ("its iat is not a time", _claims(iat="0")),
    "iat NaN": (PAYLOAD, _claims(iat=math.nan)),
    "sub missing": (NO_SUB, _claims(sub=ABSENT)),
    "sub null": (NO_SUB, _claims(sub=None)),
    "sub empty": (SUB, _claims(sub="")),
    "sub a number": (SUB, _claims(sub=7)),
    "sub true": (SUB, _claims(sub=True)),
    "sub a list": (SUB, _claims(sub=["ann"])),
    "sub an object": (SUB, _claims(sub={"name": "ann"})),
    "sub of 257 characters": (SUB, _claims(sub="a" * 257)),
    "sub with a line end": (SUB, _claims(sub="ann\nbob")),
    "sub with ESC": (SUB, _claims(sub="\x1b[2Jann")),
    "sub with a NUL": (SUB, _claims(sub="ann\0")),
    "sub written from right to left": (SUB, _claims(sub="ann\u202ebob")),
    "sub with half a character": (PAYLOAD, _claims(sub="ann\ud800")),
    "tenant a number": ("its claim 'tenant', for tenant,", _claims(tenant=7)),
    "tenant a list": ("its claim 'tenant', for tenant,", _claims(tenant=["payments"])),
    "tenant empty": ("its claim 'tenant', for tenant,", _claims(tenant="")),
    "groups an object": ("its claim 'groups', for groups,", _claims(groups={"admins": True})),
    "groups of numbers": ("its claim 'groups', for groups,", _claims(groups=["a", 7])),
    "groups in a list": ("its claim 'groups', for groups,", _claims(groups=[["admins"]])),
}


def _instead(name: str, written: bytes) -> str:
    """Good claims, but for one number as it is written."""
    payload = json.dumps(claims(**{name: 4711})).encode().replace(b"4711", written)
    return good(payload=payload)


FORM: Mapping[str, Forged] = {
    "no dots": (SHAPE, lambda: "abc"),
    "two parts": (SHAPE, _changed(lambda head, body, signature: f"{head}.{body}")),
    "two parts and a dot": (SHAPE, _changed(lambda head, body, signature: f"{head}.{body}.")),
    "four parts": (SHAPE, lambda: good() + ".e30"),
    "five parts, as encrypted tokens have": (
        SHAPE,
        lambda: f"{_head(alg='RSA-OAEP', enc='A256GCM')}.a.b.c.d",
    ),
    "dots alone": (SHAPE, lambda: ".."),
    "no header": (SHAPE, _changed(lambda head, body, signature: f".{body}.{signature}")),
    "no payload": (SHAPE, _changed(lambda head, body, signature: f"{head}..{signature}")),
    "a dot more": (SHAPE, lambda: "." + good()),
    "padded": (SHAPE, _changed(lambda head, body, signature: f"{head}.{body}.{signature}==")),
    "base64 with + and /": (SHAPE, lambda: good().replace("_", "/").replace("-", "+") + "+"),
    "percent-encoded": (SHAPE, lambda: good().replace(".", "%2e")),
    "a comma and another one": (SHAPE, lambda: f"{good()},{good()}"),
    "letters beyond ASCII": (SHAPE, lambda: "é" + good()),
    "a NUL in it": (SHAPE, _changed(lambda head, body, signature: f"{head}.{body}\0.{signature}")),
    "a blank in it": (SHAPE, _changed(lambda head, body, signature: f"{head}. {body}.{signature}")),
    "64 KB": (LONG, lambda: good(filler="x" * 64_000)),
    "1 MB": (LONG, lambda: good(filler="x" * 1_000_000)),
    "1 MB without a dot": (LONG, lambda: "a" * 1_000_000),
    "1 MB of dots": (LONG, lambda: "." * 1_000_000),
    "another payload": (
        NAMED,
        _changed(lambda head, body, signature: f"{head}.{_other(sub='root')}.{signature}"),
    ),
    "another header": (
        UNKNOWN,
        _changed(lambda head, body, signature: f"{_head(alg='RS256')}.{body}.{signature}"),
    ),
    "the signature of another token": (
        NAMED,
        _changed(lambda head, body, signature: f"{head}.{body}.{good(sub='bob').split('.')[2]}"),
    ),
    "a letter of the signature changed": (
        NAMED,
        _changed(lambda head, body, signature: f"{head}.{body}.{_flipped(signature)}"),
    ),
    "the signature cut short": (
        NAMED,
        _changed(lambda head, body, signature: f"{head}.{body}.{signature[:-2]}"),
    ),
    "the signature with more behind it": (
        NAMED,
        lambda: good(sign=lambda data: RS.sign(data) + b"\0\0\0"),
    ),
    "the signature in another spelling": (
        "the signature is not base64url",
        lambda: _respelled(good(ES)),
    ),
    "an elliptic signature of zeros": (NAMED, lambda: good(ES, sign=lambda _: bytes(64))),
    "an elliptic signature in DER": (NAMED, lambda: good(ES, sign=lambda _: b"\x30\x06" + bytes(70))),
    "an Edwards signature of zeros": (NAMED, lambda: good(ED, sign=lambda _: bytes(64))),
    "an RSA signature of zeros": (NAMED, lambda: good(sign=lambda _: bytes(256))),
    "crit": (NOT_DONE, _header(crit=["exp"])),
    "crit, empty": (NOT_DONE, _header(crit=[])),
    "crit of something unknown": (NOT_DONE, _header(crit=["x-must-know"], **{"x-must-know": 1})),
    "b64 false": (NOT_DONE, _header(b64=False, crit=["b64"])),
    "b64 false, not critical": (NOT_DONE, _header(b64=False)),
    "zip": (NOT_DONE, _header(zip="DEF")),
    "typ of a proof of possession": (TYP, _header(typ="dpop+jwt")),
    "typ of a logout": (TYP, _header(typ="application/logout+jwt")),
    "typ a number": (TYP, _header(typ=1)),
    "header a list": (HEADER, lambda: good(header=b'["RS256"]')),
    "header text": (HEADER, lambda: good(header=b'"RS256"')),
    "header null": (HEADER, lambda: good(header=b"null")),
    "header no JSON": (HEADER, lambda: good(header=b"{alg: RS256}")),
    "header not UTF-8": (HEADER, lambda: good(header=b'{"alg":"RS256","kid":"\xff"}')),
    "header in UTF-16": (HEADER, lambda: good(header='{"alg":"RS256"}'.encode("utf-16"))),
    "header with more behind it": (HEADER, lambda: good(header=b'{"alg":"RS256","kid":"rs"} {}')),
    "header with NaN": (HEADER, lambda: good(header=b'{"alg":"RS256","kid":"rs","x":NaN}')),
    "header nested 2,000 deep": (HEADER, lambda: good(
        header=b'{"alg":"RS256","kid":"rs","x":' + b"[" * 2000 + b"]" * 2000 + b"}")),
    "header nested 33 deep": (HEADER, lambda: good(
        header=b'{"alg":"RS256","kid":"rs","x":' + b"[" * 33 + b"]" * 33 + b"}")),
    "payload a list": (PAYLOAD, _payload(["ann"])),
    "payload text": (PAYLOAD, _payload("ann")),
    "payload null": (PAYLOAD, lambda: good(payload=b"null")),
    "payload no JSON": (PAYLOAD, _payload(b"\x00\x01\x02")),
    "payload not UTF-8": (PAYLOAD, _member(b'"name": "\xff"')),
    "payload with a byte order mark": (PAYLOAD, lambda: good(
        payload=b"\xef\xbb\xbf" + json.dumps(claims()).encode())),
    "payload with more behind it": (PAYLOAD, lambda: good(
        payload=json.dumps(claims()).encode() + b"{}")),
    "payload a token itself": (PAYLOAD, lambda: good(payload=good().encode())),
    "payload nested 3,000 deep, never closed": (PAYLOAD, _member(b'"x": ' + b"[" * 3000)),
    "payload nested 2,500 deep": (PAYLOAD, _member(b'"x": ' + b"[" * 2500 + b"]" * 2500)),
    "payload of 900 objects in each other": (
        PAYLOAD,
        _member(b'"x": ' + b'{"a":' * 900 + b"1" + b"}" * 900),
    ),
    "payload nested 33 deep": (PAYLOAD, _member(b'"x": ' + b"[" * 33 + b"]" * 33)),
    "sub twice": (PAYLOAD, _member(b'"sub": "root"')),
    "exp twice": (PAYLOAD, _member(b'"exp": 4102444800')),
    "iss twice, once with an escape": (PAYLOAD, _member(b'"i\\u0073s": "https://evil.example/"')),
    "a member twice, deep inside": (PAYLOAD, _member(b'"x": [{"y": {"a": 1, "a": 2}}]')),
    "NaN in a claim nobody reads": (PAYLOAD, _member(b'"x": NaN')),
    "1e999 in a claim nobody reads": (PAYLOAD, _member(b'"x": [-1e999]')),
}  # fmt: skip


def _other(**changes: Any) -> str:
    return base64url(json.dumps(claims(**changes)).encode())


def _head(**fields: Any) -> str:
    return base64url(json.dumps(fields).encode())


def _respelled(token: str) -> str:
    """Of an elliptic signature's last letter, four bits are spare: another one, the same bytes."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) ^ 1]


FORGED: Mapping[str, Forged] = {**ALGORITHMS, **KEYS, **CLAIMS, **FORM}
SIGNERS: tuple[Signer, ...] = (RS, ES, ED, PS)
"""Whose tokens are good."""
