"""What `headrace doctor` looks at, all at the same time, and each for so long."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from headrace import transport
from headrace.call import leaves
from headrace.cli.address import check_guarded
from headrace.cli.doctor_machine import clocks, machine
from headrace.cli.doctor_store import store_findings
from headrace.cli.doctor_upstreams import place_of, upstream_findings
from headrace.cli.doctor_watching import Watching
from headrace.config.build import build
from headrace.config.document import Document
from headrace.config.outline import Shown
from headrace.config.plan import Plan
from headrace.config.workers import check_workers, workers_of
from headrace.errors import ConfigError
from headrace.finding import Finding
from headrace.options import Duration
from headrace.registry import Group, name_of


@dataclass(frozen=True, kw_only=True)
class Look:
    """One thing to look at."""

    about: str
    place: str = ""
    """The host and the port that it asks, where they are known."""
    findings: Callable[[], AsyncIterator[Finding]]


async def examined(
    document: Document, timeout: float, *, progress: Callable[[int, int], None]
) -> list[Finding]:
    """Everything found, in the order of the configuration. Raises `ConfigError` as serving does."""
    seen = Watching(transport.best())
    began = time.time(), time.monotonic()
    plan = build(document, through=seen)
    try:
        found = await _all(list(_looks(plan)), timeout, progress)
    finally:
        await plan.store.aclose()
        await seen.aclose()
    shown = Shown(plan)
    harmless = [_harmless(finding, shown) for finding in found]
    return [*machine(plan), *_configured(plan), *harmless, *clocks(seen.ahead, began)]


def _looks(plan: Plan) -> Iterator[Look]:
    store = plan.store
    yield Look(about="store", place=store.place, findings=partial(store_findings, store))
    probed = {probe.upstream for probe in plan.probes}
    for name, upstream in plan.upstreams.items():
        asking = partial(upstream_findings, upstream, _wanted(plan, name), probed=name in probed)
        own = getattr(upstream.forward, "examine", asking)
        yield Look(about=f"upstream {name}", place=place_of(upstream.address), findings=own)
    forwarders = [id(upstream.forward) for upstream in plan.upstreams.values()]
    for part in (*plan.parts, *plan.watchers):
        if (examine := getattr(part, "examine", None)) and id(part) not in forwarders:
            yield Look(about=_called(part), findings=examine)


def _wanted(plan: Plan, upstream: str) -> dict[str, str]:
    """The models that an upstream is asked for, as it calls them, and who asks for each."""
    names = plan.upstreams[upstream].models
    wanted = dict.fromkeys(names.values(), "its models")
    for route in plan.routes:
        for target in leaves(route.targets):
            if target.upstream == upstream and target.model:
                wanted.setdefault(names.get(target.model, target.model), f"route {route.key!r}")
    return wanted


async def _all(
    looks: Sequence[Look], timeout: float, progress: Callable[[int, int], None]
) -> list[Finding]:
    done = 0

    async def one(look: Look) -> list[Finding]:
        nonlocal done
        findings = await _looked(look, timeout)
        done += 1
        progress(done, len(looks))
        return findings

    progress(0, len(looks))
    return [finding for found in await asyncio.gather(*map(one, looks)) for finding in found]


async def _looked(look: Look, timeout: float) -> list[Finding]:
    """What comes of one look, whatever it does."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(timeout):
            async for finding in look.findings():
                found.append(replace(finding, about=finding.about or look.about))
    except TimeoutError:
        found.append(
            Finding(
                about=look.about,
                state="fail",
                says=f"no answer{look.place and f' from {look.place}'} within {Duration(timeout)}",
                advice="see whether its address is right, and whether a firewall is in between",
            )
        )
    except Exception as error:  # noqa: BLE001  a part is anyone's
        says = f"trying it failed with {type(error).__name__}"
        found.append(Finding(about=look.about, state="fail", says=says))
    return found


def _configured(plan: Plan) -> Iterator[Finding]:
    """What serving would refuse, or warn of."""
    try:
        check_guarded(plan, os.environ.get("HOST") or plan.server.host, None)
        check_workers(plan, workers_of(plan, os.environ))
    except ConfigError as error:
        for problem in error.problems:
            yield Finding(about="server", state="fail", says=str(problem).partition("\n")[0])
    if plan.certificate:
        says = f"it is good until {plan.certificate.ends:%Y-%m-%d}"
        warning = plan.certificate.warning(plan.vitals.began)
        yield Finding(about="certificate", state="warn" if warning else "ok", says=warning or says)
    for name in plan.disabled:
        yield Finding(about=f"upstream {name}", says="disabled, so it was not asked")


def _called(part: object) -> str:
    """What a part is called in a configuration, else its class's own name."""
    groups: tuple[Group, ...] = get_args(Group)
    own = type(part).__name__
    return next((name for group in groups if (name := name_of(group, part)) != own), own)


def _harmless(finding: Finding, shown: Shown) -> Finding:
    """A finding on one line, without a secret, whoever wrote it."""

    def clean(text: str) -> str:
        return "".join(char if char.isprintable() else " " for char in shown.text(text))

    advice = finding.advice and clean(finding.advice)
    return replace(finding, about=clean(finding.about), says=clean(finding.says), advice=advice)
