"""SIGHUP asks a gateway to read its configuration again; no moment is too early for it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable


def hold() -> None:
    """Let it wait, in place of ending the process, until somebody handles it."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def handle(asked: Callable[[], object]) -> None:
    """Call `asked` on the running loop each time it comes; one that has waited comes now."""
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
