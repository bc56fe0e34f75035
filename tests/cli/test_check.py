"""`headrace check`: every problem, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .running import headrace

GOOD = "upstreams: {a: mock}\nroutes: {'*': a}\n"
BAD = "upstreams: {a: mook}\nroutes: {'*': b}\n"
UNSET = """
upstreams:
  a: {forwarder: {openai: {api_key: "${KEY}"}}}
  b: {forwarder: {openai: {api_key: "${file:/run/secrets/none}"}}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gateway.yaml"


def test_a_good_file_has_no_problems(here: Path) -> None:
    here.write_text(GOOD)

    told = headrace("check")

    assert (told.exit_code, told.stdout) == (0, "")
    assert told.stderr == "gateway.yaml: no problems\n"


def test_every_problem_is_told_with_its_line_and_a_caret(here: Path) -> None:
    here.write_text(BAD)

    told = headrace("check")

    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == (
        "gateway.yaml:1:16: no forwarder is called 'mook'; did you mean 'mock'?\n"
        "  1 | upstreams: {a: mook}\n"
        "    |                ^^^^\n"
        "gateway.yaml:2:15: no upstream is called 'b'; known here: 'a'\n"
        "  2 | routes: {'*': b}\n"
        "    |               ^\n"
        "2 problems\n"
    )


def test_the_environment_names_the_file_where_nobody_does(here: Path) -> None:
    here.write_text(GOOD)
    (here.parent / "other.yaml").write_text(BAD)

    assert headrace("check", HEADRACE_CONFIG="other.yaml").exit_code == 1
    assert headrace("explain", HEADRACE_CONFIG="other.yaml").exit_code == 1
    assert headrace("check", "gateway.yaml", HEADRACE_CONFIG="other.yaml").exit_code == 0


def test_github_is_told_where_to_show_them(here: Path) -> None:
    here.write_text(BAD)

    told = headrace("check", "--format", "github")

    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        "::error file=gateway.yaml,line=1,col=16::"
        "no forwarder is called 'mook'; did you mean 'mock'?",
        "::error file=gateway.yaml,line=2,col=15::no upstream is called 'b'; known here: 'a'",
    ]


def test_github_hears_nothing_of_a_good_file(here: Path) -> None:
    here.write_text(GOOD)

    assert headrace("check", "--format", "github").stdout == ""


def test_a_file_that_is_not_there_is_a_problem() -> None:
    told = headrace("check", "none.yaml")

    assert told.exit_code == 1
    assert told.stderr == "cannot read none.yaml: No such file or directory\n1 problem\n"


def test_what_is_unset_is_a_problem_unless_it_is_said_to_be_fine(here: Path) -> None:
    here.write_text(UNSET)

    strict = headrace("check")
    lenient = headrace("check", "--unset-ok")

    assert strict.exit_code == 1
    assert "the environment variable KEY is not set" in strict.stderr
    assert "cannot read this file" in strict.stderr
    assert lenient.exit_code == 0


def test_what_is_set_must_be_right_all_the_same(here: Path) -> None:
    here.write_text(UNSET)

    told = headrace("check", "--unset-ok", KEY="")

    assert told.exit_code == 1
    assert "openai: api_key is empty" in told.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", '"::"', "gateway.internal"])
def test_an_address_for_others_needs_a_key(here: Path, host: str) -> None:
    here.write_text(f"server: {{port: 80, host: {host}}}\n{GOOD}")

    told = headrace("check")

    assert told.exit_code == 1
    assert told.stderr.startswith("gateway.yaml:1:26: others than this machine reach ")
    assert "`auth: none`" in told.stderr


@pytest.mark.parametrize("more", ["auth: none", "chain: [api_key: {keys: {}}]", "host: '::1'"])
def test_an_address_is_fine_with_a_key_or_without_others(here: Path, more: str) -> None:
    host = "" if "host" in more else "host: 0.0.0.0, "
    here.write_text(f"server: {{{host}{more}}}\n{GOOD}")

    assert headrace("check").exit_code == 0


def test_the_gateway_of_this_repository_is_good() -> None:
    assert headrace("check", str(Path(__file__).parents[2] / "gateway.yaml")).exit_code == 0


def test_nothing_is_written_or_left_behind(here: Path) -> None:
    here.write_text(GOOD)

    headrace("check")

    assert list(here.parent.iterdir()) == [here]


def test_what_each_worker_would_count_for_itself_is_told(here: Path) -> None:
    here.write_text(f"server: {{workers: 2, chain: [rate_limit]}}\n{GOOD}")

    told = headrace("check")

    assert told.exit_code == 1
    assert "gateway.yaml:1:30: each of 2 workers would count for itself" in told.stderr


def test_the_store_is_asked_only_where_that_is_wanted(here: Path) -> None:
    here.write_text(GOOD)

    assert headrace("check").stderr == "gateway.yaml: no problems\n"
    assert headrace("check", "--connect").stderr == (
        "store: this process's own memory\ngateway.yaml: no problems\n"
    )


def test_a_store_that_does_not_answer_is_told_where_it_is_written(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    here.write_text(f"server:\n  store: redis://:CANARY@127.0.0.1:{port}/0\n{GOOD}")

    assert headrace("check").exit_code == 0
    told = headrace("check", "--connect")

    assert told.exit_code == 1
    assert told.stderr.startswith(
        f"gateway.yaml:2:10: the store at 127.0.0.1:{port} does not answer: "
    )
    assert "CANARY" not in told.stderr


def test_who_would_be_asked_for_a_key_is_not_judged_where_that_is_left_unset(here: Path) -> None:
    chain = "chain: [api_key: {file: '${KEYS_FILE}'}]"
    here.write_text(f"server: {{host: 0.0.0.0, {chain}}}\n{GOOD}")

    assert headrace("check", "--unset-ok").stderr == "gateway.yaml: no problems\n"
    assert headrace("check").exit_code == 1
