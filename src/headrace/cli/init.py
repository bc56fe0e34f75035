"""`headrace init`."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from headrace.cli.group import default_file
from headrace.config.problems import did_you_mean

_KEYS = "keys.yaml"
_NOT_PRESETS = ("environment",)


@click.command("init")
@click.argument("words", nargs=-1, metavar="[PRESET] [FILE]")
@click.option("--from-env", is_flag=True, help="Make it of variables such as OPENAI_API_KEY.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(words: tuple[str, ...], from_env: bool, force: bool) -> None:
    """Write a commented gateway.yaml from PRESET; without one, list the presets.

    FILE is gateway.yaml, or what HEADRACE_CONFIG names, unless it is given; - is standard output.
    With --from-env there is no PRESET: the file is made of variables that are set. It names them
    and holds none of their values; what was found and what was left out is told. Nobody is asked.
    """
    if not (words or from_env):
        click.echo(_listed())
        return
    preset, *rest = ("", *words) if from_env else words
    if len(rest) > 1:
        raise click.UsageError(f"{rest[1]!r} is one word too many")
    file = rest[0] if rest else default_file()
    if file != "-" and Path(file).exists() and not force:
        raise click.ClickException(f"{file} is there already; --force writes over it")
    text = _from_environment() if from_env else _preset(preset)
    if file == "-":
        click.echo(text, nl=False)
        return
    _write(Path(file), text, force=force)
    _tell(file, text)
    if from_env:
        _check(Path(file), text)


def _listed() -> str:
    """Every preset with its sentence, which is the second line of its file."""
    presets = _presets()
    width = max(map(len, presets))
    sentences = {name: file.read_text().splitlines()[1][2:] for name, file in presets.items()}
    lines = [f"  {name:<{width}}  {sentence}" for name, sentence in sentences.items()]
    end = "`headrace init --from-env` makes a file of variables that you have."
    return "\n".join(["headrace init PRESET writes a gateway.yaml:", "", *lines, "", end])


def _presets() -> dict[str, Traversable]:
    folder = files("headrace") / "presets"
    found = {file.name.removesuffix(".yaml"): file for file in folder.iterdir()}
    return {name: found[name] for name in sorted(found) if name not in _NOT_PRESETS}


def _preset(name: str) -> str:
    presets = _presets()
    if name not in presets:
        hint = did_you_mean(name, presets) or f"; there are {', '.join(presets)}"
        raise click.UsageError(f"there is no preset {name!r}{hint}")
    return presets[name].read_text()


def _from_environment() -> str:
    from headrace.cli.init_environment import written

    text, said = written(os.environ)
    for line in said:
        click.echo(line, err=True)
    if text is None:
        raise click.ClickException(
            "no model is found by the variables that are set, so nothing is written; set one such "
            "as OPENAI_API_KEY or OLLAMA_BASE_URL, or take a preset: `headrace init` lists them"
        )
    return text


def _write(file: Path, text: str, *, force: bool) -> None:
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
        if _KEYS in text and not (file.parent / _KEYS).exists():
            _write_keys(file.parent / _KEYS)
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from None


def _write_keys(file: Path) -> None:
    """A file of keys without any: the gateway starts, and lets nobody in."""
    from headrace.key_file import KeyFile

    with KeyFile(file).changing():
        pass
    click.echo(f"{file}: written; it has no key yet, so nobody is let in", err=True)


def _tell(file: str, text: str) -> None:
    """What was done, and what to do now, as lines that work when they are pasted."""
    click.echo(f"{file}: written", err=True)
    wanted = re.findall(r"^[^#\n]*\$\{(\w+)\}", text, re.MULTILINE)
    for name in dict.fromkeys(wanted):
        if not os.environ.get(name):
            click.echo(f"  export {name}=…", err=True)
    if _KEYS in text:
        keys = Path(file).parent / _KEYS
        elsewhere = "" if keys == Path(_KEYS) else f" --file {keys}"
        click.echo(f"  headrace keys add NAME{elsewhere}", err=True)
    named = "" if file == default_file() else f" {file}"
    for name in ("check", "serve"):
        click.echo(f"  headrace {name}{named}", err=True)


def _check(file: Path, text: str) -> None:
    """Raise `ConfigError` with every problem that the values of variables make."""
    from headrace.config.build import build
    from headrace.config.document import parse

    build(parse(text, str(file), os.environ, base=file.parent))
