"""`metrics` of several processes: one sum, whoever has ended, and few files."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace_plugins.observers.metrics.folder import Folder

PROCESS = """
import asyncio, resource, sys
from headrace import Attempt, Caller, Record, Target, Usage
from headrace_plugins.observers.metrics import Metrics

async def main(calls, wait, room):
    if room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    metrics = Metrics()
    async with metrics:
        for number in range(calls):
            record = Record(id=f"r{number}", method="POST", path="/", route="m")
            usage = Usage(input=2, output=1)
            record.attempts.append(Attempt(target=Target("a"), usage=usage, outcome="ok"))
            record.close("ok")
            metrics(record)
        from headrace_plugins.observers.metrics.now import Now

        metrics.vitals.serving |= {*range(calls)}
        if metrics._meters.folder:
            await metrics._say(metrics._meters.folder)
        text = (await asyncio.to_thread(metrics._meters.told, Now.of(metrics.vitals))).decode()
        for line in text.splitlines():
            if line.startswith(("headrace_requests_total", "headrace_calls_in_flight",
                                "headrace_attempt_seconds_count", "headrace_tokens_total")):
                print(line.rpartition(" ")[2], line.partition("{")[0].split()[0])
        print("told", flush=True)
        if wait:
            await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*map(int, sys.argv[1:])))
"""


@contextmanager
def process(folder: Path, calls: int, *, room: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
    """A process that has counted so many calls, as long as this lasts; and what it has told."""
    started = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(calls), "1", str(room)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdin
    assert started.stdout
    told: dict[str, float] = {}
    try:
        while (line := started.stdout.readline().strip()) not in ("told", ""):
            value, name = line.split()
            told[name] = told.get(name, 0) + float(value)
        yield started.pid, told
    finally:
        started.stdin.close()
        started.stdout.close()
        started.wait(20)


def test_what_ended_processes_have_counted_is_in_one_file(tmp_path: Path) -> None:
    for _ in range(6):
        with process(tmp_path, 5):
            pass

    with process(tmp_path, 1) as (pid, told):
        counted = sorted(file.name for file in tmp_path.glob("counter_*"))

    assert counted == sorted([f"counter_{pid}.db", "counter_ended.db"])
    assert told["headrace_requests_total"] == 31
    assert told["headrace_tokens_total"] == 31 * 3
    assert told["headrace_calls_in_flight"] == 1


def test_one_that_was_killed_has_ended_and_one_that_was_stopped_has_not(tmp_path: Path) -> None:
    with process(tmp_path, 2) as (killed, _), process(tmp_path, 3) as (stopped, _):
        os.kill(stopped, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        with process(tmp_path, 4) as (_, told):
            there = {file.name for file in tmp_path.glob("counter_*")}
        os.kill(stopped, signal.SIGCONT)

    assert f"counter_{stopped}.db" in there
    assert f"counter_{killed}.db" not in there
    assert told["headrace_requests_total"] == 9
    assert told["headrace_calls_in_flight"] == 7


def test_what_was_added_is_not_added_again(tmp_path: Path) -> None:
    """A process that is killed between adding a file and taking it away leaves both."""
    with process(tmp_path, 5) as (pid, _):
        os.kill(pid, signal.SIGKILL)
    left = [*tmp_path.glob(f"*_{pid}.*")]
    kept = tmp_path / "kept"
    kept.mkdir()
    for file in left:
        os.link(file, kept / file.name)
    with process(tmp_path, 1):
        for file in left:
            if not file.exists():
                os.link(kept / file.name, file)
    shutil.rmtree(kept)

    with process(tmp_path, 0) as (_, told):
        pass

    assert told["headrace_requests_total"] == 6


def test_a_process_without_room_counts_for_itself(tmp_path: Path) -> None:
    with process(tmp_path, 3), process(tmp_path, 2, room=100_000) as (_, told):
        pass

    assert told["headrace_requests_total"] == 2


async def test_a_stopped_process_that_holds_the_folder_keeps_nobody(tmp_path: Path) -> None:
    holding = f"""
import fcntl, os, sys
handle = os.open({str(tmp_path / "folder.lock")!r}, os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout
    holder.stdout.readline()

    def use() -> None:
        folder = Folder(str(tmp_path))
        with folder.joining(), folder.reading():
            folder.say(b"well")

    try:
        async with asyncio.timeout(15):
            await asyncio.to_thread(use)
    finally:
        holder.communicate()
    assert (tmp_path / f"worker_{os.getpid()}.json").read_bytes() == b"well"


@pytest.mark.parametrize("file", ["worker_1.lock", "counter_1.db"])
def test_files_of_others_are_left_alone(file: str, tmp_path: Path) -> None:
    """Such as those of an application that counts, too, and holds no lock."""
    with process(tmp_path, 1) as (pid, _):
        own = (tmp_path / f"counter_{pid}.db").read_bytes()
    (tmp_path / "counter_1.db").write_bytes(own)
    (tmp_path / file).touch()

    with process(tmp_path, 0) as (_, told):
        left = (tmp_path / "counter_1.db").exists()

    assert told["headrace_requests_total"] == 2
    assert left is (file != "worker_1.lock")
