"""What operators are reminded of: a certificate that ends soon, and what waits for a restart."""

from __future__ import annotations

import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from headrace.cli.reminders import Reminders
from headrace.config.build import build
from headrace.config.certificate import Certificate
from headrace.config.document import parse
from headrace.config.plan import Plan

SOON = datetime.now(UTC) + timedelta(days=3)


def plan(server: str = "{}", *, ends: datetime | None = None, pem: bytes = b"first") -> Plan:
    made = build(parse(f"server: {server}\nupstreams: {{a: mock}}\n", "gateway.yaml", {}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown = Certificate(file="tls.crt", ends=ends, pem=pem, context=context) if ends else None
    return replace(made, certificate=shown)


def test_a_certificate_that_ends_soon_is_told_once_a_day(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shown = plan(ends=SOON)
    remind = Reminders(shown)

    for hour in range(72):
        monkeypatch.setattr(time, "monotonic", lambda hour=hour: now + hour * 3600)
        remind(shown)

    told = f"the certificate in tls.crt ends on {SOON:%Y-%m-%d}"
    assert [message.partition(" at ")[0] for message in caplog.messages] == [told] * 3


def test_what_is_in_order_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    late = SOON + timedelta(days=60)
    remind = Reminders(plan(ends=late))
    remind(plan("{drain: 1s}", ends=late))

    assert caplog.messages == []


def test_a_certificate_that_is_renewed_is_told_and_judged_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "headrace")
    late = SOON + timedelta(days=60)
    remind = Reminders(plan(ends=late))

    remind(plan(ends=late, pem=b"second"))
    remind(plan(ends=SOON, pem=b"third"))

    assert [message.partition(" at ")[0] for message in caplog.messages] == [
        f"the certificate in tls.crt is renewed, good until {late:%Y-%m-%d}",
        f"the certificate in tls.crt is renewed, good until {SOON:%Y-%m-%d}",
        f"the certificate in tls.crt ends on {SOON:%Y-%m-%d}",
    ]


def test_the_same_certificate_is_not_renewed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headrace")
    remind = Reminders(plan(ends=SOON))

    remind(plan("{drain: 1s}", ends=SOON))
    remind(plan("{drain: 2s}", ends=SOON))

    assert len(caplog.messages) == 1


def test_what_waits_for_a_restart_is_told_when_it_is_new(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, other = plan(), plan("{port: 1, internal: '127.0.0.1:2', drain: 1s}")
    remind = Reminders(first)

    for each in (first, other, other, plan()):
        remind(each)

    assert caplog.messages == ["this needs a restart, in server: internal, port"]
