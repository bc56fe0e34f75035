"""The unit: understood by systemd, and left with little that it could do."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

import pytest

from .tools import DEPLOY, HERE, program, said

UNIT = DEPLOY / "systemd" / "headrace.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, for the gateway that is installed here."""
    text, times = re.subn("/opt/headrace/bin/headrace", str(HERE / "headrace"), UNIT.read_text())
    assert times == 1
    file = tmp_path / UNIT.name
    file.write_text(text)
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's own")
def test_systemd_understands_it(unit: Path) -> None:
    assert said(program("systemd-analyze"), "verify", "--man=no", unit) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's own")
def test_it_is_left_with_little_that_it_could_do(unit: Path) -> None:
    analyze = program("systemd-analyze")

    # From 0, nothing is open to it, to 100, where everything is; most services are at 96.
    said(analyze, "security", "--offline=yes", "--threshold=20", "--no-pager", unit)


def test_it_waits_longer_than_calls_under_way_may_take() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    service = parser["Service"]

    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 30
    assert service["DynamicUser"] == "yes"
