"""How many processes serve a gateway, and whether what it counts is counted by all of them."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import parent_process

from headrace.config.plan import Plan, says
from headrace.config.problems import Problem
from headrace.errors import ConfigError
from headrace.registry import name_of


def workers_of(plan: Plan, environ: Mapping[str, str]) -> int:
    """How many there are, as far as this process can tell.

    `WEB_CONCURRENCY` is what uvicorn and gunicorn read, too. Raises `ConfigError` where it is no
    number of processes.
    """
    written = environ.get("WEB_CONCURRENCY")
    if written and not (written.isdecimal() and int(written)):
        message = f"WEB_CONCURRENCY must be a number of processes, found {written!r}"
        raise ConfigError([Problem(None, message)])
    count = int(written) if written else plan.server.workers
    return max(count, 2) if parent_process() else count  # a child of uvicorn has sisters


def check_workers(plan: Plan, count: int) -> None:
    """Raise `ConfigError` where each of several workers would count for itself, unasked."""
    if count < 2 or plan.store.shared:
        return
    problems = [
        Problem(
            place,
            f"each of {count} workers would count for itself what {name_of('plugins', plugin)} "
            "counts, so that calls get several times what is written; let a shared store keep it, "
            "such as 'server: {store: redis://…}', or write 'per_worker: true' if this is meant",
        )
        for place, plugin in plan.counting
        if not says(plugin, "per_worker")
    ]
    if problems:
        raise ConfigError(problems)
