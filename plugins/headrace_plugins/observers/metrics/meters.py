"""What is counted: from closed records to numbers, from numbers to Prometheus's text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from headrace import Attempt, Limited, Record, Store, __version__
from headrace_plugins.observers.metrics.labels import NONE, Codes, of_bool, of_caller, of_status
from headrace_plugins.observers.metrics.table import TABLE

Kind = TypeVar("Kind", Counter, Histogram)

_KINDS = ("input", "output", "cached", "reasoning")
_STATES = ("reserved", "settled", "released", "beyond")


class Meters:
    """Every metric of the table, in a registry of its own.

    With a `folder`, processes put together there what they count, and each tells the sum.
    """

    def __init__(self, store: Store, *, folder: str | None = None) -> None:
        self._store = store
        self._codes = Codes()
        self._counters: dict[str, Callable[..., Counter]] = {}
        self._histograms: dict[str, Callable[..., Histogram]] = {}
        registry = None if folder else CollectorRegistry()
        self._counted = registry or MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]
        for name, (says, labels, buckets) in TABLE.items():
            if buckets:
                timed = Histogram(name, says, labels, buckets=buckets, registry=registry)
                self._histograms[name] = _series(timed, labels)
            else:
                counted = Counter(name, says, labels, registry=registry)
                self._counters[name] = _series(counted, labels)

    def told(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now; prometheus-client asks for them."""
        for metric in self._counted.collect():
            if metric.name in TABLE or f"{metric.name}_total" in TABLE:
                # When a series began is nothing that anybody asks for, and doubles their number.
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
                yield metric
        build = GaugeMetricFamily("headrace_build_info", "What is running.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        up = float(self._store.fault is None)
        yield GaugeMetricFamily("headrace_store_up", "Whether the store answers.", value=up)

    def count(self, record: Record) -> None:
        """Add a closed record."""
        route, caller = record.route or NONE, of_caller(record.caller)
        if not record.aside:
            self._request(record, route, caller)
        for attempt in record.attempts:
            if attempt.outcome:  # one that still runs comes again in a record aside
                self._attempt(attempt, route, caller)
        for failed, instead in fallbacks(record.attempts):
            self._add("ai_routing_fallback_total", failed, instead)
        for limit in record.limits:
            self._limit(limit, caller)

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
            for kind in _KINDS:
                tokens = getattr(usage, kind)
                if tokens is not None and tokens >= 0:  # an upstream may say anything
                    self._add("headrace_tokens_total", kind, *labels, amount=tokens)

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


def fallbacks(attempts: Sequence[Attempt]) -> Iterator[tuple[str, str]]:
    """Which upstream had failed, and which was asked instead, for each time that happened."""
    for number, attempt in enumerate(attempts):
        failed = [
            before
            for before in attempts[:number]
            if before.outcome == "failed" and before.ended and before.ended <= attempt.started
        ]
        if failed and failed[-1].target != attempt.target:
            yield failed[-1].target.upstream, attempt.target.upstream


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
