"""Every metric there is, and what a closed record adds to it.

Names and units are as Prometheus wants them (prometheus.io/docs/practices/naming): seconds, and
`_total` for what only grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from headrace import Attempt, Limited, Record, Store, __version__
from headrace_plugins.observers.metrics.labels import NONE, Codes, of_caller, of_status

_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_OVERHEAD = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_KINDS = ("input", "output", "cached", "reasoning")
_STATES = ("reserved", "settled", "released", "beyond")
_OURS = ("headrace_", "ai_")


class Meters:
    """What is counted, in a registry of its own.

    With a `folder`, processes put together there what they count, and each tells the sum.
    """

    def __init__(self, store: Store, *, folder: str | None = None) -> None:
        self._store = store
        self._codes = Codes()
        registry = None if folder else CollectorRegistry()
        self._source = registry or MultiProcessCollector(None, folder)

        def counter(name: str, says: str, *labels: str) -> Callable[..., Counter]:
            return cache(Counter(name, says, labels, registry=registry).labels)

        def histogram(
            name: str, says: str, buckets: tuple[float, ...], *labels: str
        ) -> Callable[..., Histogram]:
            metric = Histogram(name, says, labels, buckets=buckets, registry=registry)
            return cache(metric.labels)

        self._requests = counter(
            "headrace_requests_total",
            "Requests, by how they ended.",
            *("operation", "route", "caller", "outcome", "status"),
        )
        call = ("operation", "route", "upstream")
        self._seconds = histogram(
            "headrace_request_seconds",
            "Seconds from a request to the last byte of its answer.",
            _WHOLE,
            *call,
        )
        self._first_output = histogram(
            "headrace_first_output_seconds",
            "Seconds from a request to the first output of a stream.",
            _FIRST,
            *call,
        )
        self._output_token = histogram(
            "headrace_output_token_seconds",
            "Seconds for each token of a stream, after its first output.",
            _TOKEN,
            *("route", "upstream"),
        )
        ...
