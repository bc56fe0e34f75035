"""The unit: understood by systemd, and left with little that it could do."""

from __future__ import annotations

import configparser
import re
import stat
import sys
from pathlib import Path

import pytest

from ..cli.running import headrace
from .tools import DEPLOY, HERE, check_config, program, said, told

UNIT = DEPLOY / "systemd" / "headrace.service"
CONFIG = DEPLOY / "systemd" / "gateway.yaml"


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
    service = section("Service")

    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 30


def test_its_configuration_is_good_and_asks_for_a_key(tmp_path: Path) -> None:
    check_config(CONFIG.read_text(), tmp_path)


def test_it_reads_what_the_steps_have_made_for_its_group_and_needs_nothing_else() -> None:
    service, steps = section("Service"), told("systemd")

    assert service["User"] == service["Group"] == "headrace"
    assert (
        f"useradd --system --home-dir /var/lib/headrace --shell /usr/sbin/nologin {service['User']}"
        in steps
    )
    assert not service.keys() & {"LoadCredential", "DynamicUser", "EnvironmentFile"}
    made = re.findall(r"install -m 640 -g headrace \S+ (/etc/headrace/\S+)\n", steps)
    read = re.findall(r"(?m)^(?!\s*#).*[ :](/etc/headrace/[\w./]+)", CONFIG.read_text())
    assert {*made} == {*read, service["ExecStart"].split()[-1]}


def test_what_it_writes_has_a_place() -> None:
    places = [f"/var/log/{section('Service')['LogsDirectory']}/"]

    written = re.findall(r"file: (/var/\S+),", CONFIG.read_text())
    assert [path for path in written if not path.startswith(tuple(places))] == []
    assert written


def test_a_file_of_keys_that_is_there_keeps_who_may_read_it(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.touch()
    keys.chmod(0o640)

    assert headrace("keys", "add", "somebody", "--file", str(keys)).exit_code == 0
    assert stat.S_IMODE(keys.stat().st_mode) == 0o640


def section(name: str) -> configparser.SectionProxy:
    """A section of the unit; of what stands there several times, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser[name]
