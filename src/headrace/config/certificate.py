"""The gateway's own certificate, read where the configuration is: what is wrong is a problem."""

from __future__ import annotations

import pathlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headrace.config.parts import Parts
from headrace.config.settings import Tls
from headrace.config.source import MAX_FILE
from headrace.config.surroundings import Surroundings, reason

SOON = timedelta(days=14)
"""A certificate that ends within this time is to be renewed."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_LOCKED = re.compile(rb"BEGIN ENCRYPTED PRIVATE KEY|Proc-Type: *4, *ENCRYPTED")


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """What the gateway shows to those who ask it by HTTPS."""

    file: str
    ends: datetime
    pem: bytes
    """The certificate itself."""
    context: ssl.SSLContext
    """Serves it by TLS 1.2 or later."""

    def warning(self, now: datetime) -> str | None:
        """What is to be said of it when it ends soon, or has ended."""
        if self.ends - now > SOON:
            return None
        ends = "has ended" if self.ends <= now else "ends"
        return f"the certificate in {self.file} {ends} on {_told(self.ends)}; renew it"

    def renewed(self) -> str:
        """What is to be said of it when it takes the place of another one."""
        return f"the certificate in {self.file} is renewed, good until {_told(self.ends)}"


def certificate_of(parts: Parts, tls: Tls | None) -> Certificate | None:
    """The certificate of `server: {tls: …}`; None where there is none, or after a problem."""
    if tls is None or not parts.sure(("server", "tls")):
        return None
    reading = _Reading(parts, tls)
    found, fits = reading.certificate(), reading.key()
    context = reading.context() if found and fits else None
    parts.document.read_beside(reading.around.files)
    if found is None or context is None:
        return None
    pem, ends = found
    return Certificate(file=tls.certificate, ends=ends, pem=pem, context=context)


class _Reading:
    """The two files; what is wrong with one is a problem where it is named."""

    def __init__(self, parts: Parts, tls: Tls) -> None:
        self.parts = parts
        self.tls = tls
        self.around = Surroundings(environ={}, unset_ok=False)

    def certificate(self) -> tuple[bytes, datetime] | None:
        """The certificate itself, and when it ends."""
        text = self._text("certificate", self.tls.certificate)
        blocks = _CERTIFICATE.findall(text or b"")
        if text is not None and not blocks:
            self._problem("certificate", "has no certificate in PEM, with a line BEGIN CERTIFICATE")
        if not blocks:
            return None
        try:
            ends = _end(ssl.PEM_cert_to_DER_cert(blocks[0].decode()))
        except (ValueError, IndexError, StopIteration):
            self._problem("certificate", "has a certificate that is damaged")
            return None
        if ends <= datetime.now(UTC):
            message = f"has a certificate that ended on {_told(ends)}; put the renewed one there"
            self._problem("certificate", message)
            return None
        return blocks[0], ends

    def key(self) -> bool:
        """Whether there is one, and it needs no password."""
        text = self._text("key", self.tls.key)
        if text is None:
            return False
        if not _KEY.search(text):
            self._problem("key", "has no private key in PEM, with a line BEGIN PRIVATE KEY")
        elif _LOCKED.search(text):
            unlocked = "write it without one: openssl pkey -in locked.pem -out key.pem"
            self._problem("key", f"has a key that is locked with a password; {unlocked}")
        else:
            return True
        return False

    def context(self) -> ssl.SSLContext | None:
        """What serves them, if they belong together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # With a password that fits nothing, so that nobody is asked for one in the terminal.
            context.load_cert_chain(self.tls.certificate, self.tls.key, password="")
        except OSError as error:
            why = getattr(error, "reason", None) or "it is damaged"
            also = self._shown("certificate")
            if why in _OF_ANOTHER:
                self._problem("key", f"has the key of another certificate than {also}")
            else:
                self._problem("key", f"has a key that cannot be used with {also}: {why}")
            return None
        return context

    def _text(self, option: str, name: str) -> bytes | None:
        try:
            return self.around.read(pathlib.Path(name), MAX_FILE)
        except (OSError, ValueError) as error:
            self._problem(option, f"cannot be read: {reason(error)}")
            return None

    def _problem(self, option: str, message: str) -> None:
        where = ("server", "tls", option)
        self.parts.problem(where, f"server: tls: {option}: {self._shown(option)} {message}")

    def _shown(self, option: str) -> str:
        return self.parts.quoted(("server", "tls", option), getattr(self.tls, option))


_OF_ANOTHER = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


def _end(certificate: bytes) -> datetime:
    """The moment at which a certificate ends, its `notAfter` (RFC 5280, 4.1)."""
    _, whole = next(_inside(certificate))
    _, signed = next(_inside(whole))
    members = [(tag, value) for tag, value in _inside(signed) if tag != _VERSION]
    _, validity = members[3]  # behind the serial number, the algorithm and the issuer
    _, (tag, ends) = _inside(validity)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(ends.decode(), form).replace(tzinfo=UTC)


_VERSION = 0xA0
_UTC_TIME = 0x17


def _inside(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and the values that stand in a row in DER (ITU-T X.690)."""
    at = 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size > 0x7F:  # then it says in how many bytes the size stands
            size, at = int.from_bytes(der[at : at + size - 0x80]), at + size - 0x80
        yield tag, der[at : at + size]
        at += size


def _told(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d at %H:%M} UTC"
