"""`audit`: what was refused and what operators did, in a file; and no call that waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace import ConfigError, File, Happening, Record, Size, writing
from headrace.testing import Client, Upstream, gateway
from headrace_plugins.observers.audit import Audit
from headrace_plugins.observers.audit.file import AppendedFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_AGAIN", 0.01)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def aside(file: Path) -> list[Path]:
    """The files that were put aside, the oldest first."""
    return sorted(path for path in file.parent.iterdir() if path != file)


def refused(number: int = 1, **options: Any) -> Record:
    record = Record(**{"id": f"req_{number}", "method": "POST", "path": "/v1/models", **options})
    record.status, record.code = 401, "invalid_api_key"
    record.close("refused")
    return record


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


# What is written


FILE = """
server:
  chain: [api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}]
  observers: [audit: {file: %s}]
callers:
  ann: {models: [fast]}
upstreams: {a: mock}
routes: {fast: a, slow: a}
"""


async def test_refused_calls_are_written_and_answered_ones_are_not(file: Path) -> None:
    made = gateway(FILE % file, upstream=Upstream(), open=False)
    async with made.lifespan():
        for key, model in (("sk-ann", "fast"), ("sk-canary", "fast"), ("sk-ann", "slow")):
            headers = {"authorization": f"Bearer {key}", "x-canary": "canary"}
            body = {"model": model, "messages": [{"role": "user", "content": "canary"}]}
            asked = await Client(made).post("/v1/chat/completions", json=body, headers=headers)
            await asked.read()

    loaded, unknown, forbidden = lines(file)
    assert (loaded["what"], loaded["target"]) == ("config.loaded", made.plan.hash)
    assert (unknown["what"], unknown["status"]) == ("call.refused", 401)
    assert (unknown["code"], unknown.get("caller")) == ("invalid_api_key", None)
    assert unknown["id"].startswith("req_")
    assert (forbidden["caller"], forbidden["asked"], forbidden["status"]) == ("ann", "slow", 404)
    assert "canary" not in file.read_text()


async def test_what_operators_do_is_written(file: Path) -> None:
    async with Audit(file=File(file)) as audit:
        audit.happened(
            Happening(
                what="admin.reload", who="10.0.0.7", outcome="failed", details={"why": "no: 'x'"}
            )
        )

    [line] = lines(file)
    assert (line["what"], line["who"], line["outcome"]) == ("admin.reload", "10.0.0.7", "failed")
    assert (line["details"], line["process"]) == ({"why": "no: 'x'"}, os.getpid())
    assert datetime.fromisoformat(line["time"]).tzinfo


async def test_what_is_very_long_is_cut(file: Path) -> None:
    async with Audit(file=File(file)) as audit:
        audit(refused(path="/" + "x" * 50_000, asked="m" * 50_000))
        audit.happened(Happening(what="config.refused", details={"why": "y" * 500_000}))

    assert [len(line) < 17_000 for line in file.read_text().splitlines()] == [True, True]
    assert lines(file)[1]["cut"].startswith('{"why":"yyy')


async def test_nobody_else_writes_a_line_or_moves_a_cursor(file: Path) -> None:
    nasty = '/a\n{"what":"forged"}\r\x1b[2J\x9b2J\u2028\u202e\ud800'
    async with Audit(file=File(file)) as audit:
        audit(refused(path=nasty, asked=nasty))

    text = file.read_text()
    assert text.count("\n") == 1
    assert text.removesuffix("\n").isprintable()
    assert lines(file)[0]["path"] == nasty


async def test_nobody_else_can_read_it(file: Path) -> None:
    before = os.umask(0)
    try:
        async with Audit(file=File(file)) as audit:
            audit(refused())
    finally:
        os.umask(before)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_it_goes_on_where_it_ended_and_opens_twice(file: Path) -> None:
    audit = Audit(file=File(file))
    for number in range(2):
        async with audit:
            audit(refused(number))

    assert [line["id"] for line in lines(file)] == ["req_0", "req_1"]


# When it is full, or old


@pytest.mark.parametrize("keep", [1, 2, 5])
async def test_a_full_file_is_put_aside_and_the_newest_are_kept(file: Path, keep: int) -> None:
    (file.parent / "audit.jsonl.gz").write_text("somebody else's")
    audit = Audit(file=File(file), size=Size(64_000), keep=keep)
    async with audit:
        for number in range(3000):
            audit(refused(number))

    *others, foreign = aside(file)
    assert foreign.name == "audit.jsonl.gz"
    assert len(others) == keep
    kept = [int(line["id"][4:]) for path in (*others, file) for line in lines(path)]
    assert kept == list(range(kept[0], 3000))
    assert all(0 < path.stat().st_size <= 64_000 for path in (*others, file))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (*others, file)} == {0o600}


def test_an_old_file_is_put_aside(file: Path) -> None:
    def line(age: float) -> bytes:
        time = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
        return f'{{"time":"{time}"}}\n'.encode()

    file.write_bytes(line(90))
    for _ in range(3):
        appended = AppendedFile(file, size=10_000, age=60, keep=5)
        appended.append(line(0))
        appended.close()

    assert len(aside(file)) == 1
    assert len(lines(file)) == 3


def test_what_somebody_else_has_put_aside_is_let_go(file: Path) -> None:
    appended = AppendedFile(file, size=10_000, age=None, keep=5)
    appended.append(b'{"n":1}\n')
    file.rename(file.with_name("elsewhere"))
    appended.append(b'{"n":2}\n')
    file.unlink()
    appended.append(b'{"n":3}\n')
    appended.close()

    assert lines(file) == [{"n": 3}]
    assert lines(file.with_name("elsewhere")) == [{"n": 1}]


def test_where_it_cannot_be_put_aside_it_grows_and_says_so_once(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "rename", refuse)
    appended = AppendedFile(file, size=20, age=None, keep=1)
    for _ in range(5):
        appended.append(b'{"n":1}\n')
    appended.close()

    assert len(lines(file)) == 5
    assert [record.message for record in caplog.records] == [
        f"{file} grows on, for it cannot be put aside: not here"
    ]


WORKER = """
import sys
from headrace_plugins.observers.audit.file import AppendedFile

name, path = sys.argv[1:]
file = AppendedFile(path, size=20_000, age=None, keep=1000)
for number in range(400):
    file.append(b"".join(b'{"who":"%s","n":%d}\\n' % (name.encode(), number + each * 1000)
                         for each in range(5)))
"""


def test_several_processes_write_whole_lines_to_one_file(file: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, name, str(file)]) for name in "abc"]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]

    others = aside(file)
    assert len(others) > 3
    written = [(line["who"], line["n"]) for path in (*others, file) for line in lines(path)]
    assert len(written) == len(set(written)) == 3 * 400 * 5
    for name in "abc":
        own = [number for who, number in written if who == name]
        assert own == [number + each * 1000 for number in range(400) for each in range(5)]


# When it cannot be written


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond that: what is written is cut there, and fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_loses_nothing_that_can_wait(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Audit(file=File(file)) as audit:
        with full_at(1000):
            for number in range(50):
                audit(refused(number))
            await until(lambda: "cannot be written" in caplog.text)
            await asyncio.sleep(0.05)  # it is tried again in the meantime
            whole = file.read_text()
        await until(lambda: len(lines(file)) == 50)

    assert whole == "" or whole.endswith("\n")
    assert [line["id"] for line in lines(file)] == [f"req_{number}" for number in range(50)]
    assert audit.vitals.lost == {}
    told = [record.message for record in caplog.records]
    assert [message.partition(",")[0] for message in told] == [
        "the audit cannot be written",
        "the audit is written again; 0 lines were lost",
    ]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
async def test_what_is_no_file_fails_no_call(
    kind: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    match kind:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "device":
            file = Path("/dev/full")
    async with Audit(file=File(file)) as audit:
        for number in range(3):
            audit(refused(number))
        await until(lambda: "cannot be written" in caplog.text)

    assert audit.vitals.lost == {"audit": 3}
    assert len(caplog.records) == 1


async def test_what_comes_when_it_is_closed_is_lost_and_counted(file: Path) -> None:
    audit = Audit(file=File(file))
    audit(refused())

    assert audit.vitals.lost == {"audit": 1}
    assert not file.exists()


async def test_losses_are_a_metric(file: Path) -> None:
    made = gateway(
        f"server: {{observers: [metrics, audit: {{file: {file}}}]}}\n"
        "upstreams: {a: mock}\nroutes: {m: a}"
    )
    file.mkdir()
    with_metrics = Client(made)
    async with made.lifespan():
        made.vitals.lose("audit", 3)
        text = (await (await with_metrics.get("/metrics")).read()).decode()

    assert 'headrace_log_dropped_total{log="audit"} 3.0' in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("{}", "needs the option 'file'"),
        ("{file: /no/such/folder/audit.jsonl}", "the folder of its file is not there"),
        ("{file: audit.jsonl, size: 1kB}", "size must be at least 64kB"),
        ("{file: audit.jsonl, age: 0}", "age must be at least 1s"),
        ("{file: audit.jsonl, keep: -1}", "keep must not be below 0"),
    ],
)
def test_what_cannot_be_is_a_problem(options: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        gateway(
            f"server: {{observers: [audit: {options}]}}\nupstreams: {{a: mock}}\nroutes: {{m: a}}"
        )


async def test_logging_is_not_needed_for_it(file: Path) -> None:
    logging.disable(logging.CRITICAL)
    try:
        async with Audit(file=File(file)) as audit:
            audit(refused())
    finally:
        logging.disable(logging.NOTSET)

    assert len(lines(file)) == 1
