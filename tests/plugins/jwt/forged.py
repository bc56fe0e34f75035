"""Tokens that must not let anybody in: what is wrong with each, what the log says, how to make it.

They are shown to a gateway that trusts the keys of `DOCUMENT`. Each is a good token but for its
point, so the words of the log tell whether it was refused for that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from .forging import (
    DOCUMENT,
    ENCRYPTING,
    LEAKED,
    PUBLISHED,
    STRANGER,
    WEAK,
    WRAPPING,
    Forged,
    as_hmac,
    by_stranger,
    certificate,
    changed,
    der,
    flipped,
    from_now,
    in_der,
    instead,
    modulus,
    other_claims,
    other_header,
    respelled,
    stripped,
    with_alg,
    with_claims,
    with_header,
    with_member,
    with_payload,
)
from .tokens import ABSENT, AUDIENCE, ED, ES, ISSUER, PS, RS, Signer, base64url, claims, hmac, rs
from .tokens import token as good

SHAPE = "not three parts of base64url"
LONG = "longer than 8192 characters"
HEADER = "its header is not"
PAYLOAD = "its payload is not"
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
NO_ISS, NO_AUD, NO_EXP, NO_SUB = (f"it has no claim '{n}'" for n in ("iss", "aud", "exp", "sub"))
SUB = "its claim 'sub', for id, is not printable text"


ALGORITHMS: Mapping[str, Forged] = {
    "alg none": (ALG, with_alg("none")),
    "alg none, no signature": (SHAPE, lambda: good(header={"alg": "none"}, sign=lambda _: b"")),
    "alg None": (ALG, with_alg("None")),
    "alg NONE": (ALG, with_alg("NONE")),
    "alg nOnE": (ALG, with_alg("nOnE")),
    "alg empty": (ALG, with_alg("")),
    "alg null": (ALG_TEXT, with_alg(None)),
    "alg missing": (ALG_TEXT, with_alg(ABSENT)),
    "alg a list": (ALG_TEXT, with_alg(["RS256"])),
    "alg an object": (ALG_TEXT, with_alg({"RS256": 1})),
    "alg a number": (ALG_TEXT, with_alg(256)),
    "alg true": (ALG_TEXT, with_alg(True)),
    "alg in small letters": (ALG, with_header(alg="rs256")),
    "alg with a blank": (ALG, with_header(alg="RS256 ")),
    "alg with a NUL": (ALG, with_header(alg="RS256\0")),
    "alg twice": (HEADER, lambda: good(header=b'{"alg":"none","kid":"rs","alg":"RS256"}')),
    "alg unknown": (ALG, with_alg("XX999")),
    "alg ES256K": (ALG, with_alg("ES256K")),
    "HS256 with the public key in PEM": (ALG, as_hmac(lambda: RS.pem.encode())),
    "HS256 with the PEM's lines ended otherwise": (
        ALG,
        as_hmac(lambda: RS.pem.replace("\n", "\r\n").encode()),
    ),
    "HS256 with the PEM less its last line end": (ALG, as_hmac(lambda: RS.pem.strip().encode())),
    "HS256 with the public key in DER": (ALG, as_hmac(der)),
    "HS256 with the PEM stripped": (ALG, as_hmac(stripped)),
    "HS256 with the modulus": (ALG, as_hmac(modulus)),
    "HS256 with the modulus in base64url": (
        ALG,
        as_hmac(lambda: base64url(modulus()).encode()),
    ),
    "HS256 with the JWK": (ALG, as_hmac(lambda: json.dumps(RS.jwk()).encode())),
    "HS256 with the JWK Set": (ALG, as_hmac(lambda: json.dumps(DOCUMENT).encode())),
    "HS256 with nothing": (ALG, as_hmac(lambda: b"")),
    "HS384 with the public key in PEM": (ALG, as_hmac(lambda: RS.pem.encode(), "HS384")),
    "HS512 with the public key in PEM": (ALG, as_hmac(lambda: RS.pem.encode(), "HS512")),
    "HS512 with the public key in DER": (ALG, as_hmac(der, "HS512")),
    "HS256 with the secret of the JWK Set": (
        ALG,
        lambda: good(header={"alg": "HS256", "kid": "oct"}, sign=hmac(PUBLISHED)),
    ),
    "RS256 with an elliptic key's id": (NAMED, with_header(kid="es")),
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
    "a stranger's key, its own id": (UNKNOWN, by_stranger()),
    "a stranger's key, no id": (UNKNOWN, by_stranger(kid=ABSENT)),
    "a stranger's key, a known id": (NAMED, by_stranger(kid="rs")),
    "a key that encrypts": (UNKNOWN, lambda: good(ENCRYPTING)),
    "a key that wraps others": (UNKNOWN, lambda: good(WRAPPING)),
    "a key of 1024 bits": (UNKNOWN, lambda: good(WEAK)),
    "a private key in the open": (UNKNOWN, lambda: good(LEAKED)),
    "the key in jwk": (NAMED, lambda: by_stranger(kid="rs", jwk=STRANGER.jwk())()),
    "the key in jwk, no id": (UNKNOWN, lambda: by_stranger(kid=ABSENT, jwk=STRANGER.jwk())()),
    "the keys at jku": (UNKNOWN, by_stranger(jku="https://evil.example.com/keys")),
    "the keys at jku, a known id": (NAMED, by_stranger(kid="rs", jku="http://169.254.169.254/")),
    "a jku at the issuer": (UNKNOWN, by_stranger(jku=ISSUER + "redirect?to=evil.example.com")),
    "a certificate at x5u": (NAMED, by_stranger(kid="rs", x5u="https://evil.example.com/c.pem")),
    "a certificate in x5c": (NAMED, by_stranger(kid="rs", x5c=certificate())),
    "x5t of a certificate": (UNKNOWN, by_stranger(kid=ABSENT, x5t="dGhpcyBpcyBhIFNIQTEgdGVzdA")),
    "an id that leads to a file": (UNKNOWN, by_stranger(kid="../../../../dev/null")),
    "an id that leads to nothing": (ALG, lambda: good(
        header={"alg": "HS256", "kid": "/dev/null"}, sign=hmac(b""))),
    "an id of SQL": (UNKNOWN, by_stranger(kid="x' UNION SELECT 'key' --")),
    "an id with line ends": (UNKNOWN, by_stranger(kid="rs\r\nx-evil: 1")),
    "an id with a NUL": (UNKNOWN, by_stranger(kid="rs\0")),
    "an id that is an address": (UNKNOWN, by_stranger(kid="https://evil.example.com/key")),
    "an id of a command": (UNKNOWN, by_stranger(kid="rs|touch /tmp/x")),
    "an empty id": (UNKNOWN, by_stranger(kid="")),
    "an id in another case": (UNKNOWN, by_stranger(kid="RS")),
    "an id with half a character": (HEADER, lambda: good(
        header=b'{"alg":"RS256","kid":"\\ud800"}')),
    "an id that is a number": (KID, with_header(kid=1)),
    "an id that is zero": (KID, with_header(kid=0)),
    "an id that is a list": (KID, with_header(kid=["rs"])),
    "an id that is an object": (KID, with_header(kid={"rs": "rs"})),
    "an id that is false": (KID, with_header(kid=False)),
    "an id of 4 KB": (KID, with_header(kid="r" * 4096)),
}  # fmt: skip

CLAIMS: Mapping[str, Forged] = {
    "aud wrong": (AUD, with_claims(aud="other")),
    "aud missing": (NO_AUD, with_claims(aud=ABSENT)),
    "aud null": (NO_AUD, with_claims(aud=None)),
    "aud empty": (AUD, with_claims(aud="")),
    "aud an empty list": (AUD, with_claims(aud=[])),
    "aud a list of others": (AUD, with_claims(aud=["other", "another"])),
    "aud a list with a number": (AUD_TEXT, with_claims(aud=[AUDIENCE, 1])),
    "aud a list in a list": (AUD_TEXT, with_claims(aud=[[AUDIENCE]])),
    "aud an object": (AUD_TEXT, with_claims(aud={AUDIENCE: 1})),
    "aud begins like ours": (AUD, with_claims(aud=AUDIENCE + "-test")),
    "aud is how ours begins": (AUD, with_claims(aud=AUDIENCE[:-1])),
    "aud in another case": (AUD, with_claims(aud=AUDIENCE.upper())),
    "aud with a blank": (AUD, with_claims(aud=AUDIENCE + " ")),
    "aud among others in one text": (AUD, with_claims(aud=f"other {AUDIENCE}")),
    "iss wrong": (ISS, with_claims(iss="https://evil.example.com/")),
    "iss missing": (NO_ISS, with_claims(iss=ABSENT)),
    "iss null": (NO_ISS, with_claims(iss=None)),
    "iss a list": (ISS, with_claims(iss=[ISSUER])),
    "iss an object": (ISS, with_claims(iss={ISSUER: 1})),
    "iss less its slash": (ISS, with_claims(iss=ISSUER[:-1])),
    "iss begins like ours": (ISS, with_claims(iss=ISSUER + "evil")),
    "iss in another case": (ISS, with_claims(iss=ISSUER.upper())),
    "iss with http": (ISS, with_claims(iss=ISSUER.replace("https", "http"))),
    "iss with our host as user": (
        ISS,
        with_claims(iss="https://login.example.com@evil.example.com/"),
    ),
    "exp an hour ago": (EXPIRED, with_claims(exp=from_now(-3600))),
    "exp a little more than the leeway ago": (EXPIRED, with_claims(exp=from_now(-31))),
    "exp zero": (EXPIRED, with_claims(exp=0)),
    "exp below zero": (EXP, with_claims(exp=-1)),
    "exp missing": (NO_EXP, with_claims(exp=ABSENT)),
    "exp null": (NO_EXP, with_claims(exp=None)),
    "exp as text": (EXP, with_claims(exp=str(from_now(3600)))),
    "exp as a date": (EXP, with_claims(exp="2099-01-01T00:00:00Z")),
    "exp true": (EXP, with_claims(exp=True)),
    "exp a list": (EXP, with_claims(exp=[from_now(3600)])),
    "exp NaN": (PAYLOAD, with_claims(exp=math.nan)),
    "exp Infinity": (PAYLOAD, with_claims(exp=math.inf)),
    "exp 1e999": (PAYLOAD, lambda: instead("exp", b"1e999")),
    "exp 1e300": (EXP, with_claims(exp=1e300)),
    "exp in milliseconds": (EXP, with_claims(exp=from_now(3600) * 1000)),
    "exp of 400 digits": (EXP, with_claims(exp=10**400)),
    "exp of 5000 digits": (PAYLOAD, lambda: instead("exp", b"9" * 5000)),
    "nbf in an hour": (FUTURE, with_claims(nbf=from_now(3600))),
    "nbf as text": ("its nbf is not a time", with_claims(nbf="0")),
    "nbf true": ("its nbf is not a time", with_claims(nbf=True)),
    "nbf null": ("its nbf is not a time", with_claims(nbf=None)),
    "iat in an hour": (FUTURE, with_claims(iat=from_now(3600))),
    "iat as text": ("its iat is not a time", with_claims(iat="0")),
    "iat NaN": (PAYLOAD, with_claims(iat=math.nan)),
    "sub missing": (NO_SUB, with_claims(sub=ABSENT)),
    "sub null": (NO_SUB, with_claims(sub=None)),
    "sub empty": (SUB, with_claims(sub="")),
    "sub a number": (SUB, with_claims(sub=7)),
    "sub true": (SUB, with_claims(sub=True)),
    "sub a list": (SUB, with_claims(sub=["ann"])),
    "sub an object": (SUB, with_claims(sub={"name": "ann"})),
    "sub of 257 characters": (SUB, with_claims(sub="a" * 257)),
    "sub with a line end": (SUB, with_claims(sub="ann\nbob")),
    "sub with ESC": (SUB, with_claims(sub="\x1b[2Jann")),
    "sub with a NUL": (SUB, with_claims(sub="ann\0")),
    "sub written from right to left": (SUB, with_claims(sub="ann\u202ebob")),
    "sub with half a character": (PAYLOAD, with_claims(sub="ann\ud800")),
    "tenant a number": ("its claim 'tenant', for tenant,", with_claims(tenant=7)),
    "tenant a list": ("its claim 'tenant', for tenant,", with_claims(tenant=["payments"])),
    "tenant empty": ("its claim 'tenant', for tenant,", with_claims(tenant="")),
    "groups an object": ("its claim 'groups', for groups,", with_claims(groups={"admins": True})),
    "groups of numbers": ("its claim 'groups', for groups,", with_claims(groups=["a", 7])),
    "groups in a list": ("its claim 'groups', for groups,", with_claims(groups=[["admins"]])),
}


FORM: Mapping[str, Forged] = {
    "no dots": (SHAPE, lambda: "abc"),
    "two parts": (SHAPE, changed(lambda head, body, signature: f"{head}.{body}")),
    "two parts and a dot": (SHAPE, changed(lambda head, body, signature: f"{head}.{body}.")),
    "four parts": (SHAPE, lambda: good() + ".e30"),
    "five parts, as encrypted tokens have": (
        SHAPE,
        lambda: f"{other_header(alg='RSA-OAEP', enc='A256GCM')}.a.b.c.d",
    ),
    "a length that base64 cannot have": ("its header is not base64url", lambda: "e30AA.e30.e30"),
    "dots alone": (SHAPE, lambda: ".."),
    "no header": (SHAPE, changed(lambda head, body, signature: f".{body}.{signature}")),
    "no payload": (SHAPE, changed(lambda head, body, signature: f"{head}..{signature}")),
    "a dot more": (SHAPE, lambda: "." + good()),
    "padded": (SHAPE, changed(lambda head, body, signature: f"{head}.{body}.{signature}==")),
    "base64 with + and /": (SHAPE, lambda: good().replace("_", "/").replace("-", "+") + "+"),
    "percent-encoded": (SHAPE, lambda: good().replace(".", "%2e")),
    "a comma and another one": (SHAPE, lambda: f"{good()},{good()}"),
    "letters beyond ASCII": (SHAPE, lambda: "é" + good()),
    "a NUL in it": (SHAPE, changed(lambda head, body, signature: f"{head}.{body}\0.{signature}")),
    "a blank in it": (SHAPE, changed(lambda head, body, signature: f"{head}. {body}.{signature}")),
    "64 KB": (LONG, lambda: good(filler="x" * 64_000)),
    "1 MB": (LONG, lambda: good(filler="x" * 1_000_000)),
    "1 MB without a dot": (LONG, lambda: "a" * 1_000_000),
    "1 MB of dots": (LONG, lambda: "." * 1_000_000),
    "another payload": (
        NAMED,
        changed(lambda head, body, signature: f"{head}.{other_claims(sub='root')}.{signature}"),
    ),
    "another header": (
        UNKNOWN,
        changed(lambda head, body, signature: f"{other_header(alg='RS256')}.{body}.{signature}"),
    ),
    "the signature of another token": (
        NAMED,
        changed(lambda head, body, signature: f"{head}.{body}.{good(sub='bob').split('.')[2]}"),
    ),
    "a letter of the signature changed": (
        NAMED,
        changed(lambda head, body, signature: f"{head}.{body}.{flipped(signature)}"),
    ),
    "the signature cut short": (
        NAMED,
        changed(lambda head, body, signature: f"{head}.{body}.{signature[:-2]}"),
    ),
    "the signature with more behind it": (
        NAMED,
        lambda: good(sign=lambda data: RS.sign(data) + b"\0\0\0"),
    ),
    "the signature in another spelling": (
        "its signature is not base64url",
        lambda: respelled(good(ES)),
    ),
    "an elliptic signature of zeros": (NAMED, lambda: good(ES, sign=lambda _: bytes(64))),
    "an elliptic signature in DER": (NAMED, lambda: good(ES, sign=in_der)),
    "an Edwards signature of zeros": (NAMED, lambda: good(ED, sign=lambda _: bytes(64))),
    "an RSA signature of zeros": (NAMED, lambda: good(sign=lambda _: bytes(256))),
    "crit": (NOT_DONE, with_header(crit=["exp"])),
    "crit, empty": (NOT_DONE, with_header(crit=[])),
    "crit of something unknown": (NOT_DONE, with_header(crit=["x_must_know"], x_must_know=1)),
    "b64 false": (NOT_DONE, with_header(b64=False, crit=["b64"])),
    "b64 false, not critical": (NOT_DONE, with_header(b64=False)),
    "zip": (NOT_DONE, with_header(zip="DEF")),
    "typ of a proof of possession": (TYP, with_header(typ="dpop+jwt")),
    "typ of a logout": (TYP, with_header(typ="application/logout+jwt")),
    "typ a number": (TYP, with_header(typ=1)),
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
    "payload a list": (PAYLOAD, with_payload(["ann"])),
    "payload text": (PAYLOAD, with_payload("ann")),
    "payload null": (PAYLOAD, lambda: good(payload=b"null")),
    "payload no JSON": (PAYLOAD, with_payload(b"\x00\x01\x02")),
    "payload not UTF-8": (PAYLOAD, with_member(b'"name": "\xff"')),
    "payload with a byte order mark": (PAYLOAD, lambda: good(
        payload=b"\xef\xbb\xbf" + json.dumps(claims()).encode())),
    "payload with more behind it": (PAYLOAD, lambda: good(
        payload=json.dumps(claims()).encode() + b"{}")),
    "payload a token itself": (PAYLOAD, lambda: good(payload=good().encode())),
    "payload nested 3,000 deep, never closed": (PAYLOAD, with_member(b'"x": ' + b"[" * 3000)),
    "payload nested 2,500 deep": (PAYLOAD, with_member(b'"x": ' + b"[" * 2500 + b"]" * 2500)),
    "payload of 900 objects in each other": (
        PAYLOAD,
        with_member(b'"x": ' + b'{"a":' * 900 + b"1" + b"}" * 900),
    ),
    "payload nested 33 deep": (PAYLOAD, with_member(b'"x": ' + b"[" * 33 + b"]" * 33)),
    "sub twice": (PAYLOAD, with_member(b'"sub": "root"')),
    "exp twice": (PAYLOAD, with_member(b'"exp": 4102444800')),
    "iss twice, once with an escape": (PAYLOAD, with_member(b'"i\\u0073s": "https://evil.example/"')),
    "a member twice, deep inside": (PAYLOAD, with_member(b'"x": [{"y": {"a": 1, "a": 2}}]')),
    "NaN in a claim nobody reads": (PAYLOAD, with_member(b'"x": NaN')),
    "1e999 in a claim nobody reads": (PAYLOAD, with_member(b'"x": [-1e999]')),
}  # fmt: skip


FORGED: Mapping[str, Forged] = {**ALGORITHMS, **KEYS, **CLAIMS, **FORM}
SIGNERS: tuple[Signer, ...] = (RS, ES, ED, PS)
"""Whose tokens are good."""
