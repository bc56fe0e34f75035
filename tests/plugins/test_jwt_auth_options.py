"""`jwt_auth` as it is written: what does not go together is told when it is loaded."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from headrace import ConfigError, Duration, Secret
from headrace.testing import gateway

from .jwt.forging import WEAK, der, modulus, stripped
from .jwt.showing import guard
from .jwt.tokens import ED, ES, ISSUER, RS, SECRET, hmac, token


def private_pem() -> str:
    pem: bytes = RS.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no issuer": ({"issuer": ""}, "issuer must not be empty"),
    "an empty list of issuers": ({"issuer": []}, "issuer must not be empty"),
    "no audience": ({"audience": ""}, "audience must not be empty"),
    "an audience that is empty": ({"audience": ["a", ""]}, "audience must not be empty"),
    "too much leeway": ({"leeway": Duration(31)}, "leeway must be at most 30s, found 31s"),
    "two sources": ({"public_key": RS.pem, "jwks": "/k"}, "one of public_key and jwks, not both"),
    "a secret and a key": (
        {"secret": Secret(SECRET), "public_key": RS.pem},
        "write one of secret and public_key, not both",
    ),
    "HS256 with a public key": (
        {"public_key": RS.pem, "algorithms": ["RS256", "HS256"]},
        "HS256 does not go with public keys",
    ),
    "HS512 with a JWK Set": (
        {"jwks": "https://login.example.com/keys", "algorithms": ["HS512"]},
        "HS512 does not go with public keys",
    ),
    "HS256 with discovery": ({"algorithms": ["HS256"]}, "HS256 does not go with public keys"),
    "RS256 with a secret": (
        {"secret": Secret(SECRET), "algorithms": ["HS256", "RS256"]},
        "RS256 does not go with a secret",
    ),
    "no algorithm": ({"public_key": RS.pem, "algorithms": []}, "algorithms must not be empty"),
    "a secret that is too short": (
        {"secret": Secret("s" * 31)},
        "secret must have at least 32 bytes for HS256; make one with: openssl rand -base64 32",
    ),
    "a secret too short for HS384": (
        {"secret": Secret("s" * 47), "algorithms": ["HS256", "HS384"]},
        "secret must have at least 48 bytes for HS384",
    ),
    "a secret too short for HS512": (
        {"secret": Secret("s" * 63), "algorithms": ["HS512"]},
        "secret must have at least 64 bytes for HS512",
    ),
    "a PEM for a secret": ({"secret": Secret(RS.pem)}, "secret is a public key"),
    "a stripped PEM for a secret": ({"secret": Secret(stripped().decode())}, "is a public key"),
    "a PEM in base64 for a secret": (
        {"secret": Secret(base64.b64encode(RS.pem.encode()).decode())},
        "secret is a public key",
    ),
    "a JWK for a secret": ({"secret": Secret(json.dumps(RS.jwk()))}, "or a JSON Web Key"),
    "a JWK Set for a secret": (
        {"secret": Secret(json.dumps({"keys": [ES.jwk()]}))},
        "or a JSON Web Key",
    ),
    "no PEM": ({"public_key": "MIIB"}, "public_key is not a public key in PEM"),
    "a private key": ({"public_key": private_pem()}, "public_key is not a public key in PEM"),
    "a weak key": ({"public_key": WEAK.pem}, "public_key is too short, or for none of"),
    "a key of another kind": (
        {"public_key": ED.pem, "algorithms": ["RS256", "ES256"]},
        "public_key is too short, or for none of the algorithms RS256, ES256",
    ),
    "a key on another curve": (
        {"public_key": ES.pem, "algorithms": ["ES384"]},
        "for none of the algorithms ES384",
    ),
    "discovery with several issuers": (
        {"issuer": [ISSUER, "https://accounts.example.com/"]},
        "several issuers need jwks",
    ),
    "discovery with no URL": (
        {"issuer": "accounts.example.com"},
        "issuer must be a URL that begins with https or http:// and a host, or jwks must say",
    ),
    "a URL of another kind": ({"jwks": "ftp://example.com/k"}, "jwks must be a URL that begins"),
    "a URL with a key in it": ({"jwks": "https://a:b@example.com/k"}, "jwks must have no user"),
    "a URL that is broken": ({"jwks": "https://[::1/keys"}, "jwks must be a URL that begins"),
    "a URL without a host": ({"jwks": "https:///keys"}, "jwks must be a URL that begins"),
    "a URL with a line end": ({"jwks": "https://example.com/\r\nx"}, "jwks must be a URL"),
    "a file that is not there": ({"jwks": "/nowhere/k.json"}, "jwks: cannot read /nowhere/k.json"),
    "stale before it is renewed": (
        {"refresh": Duration(60), "max_stale": Duration(60)},
        "max_stale longer than refresh",
    ),
    "no cool-down": ({"cool_down": Duration(0)}, "cool_down must be at least 1s"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_go_together_is_told(what: str) -> None:
    options, said = WRONG[what]

    with pytest.raises(ValueError, match=said) as caught:
        guard(**options)

    for secret in (SECRET, RS.pem.splitlines()[1], stripped().decode()):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct"}]}'])
def test_a_file_without_keys_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)

    with pytest.raises(ValueError, match=f"jwks: {file}: "):
        guard(jwks=str(file))


def test_bytes_that_are_no_secret_are_no_public_key_either() -> None:
    for secret in (der().hex(), modulus().hex(), "s" * 32):
        assert guard(secret=Secret(secret)).algorithms is None


def test_public_keys_need_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_plugins.jwt_auth.reading.has_crypto", False)

    with pytest.raises(ValueError, match=r"pip install 'headrace\[standard\]'"):
        guard(public_key=RS.pem)
    with pytest.raises(ValueError, match="need the package cryptography"):
        guard()
    assert guard(secret=Secret(SECRET)).fetches == 0


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{audience: a}", "jwt_auth needs the option 'issuer'"),
        ("{issuer: https://a.example/}", "jwt_auth needs the option 'audience'"),
        ("{issuer: https://a.example/, audience: a, algorithms: [none]}", "must be 'HS256', "),
        ("{issuer: https://a.example/, audience: a, algorithms: [RS256, rs256]}", "found 'rs256'"),
        ("{issuer: https://a.example/, audience: a, claims: {name: x}}", "'id', 'tenant' or"),
        ("{issuer: https://a.example/, audience: a, leeway: 1m}", "leeway must be at most 30s"),
        ("{issuer: https://a.example/, audience: a, verify: false}", "has no option 'verify'"),
        ("{issuer: https://a.example/, audience: a, secret: short}", "at least 32 bytes"),
    ],
)
def test_problems_are_told_where_they_stand(written: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gateway(f"server: {{chain: [jwt_auth: {written}]}}\nupstreams: {{a: mock}}\n")

    [problem] = str(caught.value).split("\n\n")[:1]
    assert problem.startswith("gateway.yaml:1:")
    assert said in problem


def test_what_a_variable_gave_is_not_in_a_message() -> None:
    text = """
    server: {chain: [jwt_auth: {issuer: a, audience: b, secret: "${JWT_SECRET}"}]}
    upstreams: {a: mock}
    """
    with pytest.raises(ConfigError) as caught:
        gateway(textwrap.dedent(text), environ={"JWT_SECRET": "hunter2hunter2"})

    assert "at least 32 bytes" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_secret_works_without_cryptography() -> None:
    shown = token(header={"alg": "HS256"}, sign=hmac(SECRET))

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, SECRET, shown], capture_output=True, text=True, timeout=60
    )

    assert done.stderr == ""
    assert done.stdout == "ann\npublic keys need the package cryptography\n"


WITHOUT = """
import asyncio, sys
sys.modules["cryptography"] = None
from headrace import Secret
from headrace.testing import Upstream, ask, call, text
from headrace_plugins.jwt_auth import JwtAuth

usual = {"issuer": "https://login.example.com/", "audience": "headrace"}

async def main():
    guard = JwtAuth(**usual, secret=Secret(sys.argv[1]))
    asked = call(headers={"authorization": f"Bearer {sys.argv[2]}"})
    await text(await ask(guard, upstream=Upstream(), call=asked))
    print(asked.record.caller.id)
    try:
        JwtAuth(**usual)
    except ValueError as error:
        print(str(error).partition(":")[0])

asyncio.run(main())
"""
