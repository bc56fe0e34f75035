"""YAML to values with places, one case a file; and what no file in a folder can show."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.config.document import load, parse
from headrace.config.source import MAX_FILE

CASES = Path(__file__).parent / "cases" / "document"
ENVIRON = {"NAME": "world", "EMPTY": "", "DOLLARS": "${NAME}$$"}


@pytest.mark.parametrize("case", sorted(CASES.glob("*.yaml")), ids=lambda case: case.stem)
def test_a_file_has_the_problems_and_the_value_it_names(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CASES)

    document = load(case.name, ENVIRON)

    text = case.read_text(errors="replace")
    problems = [str(problem).partition("\n")[0] for problem in document.problems]
    assert problems == re.findall("^# problem: (.*)", text, re.MULTILINE)
    for value in re.findall("^# value: (.*)", text, re.MULTILINE):
        assert json.dumps(document.value) == json.dumps(json.loads(value))


def test_infinity_and_not_a_number_are_numbers() -> None:
    value = parse("a: [.inf, -.INF, .NaN]", "g.yaml", {}).value

    assert value["a"][:2] == [math.inf, -math.inf]
    assert math.isnan(value["a"][2])


def test_a_number_longer_than_any_is_text() -> None:
    digits = "9" * 5000

    assert parse(f"a: {digits}", "g.yaml", {}).value == {"a": digits}


PLACES = """\
upstreams:
  a: {base_url: x, labels: [b, "c"]}
x-anchor: &all
  deep: [1]
chains:
  one: *all
  two:
    <<: *all
"""


@pytest.mark.parametrize(
    ("path", "place", "width", "key_place"),
    [
        (("upstreams",), "2:3", 1, "1:1"),
        (("upstreams", "a"), "2:6", 31, "2:3"),
        (("upstreams", "a", "labels"), "2:28", 8, "2:20"),
        (("upstreams", "a", "labels", 1), "2:32", 3, "2:32"),
        (("upstreams", "a", "models", "none"), "2:6", 31, "2:3"),
        (("routes",), "1:1", 9, "1:1"),
        ((), "1:1", 9, "1:1"),
        (("chains", "one"), "6:8", 4, "6:3"),
        (("chains", "one", "deep", 0), "4:10", 1, "4:10"),
        (("chains", "two", "deep"), "4:9", 3, "4:3"),
    ],
)
def test_every_value_remembers_its_place(
    path: tuple[str | int, ...], place: str, width: int, key_place: str
) -> None:
    document = parse(PLACES, "g.yaml", {})

    assert str(document.place(path)) == f"g.yaml:{place}"
    assert document.place(path).width == width
    assert str(document.key_place(path)) == f"g.yaml:{key_place}"


def test_a_value_from_an_included_file_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)

    document = load("include.yaml", {})

    assert str(document.place(("routes", "fast", "targets"))) == "include.yaml:3:19"
    assert str(document.place(("routes", "red", "targets"))) == "teams/good-red.yaml:3:18"
    assert str(document.key_place(("server", "drain"))) == "teams/../loops/server.yaml:1:10"
    assert str(document.key_place(("callers",))) == "teams/good-red.yaml:4:1"


def test_every_file_that_was_read_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)

    included = load("include.yaml", {}).files
    secrets = load("secret_files.yaml", {}).files

    assert list(map(str, included)) == [
        "include.yaml",
        "teams/good-blue.yaml",
        "teams/good-red.yaml",
        "teams/../loops/server.yaml",
    ]
    assert list(map(str, secrets)) == ["secret_files.yaml", "secrets/key"]


def test_every_include_is_listed_so_that_new_files_can_be_found(tmp_path: Path) -> None:
    (tmp_path / "[a]").mkdir()
    (tmp_path / "[a]" / "b.yaml").write_text("include: c*.yaml")

    document = parse("include: ['[[]a]/b.yaml', /none*/d.yaml]", "g.yaml", {}, base=tmp_path)

    (tmp_path / "[a]" / "c1.yaml").touch()
    found = [glob.glob(pattern) for pattern in document.patterns]
    assert found == [[f"{tmp_path}/[a]/b.yaml"], [f"{tmp_path}/[a]/c1.yaml"], []]


def test_a_file_that_arrives_during_the_read_is_still_to_be_read(tmp_path: Path) -> None:
    class Slow(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            (tmp_path / "c" / "late.yaml").write_text("x-b: 1\n")
            return super().get(name, default)

    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.yaml").write_text("name: ${NAME}\n")
    (tmp_path / "g.yaml").write_text("include: c/*.yaml\n")
    document = load(tmp_path / "g.yaml", Slow(ENVIRON))

    assert [file.name for file in document.files] == ["g.yaml", "a.yaml"]
    assert document.versions_now() != document.versions


def test_what_came_from_the_environment_is_marked() -> None:
    text = "a: {b: '${A}', c: 'x${A}', d: x, e: $$A}\nf: ['${B:-x}', '${B:-${A}}']"

    document = parse(text, "g.yaml", {"A": "1"})

    assert document.expanded == {("a", "b"), ("a", "c"), ("f", 0), ("f", 1)}
    assert document.unset == set()


def test_what_an_alias_repeats_is_marked_wherever_it_is() -> None:
    document = parse("x-a: &a {k: '${A}'}\nb: *a\nc: {<<: *a}", "g.yaml", {})

    assert document.expanded == document.unset == {("b", "k"), ("c", "k")}
    assert len(document.problems) == 1


def test_a_check_without_the_environment_notes_what_it_could_not_know() -> None:
    text = "a: ${A}\nb: 'https://${B}/v1'\nc: ${file:/nowhere/at/all}\nd: ${C:-x}"

    document = parse(text, "g.yaml", {}, unset_ok=True)

    assert document.problems == []
    assert document.unset == {("a",), ("b",), ("c",)}
    assert document.value == {"a": "unset", "b": "https://unset/v1", "c": "unset", "d": "x"}


def test_an_include_that_is_not_known_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: ['${A}', b.yaml]")
    (tmp_path / "b.yaml").write_text("include: [c.yaml]")
    (tmp_path / "c.yaml").write_text("c: 1")

    assert load(tmp_path / "a.yaml", {}, unset_ok=True).value == {"c": 1}


def test_a_value_that_is_missing_counts_as_unset() -> None:
    document = parse("a: ${A}\nb: ${\nc: d", "g.yaml", {})

    assert len(document.problems) == 2
    assert document.unset == {("a",), ("b",)}


def test_a_secret_file_may_be_as_large_as_64_kib(tmp_path: Path) -> None:
    (tmp_path / "fits").write_text("x" * 64 * 1024)
    (tmp_path / "large").write_text("x" * 64 * 1024 + "\n")

    document = parse("a: ${file:fits}\nb: ${file:large}", "g.yaml", {}, base=tmp_path)

    assert len(document.value["a"]) == 64 * 1024
    assert [p.message for p in document.problems] == [
        "cannot read this file: it is larger than 64 KiB"
    ]


def test_only_line_ends_are_taken_off_a_secret_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b" ab \r\n")

    assert parse("a: '${file:key}'", "g.yaml", {}, base=tmp_path).value == {"a": " ab "}


def test_a_pipe_is_not_read_for_a_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    document = parse("a: ${file:pipe}\ninclude: pipe", "g.yaml", {}, base=tmp_path)

    assert len(document.problems) == 2


def test_a_file_that_is_not_there_is_a_problem_without_a_place(tmp_path: Path) -> None:
    document = load(tmp_path / "none.yaml", {})

    assert [str(problem) for problem in document.problems] == [
        f"cannot read {tmp_path}/none.yaml: No such file or directory"
    ]
    assert document.value == {}
    assert document.files == [tmp_path / "none.yaml"]
    assert str(document.place(("routes",))) == f"{tmp_path}/none.yaml:1:1"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_is_refused(encoding: str) -> None:
    document = parse("a: größer".encode(encoding), "g.yaml", {})

    assert document.value == {}
    assert len(document.problems) == 1


def test_utf_16_is_called_by_its_name() -> None:
    document = parse("a: b".encode("utf-16"), "g.yaml", {})

    assert str(document.problems[0]) == "g.yaml:1:1: this file is UTF-16; save it as UTF-8"


def test_a_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("# " + "x" * MAX_FILE)

    assert "larger than 1024 KiB" in load(tmp_path / "g.yaml", {}).problems[0].message


def test_files_may_include_each_other_eight_deep(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.yaml").write_text(f"include: {number + 1}.yaml\na: {{k{number}: 1}}")

    document = load(tmp_path / "0.yaml", {})

    assert [problem.message for problem in document.problems] == [
        "more than 8 files include each other in a row"
    ]
    assert set(document.value["a"]) == {f"k{number}" for number in range(9)}


def test_lines_are_those_of_an_editor() -> None:
    # PyYAML ends lines at U+0085 and U+2028 and gives U+FEFF no column.
    document = parse(
        'a: "\x85\u2028\ufeff"\nb: ${A}\r\nc: ${A}\rd: "\ufeff" \ne: ["${B}"]', "g", {}
    )

    places = [str(problem.place) for problem in document.problems]
    assert places == ["g:2:4", "g:3:4", "g:5:6"]


@pytest.mark.parametrize(
    "text",
    [
        "api_key: CANARY\ntll: [",
        "api_key:\n  CANARY: : x",
        "api_key: 'CANARY",
        "api_key: |\n  CANARY\n  CANARY ${A\nb: [",
        "api_key: *CANARY",
        "api_key: &CANARY x\nb: *CANAR",
        "api_key: !CANARY x",
        "keys: {CANARY: a, CANARY: b}",
        "keys: [CANARY, [CANARY, '${A}']]",
        "a: {api_key: CANARY, b: ${A}}",
        "a: {api_key: CANARY, b: '${A}', c: redis://u:CANARY@h, c: x}",
        "{api_key: CANARY, api_key: CANARY}",
        "x-k: &k CANARY\napi_key: *k\n'${a}': [*k, ",
        "api_key: ${A:-CANARY} ${B}",
        "password: '${A}CANARY'",
        "a: 1\na: 2 # password: CANARY",
    ],
)
def test_no_problem_shows_a_secret(text: str) -> None:
    problems = parse(text, "g.yaml", {}).problems

    assert problems
    assert "CANARY" not in "\n".join(f"{problem}{problem.github()}" for problem in problems)


def test_a_place_shows_no_secret_that_stands_on_its_line() -> None:
    text = "openai: {api_key: hunter2, model: a, keys: {k: v}, tokens: 2M/day}"

    source = parse(text, "g.yaml", {}).place(("openai", "model")).source

    assert source == "openai: {api_key: *******, model: a, keys: {*: *}, tokens: 2M/day}"


def test_billion_laughs_are_over_in_milliseconds() -> None:
    text = "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'lol'] * 10)}]\n" for n in range(30)
    )
    before = time.perf_counter()

    document = parse(text, "g.yaml", {})

    assert time.perf_counter() - before < 0.1
    assert "more than 20000 values" in document.problems[0].message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000,
        "- " * 10_000,
        "? " * 10_000,
        "{a: " * 10_000,
        "a: " + "${A:-" * 10_000,
        "a: '" + "${A}" * 10_000 + "'",
        "a: " + "}" * 10_000,
        "".join(f"k{n}: &k{n} {{<<: [*k{n - 1}, *k{n - 1}]}}\n" for n in range(1, 40)),
    ],
)
def test_what_is_meant_to_be_slow_is_not(text: str) -> None:
    before = time.perf_counter()

    parse(text, "g.yaml", {})

    assert time.perf_counter() - before < 2


def test_a_large_configuration_is_within_the_limits() -> None:
    text = "callers:\n" + "".join(
        f"  team-{n}: {{match: {{tenant: t{n}}}, models: [a, b], limits: {{requests: 5/s}}}}\n"
        for n in range(2000)
    )

    document = parse(text, "g.yaml", {})

    assert document.problems == []
    assert len(document.value["callers"]) == 2000


FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_CASES", "200")),
    deadline=2000,
    suppress_health_check=[HealthCheck.too_slow],
)
TOKENS = [
    *"{}[]:,-?!&*#|>'\"%@`~<\\\n\t\r $0aé\x85",
    *("\n  ", ": ", "- ", "---\n", "&a ", "*a", "<<: ", "!!int ", "\\ud800", "\ufeff"),
    *("${", "${A}", "${B}", "${A:-", "${file:", "$$", "api_key: ", "include: ", "x-a: "),
]
YAML = st.lists(st.sampled_from(TOKENS), max_size=60).map("".join)
CHARACTERS = st.characters(exclude_characters="$", exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS)
KEYS = st.text(CHARACTERS, max_size=50)  # YAML ends at 1024, escapes counted
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.fuzz
@FUZZ
@given(YAML | st.text() | st.binary())
def test_no_text_whatever_raises(text: str | bytes) -> None:
    document = parse(text, "g.yaml", {"A": "x"}, base="/nonexistent")

    assert isinstance(document.value, dict)
    for problem in document.problems:
        assert str(problem).startswith("g.yaml:")
        assert problem.github().startswith("::error file=g.yaml,")
    for path in document.expanded | document.unset:
        assert document.place(path).width >= 1


@pytest.mark.fuzz
@FUZZ
@given(JSON)
def test_json_is_yaml(value: object) -> None:
    document = parse(json.dumps({"top": value}), "g.yaml", {})

    assert document.problems == []
    assert document.value == {"top": value}
