"""What is counted: from closed records to numbers, from numbers to Prometheus's text."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from headrace import Attempt, Limited, Raced, Record, Vitals
from headrace_plugins.observers.metrics.labels import NONE, Codes, of_bool, of_caller, of_status
from headrace_plugins.observers.metrics.now import Now
from headrace_plugins.observers.metrics.table import TABLE

if TYPE_CHECKING:
    from headrace_plugins.observers.metrics.folder import Folder

Kind = TypeVar("Kind", Counter, Histogram)

_KINDS = ("input", "output", "cached", "reasoning")
_STATES = ("reserved", "settled", "released", "beyond")


class Meters:
    """Every metric of the table, in a registry of its own.

    With a `folder`, processes put together there what they count, and each tells the sum.
    """

    def __init__(self, folder: Folder | None = None) -> None:
        self._codes = Codes()
        self._counters: dict[str, Callable[..., Counter]] = {}
        self._histograms: dict[str, Callable[..., Histogram]] = {}
        self._noted: collections.Counter[tuple[str, str]] = collections.Counter()
        self._registry: CollectorRegistry | None = None
        self.folder = folder
        """Where other processes put together with this one what they count."""
        if folder:
            with folder.joining():
                self._make()
        else:
            self._registry = CollectorRegistry()
            self._make()

    def _make(self) -> None:
        for name, (says, labels, buckets) in TABLE.items():
            if buckets:
                timed = Histogram(name, says, labels, buckets=buckets, registry=self._registry)
                self._histograms[name] = _series(timed, labels)
            else:
                counted = Counter(name, says, labels, registry=self._registry)
                self._counters[name] = _series(counted, labels)
        for outcome in ("ok", "failed"):  # so that the first one is an increase
            self._add("headrace_reloads_total", outcome, amount=0)

    def told(self, now: Now) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(_Told(self._collected(now)))

    def _collected(self, now: Now) -> Iterator[Metric]:
        if self.folder is None:
            counted, others = self._counted(), []
        else:
            with self.folder.reading():
                counted, others = self._counted(), list(map(Now.read, self.folder.said()))
        yield from counted
        yield from reduce(Now.beside, others, now).metrics()

    def _counted(self) -> list[Metric]:
        source = self._registry or MultiProcessCollector(None, self.folder and self.folder.path)  # type: ignore[no-untyped-call]
        found = []
        for metric in source.collect():
            if metric.name in TABLE or f"{metric.name}_total" in TABLE:
                # When a series began is nothing that anybody asks for, and doubles their number.
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
                found.append(metric)
        return found

    def note(self, vitals: Vitals) -> None:
        """Add what has happened beside calls since the last time."""
        self._note("headrace_log_dropped_total", vitals.lost)
        self._note("headrace_reloads_total", vitals.reloads)

    def _note(self, name: str, counts: Mapping[str, int]) -> None:
        for label, count in counts.items():
            self._add(name, label, amount=count - self._noted[name, label])
            self._noted[name, label] = count

    def count(self, record: Record) -> None:
        """Add a closed record."""
        route, caller = record.route or NONE, of_caller(record.caller)
        if not record.aside:
            self._request(record, route, caller)
        for attempt in record.attempts:
            if attempt.outcome:  # one that still runs comes again in a record aside
                self._attempt(attempt, route, caller)
        for failed, attempt in after_failures(record.attempts):
            if failed.target == attempt.target:
                self._add("headrace_retries_total", attempt.target.upstream)
            else:
                names = (failed.target.upstream, attempt.target.upstream)
                self._add("ai_routing_fallback_total", *names)
        for raced in record.races:
            self._race(raced)
        for target in record.resting:
            self._add("headrace_passed_over_total", target.upstream)
        for limit in record.limits:
            self._limit(limit, caller)

    def count_tenant(self, record: Record, tenant: str) -> None:
        """Add a closed record of a caller that belongs to a tenant."""
        if not record.aside:
            self._add("headrace_tenant_requests_total", tenant, record.outcome or NONE)
        for attempt in record.attempts:
            if attempt.outcome:
                for kind, tokens in _tokens(attempt):
                    self._add("headrace_tenant_tokens_total", tenant, kind, amount=tokens)
                if (cost := attempt.cost) is not None:
                    self._add("headrace_tenant_cost_dollars_total", tenant, amount=cost)

    def _request(self, record: Record, route: str, caller: str) -> None:
        operation, answered = record.operation or NONE, record.answered
        upstream = answered.target.upstream if answered else NONE
        status, outcome = of_status(record.status), record.outcome or NONE
        self._add("headrace_requests_total", operation, route, caller, outcome, status)
        took = _between(record.started, record.ended)
        self._observe("headrace_request_seconds", took, operation, route, upstream)
        self._observe("headrace_overhead_seconds", record.overhead)
        if record.stream and answered:
            waited = _between(record.started, answered.first_output)
            self._observe("headrace_first_output_seconds", waited, route, upstream)
            self._observe("headrace_output_token_seconds", _pace(answered), route, upstream)
        if record.cache:
            self._add("headrace_cache_total", route, record.cache.status)
            if record.cache.status in ("hit", "stale"):
                self._add("ai_cache_hits_total", route)

    def _attempt(self, attempt: Attempt, route: str, caller: str) -> None:
        upstream, outcome = attempt.target.upstream, attempt.outcome or NONE
        took = _between(attempt.started, attempt.ended)
        self._add("headrace_attempts_total", upstream, outcome, self._codes.of(attempt))
        self._observe("headrace_attempt_seconds", took, upstream, outcome)
        self._add("ai_provider_requests_total", upstream, outcome)
        if outcome == "ok":
            self._observe("ai_provider_latency_seconds", took, upstream)
        if usage := attempt.usage:
            labels = (upstream, route, caller, of_bool(usage.estimated))
            for kind, tokens in _tokens(attempt):
                self._add("headrace_tokens_total", kind, *labels, amount=tokens)
            if (cost := attempt.cost) is not None:
                self._add("headrace_cost_dollars_total", *labels, amount=cost)

    def _race(self, raced: Raced) -> None:
        self._add("headrace_races_total", raced.plugin, raced.winner.upstream)
        self._observe("headrace_race_margin_seconds", raced.margin, raced.plugin)

    def _limit(self, limit: Limited, caller: str) -> None:
        policy, dry_run, local = limit.policy, of_bool(limit.dry_run), of_bool(limit.local)
        self._add("headrace_limits_total", policy, limit.outcome, dry_run, local)
        if limit.outcome == "refused" and not limit.dry_run:
            self._add("ai_ratelimit_exceeded_total", policy, caller)
        for state in _STATES:
            if tokens := getattr(limit, state):
                self._add("headrace_limit_tokens_total", policy, state, amount=tokens)

    def _add(self, name: str, *labels: str, amount: float = 1) -> None:
        self._counters[name](*labels).inc(amount)

    def _observe(self, name: str, seconds: float | None, *labels: str) -> None:
        if seconds is not None:
            self._histograms[name](*labels).observe(seconds)


class _Told:
    """What prometheus-client takes for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def after_failures(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, Attempt]]:
    """Each attempt that was made after others had failed, behind the last of these."""
    for number, attempt in enumerate(attempts):
        failed = [
            before
            for before in attempts[:number]
            if before.outcome == "failed" and before.ended and before.ended <= attempt.started
        ]
        if failed:
            yield failed[-1], attempt


def _tokens(attempt: Attempt) -> Iterator[tuple[str, int]]:
    """Those that are known, by their kind."""
    for kind in _KINDS:
        tokens = getattr(attempt.usage, kind, None)
        if tokens is not None and tokens >= 0:  # an upstream may say anything
            yield kind, tokens


def _pace(answered: Attempt) -> float | None:
    """Seconds for each token of a stream, where it is known how many there were."""
    usage, took = answered.usage, _between(answered.first_output, answered.ended)
    counted = usage.output if usage and not usage.estimated else None
    return took / counted if counted and took is not None else None


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _series(metric: Kind, labels: Sequence[str]) -> Callable[..., Kind]:
    """What finds the series of a metric by the values of its labels, in little time."""
    return cache(metric.labels) if labels else lambda: metric
