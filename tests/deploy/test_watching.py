"""Dashboard and alerts ask for what a gateway tells, and each alert fires where it should."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from headrace.testing import Client, gateway
from headrace_plugins.observers.metrics.table import TABLE

from .tools import DEPLOY, program, read, said

ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "headrace.json"
CASES = Path(__file__).parent / "alerts.yaml"
NOT_HERE = "it is in Debian's package prometheus"

_NAME = re.compile(r"\b(?:headrace|ai)_\w+")
_PARTS = re.compile("_(bucket|sum|count)$")
_ADDED = {"le", "job", "instance"}
"""Labels that Prometheus puts there."""


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in read(ALERTS)["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel of the dashboard, its rows' headings too."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Everything that is asked of Prometheus, with who asks it."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    board = json.loads(DASHBOARD.read_text())
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


EXPRESSIONS = [pytest.param(expr, id=who) for who, expr in expressions()]


async def told() -> set[str]:
    """The names of all metrics on the page of a gateway."""
    made = gateway("server: {observers: [metrics]}\nupstreams: {a: mock}\nroutes: {m: a}\n")
    async with made.lifespan():
        response = await Client(made).get("/metrics")
        text = (await response.read()).decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    return families | {f"{name}_total" for name in families}


async def test_every_metric_that_is_asked_for_is_told() -> None:
    known = {*await told(), "up"}

    for who, expression in expressions():
        asked = {_PARTS.sub("", name) for name in _NAME.findall(expression)}
        assert asked <= known, (who, asked - known)
        assert asked or expression.startswith("up{"), f"{who} asks for nothing of ours"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_that_is_asked_for_is_there(expression: str) -> None:
    for name, matchers in re.findall(r"\b((?:headrace|ai)_\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=|!)", matchers):
            assert label in _labels(name), f"{name} has no {label}"
    names = _NAME.findall(expression)
    known = set[str]().union(*map(_labels, names))
    for grouped in re.findall(r"\bby\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known, grouped


def _labels(name: str) -> set[str]:
    metric = TABLE.get(_PARTS.sub("", name))
    return {*(metric.labels if metric else _OF_THE_MOMENT.get(name, ())), *_ADDED}


_OF_THE_MOMENT = {
    "headrace_build_info": ("version",),
    "headrace_config_info": ("hash",),
    "headrace_target_resting": ("upstream", "model"),
}
"""Labels of what is not counted but looked at."""


def test_every_metric_that_is_there_for_dashboards_is_on_ours() -> None:
    shown = {_PARTS.sub("", name) for _, expr in expressions() for name in _NAME.findall(expr)}
    elsewhere = {"headrace_attempt_seconds", "ai_provider_requests_total", "ai_cache_hits_total"}

    assert {*TABLE} - shown <= elsewhere


# The alerts


def test_the_alerts_are_rules() -> None:
    said(program("promtool", NOT_HERE), "check", "rules", ALERTS)


def test_each_alert_fires_where_it_should_and_nowhere_else() -> None:
    said(program("promtool", NOT_HERE), "test", "rules", CASES)


def test_no_alert_is_left_out_of_these_cases() -> None:
    tests = [test for group in read(CASES)["tests"] for test in group["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}

    assert {test["alertname"] for test in tests if test.get("exp_alerts")} == names
    assert {test["alertname"] for test in tests if not test.get("exp_alerts")} == names


def test_every_alert_says_what_it_is_and_whom_it_wants() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


# The dashboard


def test_what_the_dashboard_asks_is_understood(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    written = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__\w+", "5m", expr)}
        for number, expr in enumerate(asked)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": written}]}))

    said(program("promtool", NOT_HERE), "check", "rules", file)


def test_the_dashboard_has_a_place_for_every_panel() -> None:
    taken = dict[tuple[int, int], str]()
    for panel in panels():
        at = panel["gridPos"]
        for place in ((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])):
            assert place[0] < 24, panel["title"]
            assert place not in taken, f"{panel['title']} lies on {taken.get(place)}"
            taken[place] = panel["title"]
    numbers = [panel["id"] for panel in panels()]
    assert len(numbers) == len(set(numbers))


def test_the_dashboard_is_shown_from_any_source() -> None:
    board = json.loads(DASHBOARD.read_text())

    assert {each["name"] for each in board["templating"]["list"]} == {"datasource", "job", "route"}
    for panel in panels():
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for target in panel["targets"]:
                assert 'job=~"$job"' in target["expr"], panel["title"]
