"""What a service manager is told, through a real socket of its kind."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.cli.notify import Notify


@pytest.fixture(params=["a file", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that takes messages, and its address as the variable has it."""
    abstract = f"@headrace-{os.getpid()}-{time.monotonic_ns()}"
    address = str(tmp_path / "notify") if request.param == "a file" else abstract
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(5)
        yield listener, address


def test_it_is_told_what_happens(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notify = Notify.of({"NOTIFY_SOCKET": address})

    began = time.monotonic_ns() // 1000
    notify.ready()
    notify.reloading()
    notify.alive()
    notify.stopping()

    ready, reloading, alive, stopping = (listener.recv(1024) for _ in range(4))
    assert (ready, alive, stopping) == (b"READY=1", b"WATCHDOG=1", b"STOPPING=1")
    first, _, since = reloading.partition(b"\nMONOTONIC_USEC=")
    assert first == b"RELOADING=1"
    assert began <= int(since) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", ["", "@", "/", "vsock:2:1234", "relative"])
def test_without_one_nobody_is_told(address: str, caplog: pytest.LogCaptureFixture) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
    notify = Notify.of(environ)

    notify.ready()

    assert notify.alive_every is None
    assert environ == {}
    assert caplog.text == ""


def test_no_child_inherits_what_it_is_told_by() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}

    Notify.of(environ)

    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("pid", "micros", "every"),
    [
        (None, "30000000", 15.0),
        (str(os.getpid()), "500000", 0.25),
        ("1", "30000000", None),
        (None, "0", None),
        (None, "soon", None),
        (None, "", None),
    ],
)
def test_a_watchdog_is_told_twice_in_its_time_if_it_means_this_process(
    pid: str | None, micros: str, every: float | None
) -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": micros}
    if pid:
        environ["WATCHDOG_PID"] = pid

    assert Notify.of(environ).alive_every == every


def test_a_manager_that_is_gone_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notify.of({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()

    with caplog.at_level(logging.WARNING):
        assert "the service manager takes no message: " in caplog.text
