"""`jwt_auth` against what nobody would write: refused, and never anything else."""

from __future__ import annotations

import asyncio
import json
import os
import string
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import jwt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headrace import Caller, Secret, Unauthorized
from headrace_plugins.jwt_auth import JwtAuth
from headrace_plugins.jwt_auth.keys import ASYMMETRIC
from headrace_plugins.jwt_auth.reading import of_document

from .jwt.showing import guard, show
from .jwt.tokens import AUDIENCE, ED, ES, ISSUER, RS, SECRET, Signer, base64url, claims, hmac, token

CASES = int(os.environ.get("FUZZ_CASES", "300"))
SHARED = guard(secret=Secret(SECRET))
PUBLIC = guard(public_key=ED.pem)
SIGN = hmac(SECRET)
HEADER = {"alg": "HS256"}


LetIn = Callable[..., Caller | None]


@pytest.fixture(scope="module")
def let_in() -> Iterator[LetIn]:
    """Who is let in with a token, if somebody is; whatever else is raised fails the test."""
    with asyncio.Runner() as runner:

        def shown(text: str, plugin: JwtAuth = SHARED) -> Caller | None:
            with suppress(Unauthorized):
                return runner.run(show(plugin, text))
            return None

        yield shown


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, True, 10**400, -1, 1e300])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "zip", "jwk", "jku", "x5c", "cty"])
LETTERS = string.ascii_letters + string.digits + "-_"


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(
    st.text(max_size=300).map(lambda text: text.encode("latin-1", "ignore").decode("latin-1"))
    | st.lists(st.text(LETTERS, max_size=80), max_size=6).map(".".join)
    | st.lists(st.binary(max_size=60).map(base64url), min_size=3, max_size=3).map(".".join)
)
def test_any_text_lets_nobody_in(let_in: LetIn, text: str) -> None:
    assume(all(ord(letter) > 31 and ord(letter) != 127 for letter in text))
    assert let_in(text) is None
    assert let_in(text, PUBLIC) is None


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(st.dictionaries(NAMES | st.text(max_size=4), JSON, max_size=5) | JSON)
def test_any_header_over_a_right_signature_is_read_or_refused(let_in: LetIn, header: Any) -> None:
    caller = let_in(token(header=json.dumps(header).encode(), sign=SIGN))

    if caller is not None:
        assert header["alg"] == "HS256"
        assert not {"crit", "b64", "zip"} & header.keys()


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "jti", "tenant", "groups"]),
        JSON | st.sampled_from([ISSUER, AUDIENCE, [AUDIENCE], "ann"]),
        max_size=4,
    )
)
def test_whom_it_lets_in_pyjwt_lets_in_too(let_in: LetIn, changes: dict[str, Any]) -> None:
    payload = {**claims(), **changes}
    text = token(payload=payload, header=HEADER, sign=SIGN)

    caller = let_in(text)

    if caller is not None:
        said = jwt.decode(
            text,
            SECRET,
            ["HS256"],
            {"require": ["exp", "iss", "aud", "sub"], "verify_jti": False},
            issuer=ISSUER,
            audience=AUDIENCE,
            leeway=30,
        )
        assert caller.claims == said
        assert caller.id == said["sub"]


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_payload_over_a_right_signature_is_read_or_refused(
    let_in: LetIn, payload: bytes
) -> None:
    let_in(token(payload=payload, header=HEADER, sign=SIGN))
    body = json.dumps(claims()).encode()
    caller = let_in(token(payload=body[:-1] + b"," + payload + b"}", header=HEADER, sign=SIGN))

    if caller is not None:
        assert caller.claims["iss"] == ISSUER


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(
    st.sampled_from([RS, ES, ED]),
    st.integers(0, 2000),
    st.sampled_from([*LETTERS, ".", "", "=", "A.", "é"]),
)
def test_a_token_with_one_letter_changed_lets_nobody_in(
    let_in: LetIn, signer: Signer, place: int, letter: str
) -> None:
    good = GOOD[signer.kid]
    place %= len(good)
    changed = good[:place] + letter + good[place + 1 :]
    assume(changed != good)

    assert let_in(changed, GUARDS[signer.kid]) is None


GOOD = {signer.kid: token(signer, exp=int(time.time()) + 86400) for signer in (RS, ES, ED)}
GUARDS = {signer.kid: guard(public_key=signer.pem) for signer in (RS, ES, ED)}

MEMBERS = st.sampled_from(["kty", "kid", "use", "alg", "key_ops", "n", "e", "crv", "x", "y", "d"])
VALUES = JSON | st.sampled_from(
    [*{value for signer in (RS, ES, ED) for value in signer.jwk(key_ops="verify").values()}]
) | st.text(LETTERS, max_size=90)  # fmt: skip
JWK = st.builds(
    lambda signer, changes: {**signer.jwk(), **changes},
    st.sampled_from([RS, ES, ED]),
    st.dictionaries(MEMBERS, VALUES, max_size=4),
) | st.dictionaries(MEMBERS, VALUES)


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(JSON | st.fixed_dictionaries({"keys": st.lists(JWK | JSON, max_size=4) | JSON}))
def test_any_document_has_keys_or_is_refused(document: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cryptography's, of keys it will not take for long
        try:
            keys = of_document(document, ASYMMETRIC)
        except ValueError:
            return
    assert keys.keys
    for key in keys.keys:
        assert key.fits.keys() <= set(ASYMMETRIC)
