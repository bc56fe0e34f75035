"""`headrace diff`: what would change if one file took another one's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .running import headrace

OLD = """
server: {chain: [rate_limit]}
callers: {payments: {limits: {requests: 600/minute}}}
upstreams: {a: {forwarder: {openai: {api_key: "${KEY:-CANARY-1}"}}}, b: mock}
routes: {fast: a, slow: b}
"""
NEW = """
server: {port: 9090, chain: [rate_limit]}
callers: {payments: {limits: {requests: 300/minute}}}
upstreams: {a: {forwarder: {openai: {api_key: "${KEY:-CANARY-2}"}}}, b: mock}
routes: {fast: {chain: [fallback], targets: [a, b]}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    return tmp_path


def test_it_says_what_would_change() -> None:
    told = headrace("diff", "old.yaml", "new.yaml")

    assert (told.exit_code, told.stdout, told.stderr) == (
        1,
        """\
server: port 8080 -> 9090; this needs a restart
caller payments: requests 600/minute -> 300/minute
route fast: chain [] -> [fallback]
route fast: targets [a] -> [a, b]
route slow is gone
upstream a: openai api_key has changed
""",
        "6 changes, 1 of which needs a restart\n",
    )


def test_two_that_say_the_same_do_not_differ(here: Path) -> None:
    (here / "new.yaml").write_text(OLD.replace("slow: b}", "'slow': {targets: [b]}} # the same"))

    told = headrace("diff", "old.yaml", "new.yaml")

    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "no changes\n")


def test_programs_get_the_same_and_no_secret() -> None:
    told = headrace("diff", "old.yaml", "new.yaml", "--json")
    found = json.loads(told.stdout)

    assert told.exit_code == 1
    assert [each["says"] for each in found] == headrace(
        "diff", "old.yaml", "new.yaml"
    ).stdout.split("\n")[:-1]
    assert found[1] == {
        "says": "caller payments: requests 600/minute -> 300/minute",
        "section": "callers",
        "names": ["payments"],
        "path": ["limits", "requests"],
        "old": "600/minute",
        "new": "300/minute",
        "restart": False,
        "lost": None,
    }
    assert "new" not in found[4]
    assert (found[5]["old"], found[5]["new"]) == ("***", "***")
    assert "CANARY" not in told.output


def test_the_problems_of_both_are_told_as_check_tells_them(here: Path) -> None:
    (here / "old.yaml").write_text("upstreams: {a: mook}\n")
    (here / "new.yaml").write_text("server: {host: 0.0.0.0}\n")

    told = headrace("diff", "old.yaml", "new.yaml")

    assert (told.exit_code, told.stdout) == (2, "")
    assert "old.yaml:1:16: no forwarder is called 'mook'; did you mean 'mock'?\n" in told.stderr
    assert "new.yaml:1:16: others than this machine reach 0.0.0.0" in told.stderr
    assert told.stderr.endswith("2 problems\n")


def test_a_file_that_is_not_there_is_a_problem_of_its_own() -> None:
    told = headrace("diff", "old.yaml", "nowhere.yaml")

    assert told.exit_code == 2
    assert "nowhere.yaml" in told.stderr


def test_what_is_unset_is_no_problem_where_that_is_said(here: Path) -> None:
    (here / "new.yaml").write_text(NEW.replace(":-CANARY-2", ""))

    assert headrace("diff", "old.yaml", "new.yaml").exit_code == 2
    assert headrace("diff", "old.yaml", "new.yaml", "--unset-ok").exit_code == 1


EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*/gateway.yaml"))


@pytest.mark.parametrize(
    "example",
    [path for path in EXAMPLES if path.parent.name != "plugin"],  # its plugin is not installed
    ids=lambda path: path.parent.name,
)
def test_every_example_can_be_compared(
    here: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example.parent)
    again = headrace("diff", str(example), str(example), "--unset-ok")
    other = headrace("diff", str(here / "new.yaml"), str(example), "--unset-ok", "--json")

    assert again.stderr == "no changes\n"
    assert json.loads(other.stdout)
    assert "CANARY" not in other.output
