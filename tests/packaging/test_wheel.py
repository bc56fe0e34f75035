"""The wheel in an empty environment: small, complete, and quick to start."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_PACKAGES = 24
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-compile"]
    pinned = ["-c", str(_constraints(folder)), str(wheel)]
    done = subprocess.run([*pip, *pinned], capture_output=True, text=True, timeout=300)
    if "Could not find a version" in done.stderr or "Connection" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def _constraints(folder: Path) -> Path:
    """The versions that are pinned for serving, without their hashes."""
    lines = (ROOT / "requirements/serve.txt").read_text().splitlines()
    pins = [line.removesuffix("\\").strip() for line in lines if "==" in line]
    file = folder / "constraints.txt"
    file.write_text("\n".join(pins))
    return file


def test_both_packages_and_their_marks_are_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    for name in (
        "headrace/__init__.py",
        "headrace/py.typed",
        "headrace_plugins/py.typed",
        "headrace_plugins/forwarders/openai.py",
    ):
        assert name in names
    assert not [name for name in names if name.endswith(".pth") or "tests" in name.split("/")]


def test_the_base_installation_is_small(installed: Path) -> None:
    packages = installed / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"

    found = [path.name for path in packages.glob("*.dist-info")]
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())

    assert len(found) <= MOST_PACKAGES, found
    assert size <= MOST_BYTES


def test_the_command_tells_its_version_and_its_plugins(installed: Path) -> None:
    command = str(installed / "bin" / "headrace")

    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    listed = subprocess.run(
        [command, "plugins", "--json"], capture_output=True, text=True, check=True
    )

    assert version.stdout.startswith("headrace ")
    assert {"api_key", "fallback", "retry"} <= set(json.loads(listed.stdout)["plugins"])


def test_it_serves_without_a_file_and_says_that_it_is_a_mock(
    installed: Path, tmp_path: Path
) -> None:
    command = [str(installed / "bin" / "headrace"), "serve", "--port", "0"]
    environ = {"PATH": "", "HOME": str(tmp_path), "OLLAMA_HOST": "127.0.0.1:9"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said: list[str] = []
    try:
        while "curl" not in "".join(said[-1:]):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
    finally:
        process.terminate()
        process.communicate(timeout=10)

    text = "".join(said)
    assert "mock: says that it is a mock" in text
    assert "runs on asyncio, h11, httpx2" in text
    assert process.returncode == 0
