"""Every block on every page: read, compiled, checked or run, and none left out."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import yaml

from headrace import ConfigError
from headrace.cli import _COMMANDS
from headrace.cli.group import group
from headrace.config.build import build
from headrace.config.document import parse

from .pages import BLOCKS, PAGES, ROOT, WORDS, Block, Page, blocks, place
from .projects import PROJECTS
from .serving import MOCK, ran

YAML = [block for block in blocks("yaml") if not block.words.keys() & {"wrong", "other"}]
SHELL = {
    *("curl", "export", "openssl", "pip", "printf", "pytest", "python", "sha256sum", "uvicorn"),
    *("docker", "grep", "helm", "install", "kubectl", "systemctl", "tail", "useradd"),
}
"""Commands, beside headrace and make, that a page may tell people to type."""
KEYS = ROOT / "examples" / "api-keys"
"""Where parts of a configuration find the `keys.yaml` that they may name."""
UPSTREAMS = ("openai", "azure", "ollama", "local", "a", "b", "c")
"""Those that parts of a configuration may name as targets."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_a_block_and_every_word_behind_it_means_something(page: Page) -> None:
    fences = len(re.findall(r"^ *(?:```|~~~)", page.text, re.MULTILINE))
    assert fences == 2 * len(page.blocks), f"{page.name}: a fence is not closed"
    if page.name == "examples/plugin/README.md":
        return  # its only block is a list of commands, which test_example_plugin.py runs
    indented = re.search(r"(?m)^(?:\n|\A)(?: {4}|\t)(?![-*\d ])", page.prose)
    assert not indented, (
        f"{page.name}:{page.line_of(indented.end())}: this block has no fence, so nothing tests it"
    )
    for block in page.blocks:
        assert block.language in WORDS, (
            f"{block.place}: no test knows blocks of {block.language or 'no language'!r}; "
            f"there are {', '.join(WORDS)}"
        )
        unknown = block.words.keys() - WORDS[block.language]
        assert not unknown, f"{block.place}: no test knows what {unknown} means"


# YAML


@pytest.mark.parametrize("block", YAML, ids=place)
def test_yaml_is_a_configuration_without_problems(block: Block) -> None:
    for environ in ({}, _environ(block.text)):
        problems = problems_of(block, environ)
        assert not problems, "\n".join(problems)


@pytest.mark.parametrize("block", blocks("yaml", "wrong"), ids=place)
def test_what_is_wrong_is_told_in_the_words_on_the_page(block: Block) -> None:
    following = next(b for b in BLOCKS if b.page == block.page and b.line > block.line)
    assert following.language == "text", f"{following.place}: here the problems should be told"

    told = problems_of(block, {}, name="gateway.yaml", padded=False)

    assert "\n".join(told) == following.text.rstrip("\n"), (
        f"{following.place}: it is told otherwise"
    )


@pytest.mark.parametrize("block", blocks("yaml", "other"), ids=place)
def test_other_yaml_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text) is not None, f"{block.place}: there is nothing in it"


def problems_of(
    block: Block, environ: dict[str, str], *, name: str | None = None, padded: bool = True
) -> list[str]:
    """What `headrace check` says of a block, the lines counted as on its page."""
    text = _wrapped(block) if padded else block.text
    # Without an environment, the file is read as `check --unset-ok` reads it.
    document = parse(text, name or block.page.name, environ, base=KEYS, unset_ok=not environ)
    try:
        with chdir(KEYS):
            build(document)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def _wrapped(block: Block) -> str:
    """The block below the keys it belongs to, and upstreams for the targets it names."""
    if "in" not in block.words:
        return block.padded
    keys = [key for key in block.words["in"].split(".") if key]
    above = ["  " * depth + f"{key}:" for depth, key in enumerate(keys)]
    assert block.line > len(above), f"{block.place}: too near to the top for its keys"
    lines = ["  " * len(keys) + line if line else "" for line in block.text.splitlines()]
    text = "\n".join(["" for _ in range(block.line - 1 - len(above))] + above + lines) + "\n"
    if re.search("^upstreams:", text, re.MULTILINE):
        return text
    return text + f"upstreams: {{{', '.join(f'{name}: mock' for name in UPSTREAMS)}}}\n"


def _environ(text: str) -> dict[str, str]:
    """A value for each variable; a key is as long as keys should be."""
    return {name: _KEY if re.search("KEY|TOKEN", name) else "1" for name in _variables(text)}


_KEY = "0f3c9a51d7e84b62a5f0c1d29e7b8346"


def _variables(text: str) -> list[str]:
    return re.findall(r"\$\{([A-Za-z_]\w*)", text)


# Python


@pytest.mark.parametrize("block", blocks("python"), ids=place)
def test_python_compiles(block: Block) -> None:
    compile(block.padded, block.page.name, "exec")


@pytest.mark.parametrize(
    "block", [b for b in blocks("python", "run") if b.words["run"] != "gateway"], ids=place
)
async def test_python_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(MOCK)

    status, printed = await run_python(block, block.padded, tmp_path)

    assert status == 0, f"{block.place}: it failed\n{printed}"


async def run_python(block: Block, text: str, folder: Path) -> tuple[int, str]:
    """Run a block's text; a traceback names its page and line."""
    program = f"exec(compile({text!r}, {block.page.name!r}, 'exec'), {{'__name__': '__main__'}})"
    return await ran(["python", "-W", "error::SyntaxWarning", "-c", program], folder)


def test_every_file_belongs_to_a_page_whose_files_are_tested() -> None:
    strays = [block.place for block in BLOCKS if "file" in block.words and not _tested(block)]
    assert not strays, f"{strays}: nothing tests these files; see projects.py"


def _tested(block: Block) -> bool:
    return block.page.name in PROJECTS


# The shell


@pytest.mark.parametrize("block", blocks("sh"), ids=place)
def test_every_command_exists(block: Block) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line, words in _commands(block):
        where = f"{block.page.name}:{line}"
        match words:
            case ["headrace", *arguments]:
                _check_headrace(arguments, where)
            case ["make", *names]:
                unknown = set(names) - targets
                assert not unknown, f"{where}: the Makefile has no target {unknown}"
            case ["python", "-m", module, *_]:
                assert find_spec(module), f"{where}: there is no module {module}"
            case [command, *_]:
                assert command in SHELL, f"{where}: no test knows the command {command!r}"


def _commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Each command of a block as words, with its line; those in `$(…)` too."""
    text = block.text.replace("\\\n", "  ")
    for number, line in enumerate(text.splitlines()):
        inner = re.findall(r"\$\(([^()]*)\)", line)
        for command in (re.sub(r"\$\([^()]*\)", "X", line), *inner):
            lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word in ("|", "||", "&&", "&", ";"):
                    while words and re.match(r"\w+=", words[0]):
                        words.pop(0)
                    if words:
                        name = re.sub(r"^(?:\.venv|/opt/headrace)/bin/", "", words[0])
                        yield block.line + number, [name, *words[1:]]
                    words = []
                else:
                    words.append(word)


def _check_headrace(arguments: list[str], where: str) -> None:
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    commands = group(_COMMANDS)
    if arguments[:1] == ["--version"]:
        return
    name, *rest = arguments or [""]
    context = click.Context(commands, info_name="headrace")
    command = commands.get_command(context, name)
    assert command, f"{where}: there is no command 'headrace {name}'"
    try:
        command.make_context(name, list(rest), parent=context)
    except click.exceptions.Exit:
        pass  # --help
    except click.UsageError as error:
        pytest.fail(f"{where}: headrace {name}: {error.format_message()}")


# Others


@pytest.mark.parametrize("block", blocks("json"), ids=place)
def test_json_can_be_read(block: Block) -> None:
    try:
        json.loads(block.text)
    except json.JSONDecodeError as error:
        pytest.fail(f"{block.page.name}:{block.line + error.lineno - 1}: {error}")


@pytest.mark.parametrize("block", blocks("toml"), ids=place)
def test_toml_can_be_read(block: Block) -> None:
    try:
        tomllib.loads(block.text)
    except tomllib.TOMLDecodeError as error:
        pytest.fail(f"{block.place}: {error}")


def test_the_tests_of_blocks_are_not_blind() -> None:
    """What is wrong on a page is found, at its line."""
    page = Page(ROOT / "docs" / "nowhere.md")
    text = "# x\n\n```yaml in=server\ntypo: 1\n```\n\n```sh\nheadrace chek\nmake nothing\n```\n"
    page.__dict__["text"] = text
    wrong, shell = page.blocks

    [problem] = problems_of(wrong, {})
    assert problem.startswith("docs/nowhere.md:4:3: server has no option 'typo'")
    with pytest.raises(AssertionError, match=r"docs/nowhere\.md:8: there is no command"):
        test_every_command_exists(shell)
