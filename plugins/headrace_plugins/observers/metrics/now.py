"""What is so at this moment, and is no count: in one process, or in several together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Self, TypeVar

import orjson
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from headrace import Vitals, __version__

Name = TypeVar("Name", str, tuple[str, str])

ALL = "*"
"""The model of an upstream of which nothing is asked."""


@dataclass(frozen=True, kw_only=True)
class Now:
    """What can be seen of a gateway at this moment."""

    calls: int
    store: bool
    """Whether the store answers."""
    closed: tuple[tuple[str, str], ...]
    """Upstreams and models to which no call is sent."""
    hashes: tuple[str, ...]
    """The configurations in force; more than one only while workers take another one."""
    since: float | None
    """When the last of them was taken."""
    well: bool
    """Whether the one that was read last was taken."""

    @classmethod
    def of(cls, vitals: Vitals) -> Self:
        """What is to be seen now."""
        config, rests = vitals.config, vitals.rests.all
        return cls(
            calls=vitals.calls,
            store=vitals.store is None or vitals.store.fault is None,
            closed=_once((up, model or ALL) for (up, model), rest in rests.items() if rest.closed),
            hashes=(config.hash,) if config else (),
            since=config.since.timestamp() if config else None,
            well=vitals.refused is None,
        )

    @classmethod
    def read(cls, text: bytes) -> Self:
        """What another process has written."""
        told = orjson.loads(text)
        return cls(**{**told, "closed": tuple(map(tuple, told["closed"]))})

    def written(self) -> bytes:
        """The same for another process to read."""
        return orjson.dumps(asdict(self))

    def beside(self, other: Self) -> Self:
        """What is so of two processes that serve together."""
        times = [since for since in (self.since, other.since) if since is not None]
        return type(self)(
            calls=self.calls + other.calls,
            store=self.store and other.store,
            closed=_once((*self.closed, *other.closed)),
            hashes=_once((*self.hashes, *other.hashes)),
            since=max(times, default=None),
            well=self.well and other.well,
        )

    def metrics(self) -> Iterator[Metric]:
        """The gauges."""
        build = GaugeMetricFamily("headrace_build_info", "What is running.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield _gauge("headrace_store_up", "Whether the store answers.", self.store)
        yield _gauge("headrace_calls_in_flight", "Calls under way.", self.calls)
        closed = GaugeMetricFamily(
            "headrace_target_resting",
            "1 while no call is sent there: a breaker, a probe or somebody has closed it.",
            labels=["upstream", "model"],
        )
        for labels in self.closed:
            closed.add_metric(labels, 1)
        yield closed
        config = GaugeMetricFamily(
            "headrace_config_info", "The configuration in force.", labels=["hash"]
        )
        for known in self.hashes:
            config.add_metric([known], 1)
        yield config
        yield _gauge(
            "headrace_config_last_reload_successful",
            "Whether the configuration that was read last was taken.",
            self.well,
        )
        yield _gauge(
            "headrace_config_last_reload_timestamp_seconds",
            "When the configuration in force was taken.",
            self.since,
        )


def _gauge(name: str, says: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, says)
    if value is not None:
        family.add_metric([], float(value))
    return family


def _once(values: Iterable[Name]) -> tuple[Name, ...]:
    return tuple(sorted(set(values)))
