"""examples/plugin: a stranger's package is installed, found and used, and nothing here knows it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example without its source, so that what is used is what was installed."""
    folder = tmp_path_factory.mktemp("example") / "plugin"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "src"))
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's wheel installed in it."""
    built, target = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, built / "source")
    run("build", "--wheel", "--no-isolation", "--outdir", built, source)
    [wheel] = built.glob("*.whl")
    run("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def run(
    module: str, *arguments: str | Path, path: Path | None = None, cwd: Path | None = None
) -> str:
    """What `python -m module` prints, with `path` among the places packages are found in."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, cwd=cwd, env=environ(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environ(path: Path | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "PORT": "0", **({"PYTHONPATH": str(path)} if path else {})}


def test_its_own_tests_pass(example: Path, installed: Path) -> None:
    told = run("pytest", "-q", "-p", "no:cacheprovider", "tests", path=installed, cwd=example)

    passed = re.search(r"(\d+) passed", told)
    assert passed
    assert int(passed[1]) > 40


def test_it_is_listed_with_its_sentences(installed: Path) -> None:
    assert "shout" in run("headrace", "plugins", path=installed)
    assert "Whose answers are in capitals" in run("headrace", "plugins", "shout", path=installed)


def test_its_gateway_is_understood(example: Path, installed: Path) -> None:
    file = example / "gateway.yaml"

    told = run("headrace", "explain", file, "--model", "any", path=installed)

    assert "shout" in told.split()


def test_without_it_the_gateway_says_what_is_missing(example: Path) -> None:
    with pytest.raises(AssertionError, match=r"gateway\.yaml:6:17: no plugin is called .*shout"):
        run("headrace", "check", example / "gateway.yaml")


@pytest.fixture(scope="module")
def url(example: Path, installed: Path) -> Iterator[str]:
    """Where its gateway is served."""
    command = [sys.executable, "-m", "headrace", "serve", str(example / "gateway.yaml")]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environ(installed),
    ) as process:  # fmt: skip
        assert process.stderr
        for line in process.stderr:
            if live := re.search(r"is live at (\S+)", line):
                yield live[1]
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_passes_through_it(url: str, stream: bool) -> None:
    said = {"model": "any", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    request = Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(said).encode(),
        headers={"content-type": "application/json"},
    )

    with urlopen(request, timeout=10) as response:
        answer = response.read().decode()

    words = re.findall(r'"content":"([^"]*)"', answer)
    assert "".join(words) == "HELLO FROM A MOCK."
