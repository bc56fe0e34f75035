"""What a gateway would run on here, and whether the clocks of this machine can be trusted."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from statistics import median

from headrace.config.plan import Plan
from headrace.finding import Finding
from headrace.version import __version__

_FILES = 4096
"""So many files, sockets included, a gateway should be able to open."""
_APART = 5.0
_FAR_APART = 30.0
"""Seconds by which the clock may be off before it is told, and before tokens are refused."""
_SET = 0.5
"""Seconds by which two clocks of this machine may drift apart while we look."""


def machine(plan: Plan) -> Iterator[Finding]:
    """Versions, and limits of this machine."""
    told = f"Headrace {__version__}, Python {platform.python_version()}, {platform.system()}"
    yield Finding(about="version", says=told)
    loop, parser = _installed("uvloop") or "asyncio", _installed("httptools") or "h11"
    client = _installed(plan.transport.name) or plan.transport.name
    slow = loop == "asyncio" or parser == "h11" or not client.startswith("aiohttp")
    yield Finding(
        about="runs on",
        state="warn" if slow else "ok",
        says=f"{loop}, {parser}, {client}",
        advice="pip install 'headrace[standard]' for what is faster" if slow else None,
    )
    yield from _files()


def _installed(name: str) -> str | None:
    """A package with its version, if it is here."""
    try:
        return f"{name} {version(name)}" if find_spec(name) else None
    except PackageNotFoundError:
        return name


def _files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= _FILES:
        says = "without a limit" if limit == resource.RLIM_INFINITY else f"{limit} at most"
        yield Finding(about="open files", says=says)
        return
    better = 16 * _FILES if most == resource.RLIM_INFINITY else min(16 * _FILES, most)
    yield Finding(
        about="open files",
        state="warn",
        says=f"{limit} at most, and each call takes two",
        advice=f"ulimit -n {better}, or LimitNOFILE={better} for systemd",
    )


def clocks(ahead: Sequence[float], began: tuple[float, float]) -> Iterator[Finding]:
    """This machine's clock beside itself, and beside those of whoever answered.

    `began` is what both clocks of this machine said when the looking began.
    """
    wall, monotonic = time.time() - began[0], time.monotonic() - began[1]
    if monotonic < 0 or abs(wall - monotonic) > _SET:
        says = f"it moved by {wall - monotonic:+.1f} s while this was looking"
        advice = "let NTP slew it instead of setting it"
        yield Finding(about="clock", state="warn", says=says, advice=advice)
    if not ahead:
        yield Finding(about="clock", says="nobody who answered told the time")
        return
    off = median(ahead)
    says = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} those who answered"
    if abs(off) < _APART:
        yield Finding(about="clock", says=says)
        return
    yield Finding(
        about="clock",
        state="fail" if abs(off) > _FAR_APART else "warn",
        says=says,
        advice="let NTP set it; tokens are judged, and limits counted, by this clock",
    )
