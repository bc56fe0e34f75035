"""Several workers, and what each of them would count for itself."""

from __future__ import annotations

import multiprocessing

import pytest

from headrace import ConfigError
from headrace.config import workers
from headrace.config.build import build
from headrace.config.document import parse
from headrace.config.plan import Plan
from headrace.config.workers import check_workers, workers_of

pytestmark = pytest.mark.usefixtures("registered")

CHAIN = "server: {workers: 3, chain: [limit]}"


def planned(text: str) -> Plan:
    return build(parse(text, "gateway.yaml", {}))


def test_the_environment_comes_before_the_file() -> None:
    plan = planned(CHAIN)

    assert workers_of(plan, {}) == 3
    assert workers_of(plan, {"WEB_CONCURRENCY": ""}) == 3
    assert workers_of(plan, {"WEB_CONCURRENCY": "8"}) == 8


@pytest.mark.parametrize("written", ["0", "many", "-1", "2.5"])
def test_what_is_no_number_of_processes_is_told(written: str) -> None:
    with pytest.raises(ConfigError, match=r"WEB_CONCURRENCY must be .*, found '"):
        workers_of(planned(CHAIN), {"WEB_CONCURRENCY": written})


def test_a_process_that_a_server_has_started_has_sisters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "parent_process", multiprocessing.current_process)

    assert workers_of(planned("server: {}"), {}) == 2


def test_what_counts_must_count_for_all() -> None:
    with pytest.raises(ConfigError, match=r"gateway.yaml:1:30: each of 3 workers would count"):
        check_workers(planned(CHAIN), 3)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (CHAIN, 1),
        ("server: {chain: [{limit: {per_worker: true}}]}", 3),
        ("server: {chain: [retry]}", 3),
    ],
)
def test_what_is_meant_or_makes_no_difference_is_no_problem(text: str, count: int) -> None:
    check_workers(planned(text), count)
