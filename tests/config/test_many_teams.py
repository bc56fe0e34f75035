"""Forty teams in eight files: each gets what its file says, and what is wrong is told where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import Caller, ConfigError
from headrace.config.build import build
from headrace.config.document import load
from headrace.config.plan import Plan

FLOORS, TEAMS = 8, 5
MAIN = """
include: [floors/*.yaml]
callers:
  default: {models: [fast], only: {region: eu}}
upstreams:
  eu: {forwarder: mock, labels: {region: eu}}
  us: {forwarder: mock, labels: {region: us}}
routes:
  fast: {chain: [fallback], targets: [us, eu]}
  gpt-*: eu
"""

pytestmark = pytest.mark.usefixtures("registered")


def team(floor: int, number: int) -> str:
    """What a team has written."""
    name = f"team-{floor}-{number}"
    match number % 3:
        case 0:
            return f"  {name}: {{match: {{tenant: {name}}}, models: [fast, {name}-*]}}\n"
        case 1:
            return f"  {name}: {{match: {{groups: [{name}, boss-of-{name}]}}}}\n"
        case _:
            return f"  {name}: {{only: {{region: us}}}}\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(MAIN)
    (tmp_path / "floors").mkdir()
    for floor in range(FLOORS):
        callers = "".join(team(floor, number) for number in range(TEAMS))
        routes = "".join(f"  team-{floor}-{n}-*: eu\n" for n in range(0, TEAMS, 3))
        written = f"callers:\n{callers}routes:\n{routes}"
        (tmp_path / "floors" / f"{floor}.yaml").write_text(written)
    return tmp_path


def planned(here: Path) -> Plan:
    return build(load(here / "gateway.yaml", {}))


def members() -> Iterator[tuple[str, Caller]]:
    """Somebody of each team, as a plugin would find them."""
    for floor in range(FLOORS):
        for number in range(TEAMS):
            name = f"team-{floor}-{number}"
            match number % 3:
                case 0:
                    yield name, Caller("ann", tenant=name)
                case 1:
                    yield name, Caller("ann", groups=("all", f"boss-of-{name}"))
                case _:
                    yield name, Caller(name)


def test_every_team_is_known_and_has_what_its_file_says(here: Path) -> None:
    callers = planned(here).callers

    assert len(callers.entries) == FLOORS * TEAMS
    for name, somebody in members():
        found = callers.of(somebody)
        assert found
        assert found.name == name
        assert found.may("fast")
        assert not found.may("gpt-4o")
        assert found.may(f"{name}-mini") is (name.endswith(("0", "3")))
        assert found.only == {"region": "us" if name.endswith("2") else "eu"}


def test_a_team_that_two_files_have_is_told_with_both_places(here: Path) -> None:
    (here / "floors" / "9.yaml").write_text("callers:\n  team-3-1: {}\n")

    with pytest.raises(ConfigError) as raised:
        planned(here)

    (problem,) = raised.value.problems
    assert str(problem).startswith(f"{here}/floors/9.yaml:2:3: 'team-3-1' is given twice; ")
    assert f"{here}/floors/3.yaml:3:3" in str(problem)


def test_a_mistake_of_one_team_is_told_in_its_file(here: Path) -> None:
    (here / "floors" / "9.yaml").write_text("callers:\n  new: {models: [fsat]}\n")

    with pytest.raises(ConfigError, match=r"9.yaml:2:18: .* did you mean 'fast'\?"):
        planned(here)
