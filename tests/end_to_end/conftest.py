"""The fixtures of the tests from outside: one gateway and one upstream for the tests of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from headrace.testing import BACKEND, Loopback


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    """One event loop, so that what is slow to start serves many tests."""
    return BACKEND


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Loopback]:
    """A real upstream that misbehaves on request."""
    async with Loopback() as server:
        yield server


@pytest.fixture
def upstream(server: Loopback) -> Loopback:
    """The same, that was asked nothing yet."""
    server.requests.clear()
    return server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured."""
    passed = terminalreporter.stats.get("passed", ())
    figures = [figure for report in passed for figure in report.user_properties]
    if figures:
        terminalreporter.section("measured")
    for name, figure in figures:
        terminalreporter.write_line(f"{name}: {figure}")
