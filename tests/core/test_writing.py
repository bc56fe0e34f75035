"""Lines that are written by a thread: only so many wait, and nobody waits for them."""

from __future__ import annotations

import threading

import pytest

from headrace import Writer, writing


class Hanging:
    """A file on a disk that does not answer."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.wrote = b""

    def append(self, lines: bytes) -> None:
        self.free.wait(30)
        self.wrote += lines

    def close(self) -> None:
        pass


def test_only_so_many_lines_wait(caplog: pytest.LogCaptureFixture) -> None:
    disk = Hanging()
    waiting = Writer(disk, what="the log")

    taken = [waiting.put(b"x\n") for _ in range(10_100)]
    disk.free.set()

    assert taken.count(False) == 100
    assert waiting.close() == 0
    assert disk.wrote == b"x\n" * 10_000
    assert "100 lines were lost" in caplog.text


def test_large_ones_are_fewer() -> None:
    disk = Hanging()
    waiting = Writer(disk, what="the log")

    taken = [waiting.put(b"x" * 1_000_000) for _ in range(40)]
    disk.free.set()

    assert taken.count(True) == 33
    assert waiting.close() == 0


def test_a_disk_that_hangs_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_LEAVING", 0.05)
    disk = Hanging()
    waiting = Writer(disk, what="the log")
    for _ in range(7):
        waiting.put(b"x\n")

    assert waiting.close() == 7
    disk.free.set()


class Note:
    """A file that notes what was written at once."""

    def __init__(self) -> None:
        self.wrote: list[bytes] = []

    def append(self, lines: bytes) -> None:
        self.wrote.append(lines)

    def close(self) -> None:
        self.wrote.append(b"closed")


@pytest.mark.parametrize("at_once", [0, 5, 64_000])
def test_lines_are_written_in_order_some_of_them_together(at_once: int) -> None:
    file = Note()
    waiting = Writer(file, what="the log", at_once=at_once)
    for number in range(100):
        waiting.put(b"%d\n" % number)

    assert waiting.close() == 0
    *wrote, last = file.wrote
    assert b"".join(wrote) == b"".join(b"%d\n" % number for number in range(100))
    assert last == b"closed"
    assert all(len(lines) <= max(at_once, 3) for lines in wrote)


def test_what_writes_nothing_has_no_thread() -> None:
    before = threading.active_count()
    waiting = Writer(Note(), what="the log")

    assert threading.active_count() == before
    assert waiting.close() == 0
