"""Pages whose blocks are the files of a project that is tested as it stands."""

from __future__ import annotations

from pathlib import Path

from .pages import PAGES, Page

PROJECTS = ("docs/writing-a-plugin.md", "docs/testing.md")


def written(name: str, folder: Path) -> Page:
    """Write the files of a page into a folder; blocks of one file are put together in order."""
    page = next(page for page in PAGES if page.name == name)
    files: dict[str, list[str]] = {}
    for block in page.blocks:
        if "file" in block.words:
            files.setdefault(block.words["file"], []).append(block.text)
    for file, texts in files.items():
        (folder / file).write_text("\n\n".join(texts))
    return page
