"""`headrace health`."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from headrace.cli.group import Time, default_file

_PAGE = "/readyz"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where it listens, and is reached
_LONGEST = 64 * 1024


@click.command("health")
@click.option("--url", help="Where the gateway is. Else on this machine, as serve reads it.")
@click.option(
    "--timeout", type=Time(), default=3.0, metavar="TIME", help="How long to wait. Else 3s."
)
def command(url: str | None, timeout: float) -> None:
    """Ask whether the gateway on this machine is ready: the exit status is 0, or 1.

    For the health check of a container, which needs no curl then. A gateway that stops is not
    ready. HOST, PORT, HEADRACE_CONFIG and ./gateway.yaml say where it is, as for `serve`.
    """
    where = url or _on_this_machine()
    if why := _fault(where, timeout, known=url is None):
        raise click.ClickException(f"the gateway at {where} {why}")


def _on_this_machine() -> str:
    """Where `serve` listens, as this machine reaches it."""
    server = _server()
    host = os.environ.get("HOST") or str(server.get("host") or "127.0.0.1")
    host = _EVERYWHERE.get(host, host)
    port = os.environ.get("PORT") or str(server.get("port", 8080))
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.ClickException(
            f"the gateway listens on port {port!r}, which says not where; name it with --url"
        )
    scheme = "https" if server.get("tls") else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _server() -> Mapping[str, Any]:
    """What the configuration says of the server, as far as it can be read.

    What is wrong with it is told by others: a gateway that runs goes on with the last good one.
    """
    file = Path(default_file())
    if not file.is_file():
        return {}
    from headrace.config.document import load

    server = load(file, os.environ, unset_ok=True).value.get("server")
    return server if isinstance(server, dict) else {}


def _fault(url: str, timeout: float, *, known: bool) -> str | None:
    """Why it is not ready, as the end of a sentence; None where it is.

    Of a `known` gateway, our own, the certificate is not judged: it is made out to the name that
    clients use, and nothing is sent that others must not see.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        usable = parts.scheme in ("http", "https") and host
    except ValueError:
        usable = None
    if not (usable and host):
        return "has no URL that can be asked; write http:// or https://, a host and a port"
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if known:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    path = parts.path.removesuffix(_PAGE).rstrip("/") + _PAGE
    try:
        connection.request("GET", path, headers={"connection": "close"})
        answer = connection.getresponse()
        answer.read(_LONGEST)
    except TimeoutError:
        return f"does not answer within {timeout:g}s"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"cannot be asked: {getattr(error, 'strerror', None) or type(error).__name__}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"is not ready: HTTP {answer.status}"
