"""What a worker is told: of a certificate it gets what it takes to serve it, whatever else came."""

from __future__ import annotations

from headrace.cli.errand import Errand, tls_alone
from headrace.config.document import Document, parse

PLAIN = "upstreams: {a: mock}\nroutes: {m: a}\n"
SECURED = f"server: {{tls: {{certificate: '${{CERT}}', key: tls.key}}}}\n{PLAIN}"


def document(text: str) -> Document:
    found = parse(text, "gateway.yaml", {"CERT": "tls.crt", "API_KEY": "secret"}, base="/etc/some")
    assert not found.problems
    return found


def errand(text: str) -> Errand:
    """An errand of a gateway that was started with this."""
    told = document(text)
    return Errand(
        document=told, secured=tls_alone(told), write_stall=1.5, file=None, host="127.0.0.1",
        count=2, sockets=(3,), alive_every=None, parent=1,
    )  # fmt: skip


def test_a_certificate_outlives_the_configuration_that_had_it_and_keeps_its_folder() -> None:
    more = f"{SECURED}x-key: ${{API_KEY}}\n"

    told = Errand.taken(errand(more).taking(document(PLAIN)).hand_over())

    assert told.write_stall == 1.5
    assert told.document.value == document(PLAIN).value
    assert told.secured
    assert told.secured.value == {"server": {"tls": {"certificate": "tls.crt", "key": "tls.key"}}}
    assert told.secured.expanded == {("server", "tls", "certificate")}
    assert str(told.secured.folder(("server", "tls", "key"))) == "/etc/some"


def test_another_certificate_is_taken_but_none_where_there_was_none() -> None:
    other = document(SECURED.replace("tls.key", "other.key"))

    renewed = errand(SECURED).taking(other).secured

    assert renewed
    assert renewed.value["server"]["tls"]["key"] == "other.key"
    assert Errand.taken(errand(PLAIN).taking(other).hand_over()).secured is None
