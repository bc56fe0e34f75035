"""The image: what is in it, who runs it, and that it is what was tested."""

from __future__ import annotations

import re
from pathlib import Path

from .tools import DEPLOY, ROOT, program, said

LINES = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()
LINES = [line for line in LINES if not line.startswith("#")]
STAGES = [line.split()[3] for line in LINES if line.startswith("FROM")]


def stage(name: str) -> list[str]:
    """The lines of a stage, behind those of the stages that it is made from."""
    lines: list[str] = []
    for line in LINES[LINES.index(next(one for one in LINES if one.endswith(f" AS {name}"))) :]:
        if line.startswith("FROM"):
            if lines:
                break
            below = line.split()[1]
            lines += stage(below) if below in STAGES else []
        lines.append(line)
    return lines


def pins(name: str) -> dict[str, str]:
    """The pinned versions of a file of requirements, by package and marker."""
    found = re.findall(
        r"^([\w.-]+)==(\S+)([^\\\n]*)", (ROOT / "requirements" / name).read_text(), re.M
    )
    return {package + marker.strip(): version for package, version, marker in found}


def test_the_dockerfile_is_as_a_linter_wants_it() -> None:
    said(program("hadolint"), "--failure-threshold", "style", DEPLOY / "Dockerfile")


def test_what_runs_is_not_root_and_is_asked_whether_it_is_well_without_a_shell() -> None:
    for name in ("headrace", "local"):
        lines = stage(name)

        users = [line for line in lines if line.startswith("USER")]
        assert users[-1] == "USER 10001:10001"
        assert "STOPSIGNAL SIGTERM" in lines
        assert 'ENTRYPOINT ["headrace"]' in lines
        assert [line for line in lines if 'CMD ["headrace", "health"]' in line]
        assert not [line for line in lines if line.startswith(("ADD", "VOLUME"))]


def test_the_last_stage_is_the_one_without_a_model() -> None:
    assert STAGES[-1] == "headrace"
    assert not [line for line in stage("headrace") if "model" in line]


def test_nothing_is_installed_that_is_not_pinned_by_its_hash() -> None:
    installs = [line for line in LINES if re.search(r"\bpip\b.* install ", line)]

    assert installs
    for line in installs:
        assert "--require-hashes" in line or "--no-deps /wheels/" in line, line


def test_what_is_in_the_image_is_what_was_tested() -> None:
    tested = {name.partition(";")[0].strip(): version for name, version in pins("dev.txt").items()}

    for name in ("image.txt", "build.txt", "serve.txt"):
        shipped = pins(name)
        assert shipped, name
        for package, version in shipped.items():
            if ";" not in package:
                assert tested.get(package) == version, f"{name}: {package}"


def test_the_image_is_made_of_what_it_needs_and_nothing_else() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()

    assert allowed[1] == "*", "everything is left out that is not named"
    named = {line.removeprefix("!") for line in allowed if line.startswith("!")}
    assert named == {"LICENSE", "README.md", "plugins", "pyproject.toml", "requirements", "src"}
    copied = [
        word
        for line in LINES
        if line.startswith("COPY requirements")
        for word in line.split()[1:-1]
    ]
    for path in [*named, *copied]:
        assert (ROOT / path).exists(), path


def test_no_secret_has_a_place_in_it() -> None:
    for line in LINES:
        if line.startswith(("ARG", "ENV")):
            assert not re.search(r"(?i)key|token|password|secret", line), line
    assert not list(Path(DEPLOY).rglob(".env"))
