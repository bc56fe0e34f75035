"""The gateway's own certificate: what is wrong with it is a problem where it is named."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from headrace.config.build import build
from headrace.config.certificate import Certificate, _end
from headrace.config.document import Document, load, parse
from headrace.errors import ConfigError

TEXT = """\
server:
  tls: {certificate: CERTIFICATE, key: KEY}
upstreams: {a: mock}
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def issue(authority: trustme.CA, name: str, *, days: float = 30, rsa: bool = False) -> None:
    """Write a certificate and its key."""
    issued = authority.issue_cert(
        "localhost",
        not_after=datetime.now(UTC) + timedelta(days=days),
        key_type=trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA,
    )
    Path(f"{name}.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    Path(f"{name}.key").write_bytes(issued.private_key_pem.bytes())


def document(certificate: str = "a.crt", key: str = "a.key", **environ: str) -> Document:
    text = TEXT.replace("CERTIFICATE", certificate).replace("KEY", key)
    return parse(text, "gateway.yaml", environ)


def built(document: Document) -> Certificate:
    certificate = build(document).certificate
    assert certificate
    return certificate


def problems(*arguments: str, **environ: str) -> list[str]:
    """The first line of each problem."""
    with pytest.raises(ConfigError) as refused:
        build(document(*arguments, **environ))
    return [str(problem).partition("\n")[0] for problem in refused.value.problems]


@pytest.mark.parametrize("rsa", [False, True], ids=["elliptic", "RSA"])
def test_it_is_read_with_the_configuration(authority: trustme.CA, rsa: bool) -> None:
    issue(authority, "a", rsa=rsa)

    certificate = built(document())

    assert certificate.context.minimum_version.name == "TLSv1_2"
    assert abs(certificate.ends - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)


def test_one_file_may_have_both(authority: trustme.CA) -> None:
    issue(authority, "a")
    Path("both.pem").write_text(Path("a.key").read_text() + Path("a.crt").read_text())

    assert built(document("both.pem", "both.pem")).file == "both.pem"


def test_one_that_has_expired_is_a_problem_with_its_file_and_its_date(
    authority: trustme.CA,
) -> None:
    issue(authority, "a", days=-2)
    ended = datetime.now(UTC) - timedelta(days=2)

    (told,) = problems()

    assert told.startswith(
        "gateway.yaml:2:22: server: tls: certificate: 'a.crt' has a certificate that ended on "
        f"{ended:%Y-%m-%d} at "
    )
    assert told.endswith("UTC; put the renewed one there")


def test_what_cannot_be_read_is_a_problem_each(here: Path) -> None:
    (here / "tls").mkdir()

    assert problems("none.crt", "tls") == [
        "gateway.yaml:2:22: server: tls: certificate: 'none.crt' cannot be read: "
        "No such file or directory",
        "gateway.yaml:2:37: server: tls: key: 'tls' cannot be read: it is not a regular file",
    ]


def test_what_is_not_pem_is_a_problem_each(authority: trustme.CA) -> None:
    issue(authority, "a")

    assert problems("a.key", "a.crt") == [
        "gateway.yaml:2:22: server: tls: certificate: 'a.key' has no certificate in PEM, with a "
        "line BEGIN CERTIFICATE",
        "gateway.yaml:2:34: server: tls: key: 'a.crt' has no private key in PEM, with a line "
        "BEGIN PRIVATE KEY",
    ]


@pytest.mark.parametrize("rsa", [False, True], ids=["of its kind", "of another kind"])
def test_the_key_of_another_certificate_is_a_problem(authority: trustme.CA, rsa: bool) -> None:
    issue(authority, "a")
    issue(authority, "b", rsa=rsa)

    assert problems("a.crt", "b.key") == [
        "gateway.yaml:2:34: server: tls: key: 'b.key' has the key of another certificate than "
        "'a.crt'"
    ]


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_key_with_a_password_is_a_problem_and_nobody_is_asked(
    authority: trustme.CA, form: str
) -> None:
    issue(authority, "a", rsa=True)
    key = load_pem_private_key(Path("a.key").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, form),
        serialization.BestAvailableEncryption(b"canary"),
    )
    Path("a.key").write_bytes(locked)

    (told,) = problems()

    assert "'a.key' has a key that is locked with a password; write it without one" in told


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.crt", "certificate: 'a.crt' has a certificate that is damaged"),
        ("a.key", "key: 'a.key' has a key that cannot be used with 'a.crt': it is damaged"),
    ],
)
def test_what_is_damaged_is_a_problem(authority: trustme.CA, file: str, message: str) -> None:
    issue(authority, "a")
    begin, *_, end = Path(file).read_text().splitlines()
    Path(file).write_text(f"{begin}\nMIIB\n{end}\n")

    (told,) = problems()

    assert told.endswith(message)


def test_a_name_from_a_variable_is_not_shown(authority: trustme.CA) -> None:
    issue(authority, "canary", days=-1)

    (told,) = problems('"${FILE}"', "canary.key", FILE="canary.crt")

    assert "'***' has a certificate that ended" in told


def test_a_name_that_is_not_known_yet_is_not_judged() -> None:
    unset = parse(TEXT.replace("CERTIFICATE", '"${FILE}"'), "a.yaml", {}, unset_ok=True)

    assert build(unset).certificate is None


def test_a_moment_beyond_2050_is_understood(authority: trustme.CA) -> None:
    issue(authority, "a", days=365 * 40)

    assert built(document()).ends.year == (datetime.now(UTC) + timedelta(days=365 * 40)).year


def test_no_bytes_make_the_reading_of_its_end_do_anything_but_refuse(
    authority: trustme.CA,
) -> None:
    chosen = random.Random(1)
    whole = trustme.CA().cert_pem.bytes()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(chosen.randrange(1, 8)):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        try:
            _end(bytes(damaged[: chosen.randrange(len(damaged))]))
        except (ValueError, IndexError, StopIteration):
            continue


# Its next version


def test_a_renewed_one_is_another_configuration(authority: trustme.CA, here: Path) -> None:
    (here / "gateway.yaml").write_text(TEXT.replace("CERTIFICATE", "a.crt").replace("KEY", "a.key"))
    issue(authority, "a")
    before, same = (load("gateway.yaml", {}) for _ in range(2))
    built(before)

    assert same.repeats(before)
    assert same.versions == same.versions_now() == before.versions_now()
    issue(authority, "a", days=60)
    assert not load("gateway.yaml", {}).repeats(before)
    assert before.versions != before.versions_now()
    assert same.versions != same.versions_now()


@pytest.mark.parametrize(
    ("left", "warning"),
    [
        (timedelta(days=15), None),
        (timedelta(days=13), "the certificate in a.crt ends on "),
        (timedelta(days=-1), "the certificate in a.crt has ended on "),
    ],
)
def test_it_warns_fourteen_days_ahead(
    authority: trustme.CA, left: timedelta, warning: str | None
) -> None:
    issue(authority, "a")
    certificate = built(document())

    told = certificate.warning(certificate.ends - left)

    assert (told and told.partition(" on ")[0] + " on ") == warning
