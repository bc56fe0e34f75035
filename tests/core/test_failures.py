"""Failures as they are written, and which errors they mean."""

from __future__ import annotations

import pytest

from headrace import Failure, UpstreamError, meant

BUSY = UpstreamError.refused(503, b"")
SLOW = UpstreamError("too slow", code="first_byte_timeout", status=504)


@pytest.mark.parametrize(
    ("written", "error", "fits"),
    [
        (503, BUSY, True),
        ("503", BUSY, True),
        ("5xx", BUSY, True),
        ("4xx", BUSY, False),
        ("504", SLOW, False),
        ("first_byte_timeout", SLOW, True),
        ("idle_timeout", SLOW, False),
        ("upstream_503", BUSY, True),
    ],
)
def test_a_failure_is_a_status_of_the_upstream_or_a_code(
    written: object, error: UpstreamError, fits: bool
) -> None:
    assert Failure.of(written).fits(error) is fits


@pytest.mark.parametrize("written", ["5x", "6xx", "200", 42, "", "Five", "a b", True, None, 5.5])
def test_what_is_no_failure_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is no failure; write a status such as 429"):
        Failure.of(written)


def test_what_the_gateway_has_decided_stays_decided() -> None:
    failures = [Failure("5xx")]

    assert meant(failures, BUSY, else_=False)
    assert not meant(failures, BUSY.final(), else_=False)
    assert meant(None, BUSY, else_=True)
    assert not meant([], BUSY, else_=True)
