"""The fixtures of every test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headrace.testing.clock import BACKEND, Clock

pytest.register_assert_rewrite("headrace.testing.contracts")


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    """Every asynchronous test runs on an asyncio loop whose clock can be turned."""
    return BACKEND


@pytest.fixture
async def clock() -> Clock:
    """The clock of the test's event loop."""
    return Clock.running()
