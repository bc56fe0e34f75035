"""Every metric there is.

Names and units are as Prometheus wants them (prometheus.io/docs/practices/naming): seconds, and
`_total` for what only grows. Those that begin with `ai_` are what dashboards for several gateways
ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# A bucket costs a series for each route and upstream, so there are no more than tell something.
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600)
_FIRST = _WHOLE[:10]
_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_OVERHEAD = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metric(NamedTuple):
    """What a metric says, and by what its series differ. With buckets it is a histogram."""

    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TABLE: Mapping[str, Metric] = {
    # Calls, as clients see them
    "headrace_requests_total": Metric(
        "Requests, by how they ended.",
        ("operation", "route", "caller", "outcome", "status"),
    ),
    "headrace_request_seconds": Metric(
        "From a request to the last byte of its answer.",
        ("operation", "route", "upstream"),
        _WHOLE,
    ),
    "headrace_first_output_seconds": Metric(
        "From a request to the first output of a stream.",
        ("route", "upstream"),
        _FIRST,
    ),
    "headrace_output_token_seconds": Metric(
        "For each token of a stream, counted from its first output.",
        ("route", "upstream"),
        _TOKEN,
    ),
    "headrace_overhead_seconds": Metric(
        "To the first byte of an answer, while no upstream worked and no plugin waited on purpose.",
        (),
        _OVERHEAD,
    ),
    "headrace_tokens_total": Metric(
        "Tokens of all attempts; cached ones are part of the input, reasoning of the output.",
        ("kind", "upstream", "route", "caller", "estimated"),
    ),
    "headrace_cost_dollars_total": Metric(
        "What all attempts have cost, where prices and tokens are known.",
        ("upstream", "route", "caller", "estimated"),
    ),
    "headrace_cache_total": Metric(
        "Calls that met a cache, by what it made of them.",
        ("route", "status"),
    ),
    # Tenants, where the configuration names some
    "headrace_tenant_requests_total": Metric(
        "Requests of a tenant, by how they ended.",
        ("tenant", "outcome"),
    ),
    "headrace_tenant_tokens_total": Metric(
        "Tokens of all attempts for a tenant.",
        ("tenant", "kind"),
    ),
    "headrace_tenant_cost_dollars_total": Metric(
        "What all attempts for a tenant have cost, where prices and tokens are known.",
        ("tenant",),
    ),
    # Attempts at upstreams
    "headrace_attempts_total": Metric(
        "Attempts at an upstream, by how they ended.",
        ("upstream", "outcome", "code"),
    ),
    "headrace_attempt_seconds": Metric(
        "From the start of an attempt to its end.",
        ("upstream", "outcome"),
        _WHOLE,
    ),
    "headrace_retries_total": Metric(
        "Attempts at a target that has failed before.",
        ("upstream",),
    ),
    "headrace_passed_over_total": Metric(
        "Times that a target was not asked because it was closed.",
        ("upstream",),
    ),
    "headrace_races_total": Metric(
        "Times that several targets were asked side by side, by who has won.",
        ("plugin", "upstream"),
    ),
    "headrace_race_margin_seconds": Metric(
        "From the winner's reply to the next one; until the others were ended, where none had any.",
        ("plugin",),
        _FIRST,
    ),
    # Limits
    "headrace_limits_total": Metric(
        "Calls that met a limit, by what it did with them.",
        ("policy", "outcome", "dry_run", "local"),
    ),
    "headrace_limit_tokens_total": Metric(
        "Tokens that a limit put aside, and what became of them: reserved = settled + released.",
        ("policy", "state"),
    ),
    # The gateway itself
    "headrace_reloads_total": Metric(
        "Times that another configuration was taken or refused, by each worker for itself.",
        ("outcome",),
    ),
    "headrace_log_dropped_total": Metric(
        "What was dropped instead of written.",
        ("log",),
    ),
    # Under the names of dashboards for several gateways
    "ai_provider_requests_total": Metric(
        "Attempts at an upstream, by how they ended.",
        ("upstream", "outcome"),
    ),
    "ai_provider_latency_seconds": Metric(
        "From the start of an attempt to its end, of those that ended well.",
        ("upstream",),
        _WHOLE,
    ),
    "ai_routing_fallback_total": Metric(
        "Attempts at another target after one has failed.",
        ("failed", "upstream"),
    ),
    "ai_cache_hits_total": Metric(
        "Calls that were answered from a cache.",
        ("route",),
    ),
    "ai_ratelimit_exceeded_total": Metric(
        "Calls that a limit has refused.",
        ("policy", "caller"),
    ),
}
