"""What a call costs a gateway can be measured anew, and docs/scaling.md tells of it."""

from __future__ import annotations

import pytest

from .spent import KINDS, Kind, spent
from .tables import rows, written


@pytest.mark.parametrize("kind", KINDS[2:4], ids=lambda kind: kind.what)
def test_a_gateway_with_what_teams_use_answers_and_its_time_is_counted(kind: Kind) -> None:
    assert 0 < spent(kind, rounds=1, calls=40) < 1000


def test_the_page_tells_of_these_alone() -> None:
    assert list(rows(written("spent"))) == [kind.what for kind in KINDS]
