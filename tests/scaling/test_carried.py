"""What a store is asked for each call, as docs/scaling.md has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..stores.servers import Server, running
from .carried import KINDS, Kind, carried, looked
from .tables import rows, written


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A Valkey that nobody else asks, since it counts."""
    with running() as server:
        yield server


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
async def test_a_call_asks_no_more_than_the_page_says(kind: Kind, server: Server) -> None:
    found = await carried(kind, server)
    questions, there, back = (
        float(cell.replace(",", "")) for cell in rows(written("store"))[kind.what]
    )

    assert found.questions == questions
    assert found.to == pytest.approx(there, rel=0.15, abs=1)
    assert found.back == pytest.approx(back, rel=0.15, abs=1)


async def test_a_breaker_looks_once_a_second(server: Server) -> None:
    questions, seconds = await looked(server)

    assert 1 <= questions <= 1 + seconds


def test_the_page_tells_of_these_alone() -> None:
    assert list(rows(written("store"))) == [kind.what for kind in KINDS]
