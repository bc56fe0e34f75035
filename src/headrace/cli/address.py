"""Where a gateway listens, and whether it may do so."""

from __future__ import annotations

import ipaddress

from headrace.config.chains import plugins_that
from headrace.config.listening import Address
from headrace.config.parts import words
from headrace.config.plan import Plan
from headrace.config.problems import Place, Problem
from headrace.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address; of a name nobody knows."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_guarded(plan: Plan, host: str, place: Place | None) -> None:
    """Raise `ConfigError` where others could reach that address, and nobody asks who they are.

    `place` is where the address is written, if it is.
    """
    if plan.authenticates or plan.unsure or plan.server.auth == "none" or is_loopback(host):
        return
    message = (
        f"others than this machine reach {host}, and nobody asks them for a key: put a plugin that "
        f"authenticates, such as {words(plugins_that('authenticates'))}, into the chain of "
        "`server`; or write `auth: none` there to let in everybody; or listen on 127.0.0.1"
    )
    raise ConfigError([Problem(place, message)])


def internal_of(plan: Plan) -> tuple[Address | None, Place | None]:
    """The address for operators, if there is one, and where it is written."""
    written = plan.server.internal
    if written is None or plan.document is None:
        return None, None
    return Address.parse(written), plan.document.place(("server", "internal"))


def check_apart(public: Address, internal: Address | None, place: Place | None) -> None:
    """Raise `ConfigError` where two addresses have one port: by it they are told apart."""
    if internal is None or not public.port == internal.port != 0:
        return
    message = (
        f"server: internal: {internal} has the same port as {public}, and by its port is known "
        "who asks there; choose another one"
    )
    raise ConfigError([Problem(place, message)])
