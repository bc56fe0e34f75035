"""For people who write plugins and forwarders: scripted upstreams, a client, a clock, contracts.

Names are loaded when they are first used. `Upstream` follows a script in the same process,
`Loopback` is a real server that misbehaves on request; `Client` leaves as a server reports it; a
`ClockLoop` turns time by hand; a contract is a suite of tests that your own class inherits.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.testing.asking import ask, call, raw, text
    from headrace.testing.building import gateway
    from headrace.testing.client import Client, settled
    from headrace.testing.clock import BACKEND, Clock, ClockLoop
    from headrace.testing.contracts.forwarder import ForwarderContract
    from headrace.testing.contracts.plugin import PluginContract
    from headrace.testing.contracts.store import StoreContract
    from headrace.testing.loopback import Loopback
    from headrace.testing.script import (
        Upstream,
        breaks,
        chunk,
        down,
        refuses,
        says,
        sends,
        silent,
        stalls,
    )

_HOMES = {
    "asking": ["ask", "call", "raw", "text"],
    "building": ["gateway"],
    "client": ["Client", "settled"],
    "clock": ["BACKEND", "Clock", "ClockLoop"],
    "contracts.forwarder": ["ForwarderContract"],
    "contracts.plugin": ["PluginContract"],
    "contracts.store": ["StoreContract"],
    "loopback": ["Loopback"],
    "script": [
        *("Upstream", "breaks", "chunk", "down", "refuses", "says", "sends", "silent", "stalls"),
    ],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BACKEND",
    "Client",
    "Clock",
    "ClockLoop",
    "ForwarderContract",
    "Loopback",
    "PluginContract",
    "StoreContract",
    "Upstream",
    "ask",
    "breaks",
    "call",
    "chunk",
    "down",
    "gateway",
    "raw",
    "refuses",
    "says",
    "sends",
    "settled",
    "silent",
    "stalls",
    "text",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.testing' has no attribute {name!r}")
    return getattr(import_module(f"headrace.testing.{home}"), name)
