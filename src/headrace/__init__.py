"""Headrace, an AI gateway: one OpenAI-compatible door in front of every language model you use.

This is the public API, beside `headrace.testing`. Names are loaded when they are first used (PEP
562), so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.version import __version__

if TYPE_CHECKING:
    from headrace.assembling import assembled, taken_apart
    from headrace.body import REMOVED
    from headrace.call import (
        PASSTHROUGH,
        Call,
        Deadline,
        Limits,
        Others,
        Outgoing,
        Patience,
        Provider,
        Resolved,
        Target,
        Targets,
        Timeouts,
        WithUsage,
        leaves,
    )
    from headrace.caller import Allowance, Allowances, Caller, Callers, Quota, network, who_asks
    from headrace.chain import Next, Plugin, Plugins, compose
    from headrace.credentials import bearer
    from headrace.dialect import OPENAI, Dialect, Translation
    from headrace.errors import (
        BadRequest,
        CallError,
        ConfigError,
        Forbidden,
        HeadraceError,
        MethodNotAllowed,
        NotFound,
        Overloaded,
        RateLimited,
        TimedOut,
        Unauthorized,
        Unsupported,
        UpstreamError,
    )
    from headrace.failures import Failure, meant
    from headrace.finding import Finding
    from headrace.forwarder import Forwarder, Found
    from headrace.framing import NDJSON, SSE, Frame, sse
    from headrace.gateway import Gateway
    from headrace.http_exchange import (
        check_base_url,
        check_headers,
        exchange,
        fetch_json,
        read_all,
    )
    from headrace.keeping import kept_under, owner_of
    from headrace.key_file import KeyFile
    from headrace.keyring import Keyring, bearing
    from headrace.keys import Key, Moment
    from headrace.lines import json_line
    from headrace.options import Count, Duration, File, Rate, Secret, Sha256, Size, sha256
    from headrace.pages import Page, Pages
    from headrace.racing import first_good
    from headrace.record import (
        Attempt,
        Cached,
        Happening,
        Limited,
        Observer,
        Observers,
        Raced,
        Record,
        Usage,
    )
    from headrace.registry import translation
    from headrace.reply import Event, Reply, shielded, until_closed
    from headrace.rests import Place, Rests, place_of, resting
    from headrace.routing import Routes
    from headrace.store import Full, Step, Store, Unavailable
    from headrace.store.memory import Memory
    from headrace.transport import Request, Response, Transport
    from headrace.vitals import Vitals
    from headrace.writing import Writer

_HOMES = {
    "assembling": ["assembled", "taken_apart"],
    "body": ["REMOVED"],
    "call": [
        *("PASSTHROUGH", "Call", "Deadline", "Limits", "Others", "Outgoing", "Patience"),
        *("Provider", "Resolved", "Target", "Targets", "Timeouts", "WithUsage", "leaves"),
    ],
    "caller": ["Allowance", "Allowances", "Caller", "Callers", "Quota", "network", "who_asks"],
    "chain": ["Next", "Plugin", "Plugins", "compose"],
    "credentials": ["bearer"],
    "dialect": ["OPENAI", "Dialect", "Translation"],
    "errors": [
        *("BadRequest", "CallError", "ConfigError", "Forbidden", "HeadraceError"),
        *("MethodNotAllowed", "NotFound", "Overloaded", "RateLimited", "TimedOut"),
        *("Unauthorized", "Unsupported", "UpstreamError"),
    ],
    "http_exchange": [
        *("check_base_url", "check_headers", "exchange", "fetch_json", "read_all"),
    ],
    "failures": ["Failure", "meant"],
    "finding": ["Finding"],
    "forwarder": ["Forwarder", "Found"],
    "framing": ["NDJSON", "SSE", "Frame", "sse"],
    "gateway": ["Gateway"],
    "keeping": ["kept_under", "owner_of"],
    "key_file": ["KeyFile"],
    "keys": ["Key", "Moment"],
    "keyring": ["Keyring", "bearing"],
    "lines": ["json_line"],
    "options": ["Count", "Duration", "File", "Rate", "Secret", "Sha256", "Size", "sha256"],
    "pages": ["Page", "Pages"],
    "racing": ["first_good"],
    "record": [
        *("Attempt", "Cached", "Happening", "Limited", "Observer", "Observers", "Raced"),
        *("Record", "Usage"),
    ],
    "reply": ["Event", "Reply", "shielded", "until_closed"],
    "registry": ["translation"],
    "routing": ["Routes"],
    "rests": ["Place", "Rests", "place_of", "resting"],
    "store": ["Full", "Step", "Store", "Unavailable"],
    "store.memory": ["Memory"],
    "transport": ["Request", "Response", "Transport"],
    "vitals": ["Vitals"],
    "writing": ["Writer"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "NDJSON",
    "OPENAI",
    "PASSTHROUGH",
    "REMOVED",
    "SSE",
    "Allowance",
    "Allowances",
    "Attempt",
    "BadRequest",
    "Cached",
    "Call",
    "CallError",
    "Caller",
    "Callers",
    "ConfigError",
    "Count",
    "Deadline",
    "Dialect",
    "Duration",
    "Event",
    "Failure",
    "File",
    "Finding",
    "Forbidden",
    "Forwarder",
    "Found",
    "Frame",
    "Full",
    "Gateway",
    "Happening",
    "HeadraceError",
    "Key",
    "KeyFile",
    "Keyring",
    "Limited",
    "Limits",
    "Memory",
    "MethodNotAllowed",
    "Moment",
    "Next",
    "NotFound",
    "Observer",
    "Observers",
    "Others",
    "Outgoing",
    "Overloaded",
    "Page",
    "Pages",
    "Patience",
    "Place",
    "Plugin",
    "Plugins",
    "Provider",
    "Quota",
    "Raced",
    "Rate",
    "RateLimited",
    "Record",
    "Reply",
    "Request",
    "Resolved",
    "Response",
    "Rests",
    "Routes",
    "Secret",
    "Sha256",
    "Size",
    "Step",
    "Store",
    "Target",
    "Targets",
    "TimedOut",
    "Timeouts",
    "Translation",
    "Transport",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "UpstreamError",
    "Usage",
    "Vitals",
    "WithUsage",
    "Writer",
    "__version__",
    "assembled",
    "bearer",
    "bearing",
    "check_base_url",
    "check_headers",
    "compose",
    "exchange",
    "fetch_json",
    "first_good",
    "json_line",
    "kept_under",
    "leaves",
    "meant",
    "network",
    "owner_of",
    "place_of",
    "read_all",
    "resting",
    "sha256",
    "shielded",
    "sse",
    "taken_apart",
    "translation",
    "until_closed",
    "who_asks",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(import_module(f"headrace.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
