"""Certificates for gateways: files as they are given to one, and clients that trust them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """An authority that nobody knows, but those whom it gives its `trusting()` context."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def issue(self, folder: Path, *names: str, days: float = 90) -> None:
        """Write `tls.crt` and `tls.key`, as Kubernetes calls them, in place of those before."""
        ends = datetime.now(UTC) + timedelta(days=days)
        issued = self._ca.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=ends)
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        for name, data in (("tls.key", issued.private_key_pem.bytes()), ("tls.crt", chain)):
            (folder / f"{name}.new").write_bytes(data)
            (folder / f"{name}.new").replace(folder / name)

    def trusting(self) -> ssl.SSLContext:
        """What a client verifies a server with."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context
