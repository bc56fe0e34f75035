"""The pages of this repository, and what is on them: blocks, headings, links.

What a block is for stands behind its language, where no reader of the rendered page sees it:

    yaml                a whole gateway.yaml
    yaml in=server      a part of one, below these keys ("." is the top)
    yaml wrong          one with problems; the next block says which
    yaml other=NAME     YAML for something else, such as a workflow
    python              is compiled
    python run          is run, beside a gateway.yaml with a mock
    python run=gateway  is run while a gateway answers on 127.0.0.1:8080
    python file=NAME    is a file; the page's files together are tested as they stand
    sh                  its commands exist
    sh run=gateway      is run while a gateway answers on 127.0.0.1:8080
    json, toml          are read
    text                is for people
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

WORDS = {
    "yaml": {"in", "wrong", "other", "file"},
    "python": {"run", "file"},
    "sh": {"run"},
    "json": set[str](),
    "toml": {"file"},
    "text": set[str](),
}
"""The languages of blocks, and the words that may stand behind them."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<info>[^\n]*)\n"
    r"(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Page
    line: int
    """Where its first line stands on the page, counted from 1."""
    language: str
    words: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.name}:{self.line}"

    @property
    def padded(self) -> str:
        """The text behind as many empty lines as stand above it, so that messages name its line."""
        return "\n" * (self.line - 1) + self.text


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """What it says."""
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """The same with every block blanked, line by line."""
        return _FENCE.sub(lambda block: "\n" * block[0].count("\n"), self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """Its fenced blocks."""
        return list(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        for found in _FENCE.finditer(self.text):
            language, *words = found["info"].split() or [""]
            indent = len(found["indent"])
            lines = [line[indent:] for line in found["text"].splitlines()]
            yield Block(
                page=self,
                line=self.line_of(found.start("text")),
                language=language,
                words={name: value for name, _, value in (word.partition("=") for word in words)},
                text="\n".join([*lines, ""]),
            )

    @cached_property
    def anchors(self) -> set[str]:
        """What its headings are called in links, as GitHub makes them."""
        return {_slug(found[1]) for found in _HEADING.finditer(self.prose)}

    @cached_property
    def links(self) -> list[tuple[int, str]]:
        """Line and target of each link."""
        prose = re.sub(r"`[^`\n]*`", lambda code: " " * len(code[0]), self.prose)
        return [(self.line_of(found.start()), found[1]) for found in _LINK.finditer(prose)]

    def line_of(self, offset: int) -> int:
        """The line that holds this offset."""
        return self.text.count("\n", 0, offset) + 1 if offset else 1


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _pages() -> Iterator[Page]:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        yield Page(ROOT / name)
    for folder in ("docs", "examples", "deploy"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            yield Page(path)


PAGES = list(_pages())
BLOCKS = [block for page in PAGES for block in page.blocks]


def blocks(language: str, *words: str) -> list[Block]:
    """The blocks of a language that have all of these words."""
    return [
        block for block in BLOCKS if block.language == language and block.words.keys() >= set(words)
    ]


def place(block: Block) -> str:
    """What to call a block in a report."""
    return block.place
