"""The pages as a whole: generated parts are fresh, links lead somewhere, and words are ours."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from .pages import PAGES, ROOT, Page

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """docs/make.py."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_page
def test_the_parts_made_of_the_code_are_fresh(page: Page, make: ModuleType) -> None:
    fresh = make.remade(page.path, page.text)
    pairs = zip(page.text.splitlines(), fresh.splitlines(), strict=False)
    line = next((n for n, (old, new) in enumerate(pairs, 1) if old != new), 0)

    assert fresh == page.text, f"{page.name}:{line}: this is stale; run `make docs`"
    begun = re.findall("^<!-- made of:", page.text, re.MULTILINE)
    assert len(begun) == len(make.PART.findall(page.text)), (
        f"{page.name}: a part lacks its <!-- end -->"
    )


@every_page
def test_links_lead_somewhere(page: Page) -> None:
    by_path = {each.path.resolve(): each for each in PAGES}
    for line, target in page.links:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.path.parent / path).resolve() if path else page.path
        assert found.exists(), f"{page.name}:{line}: nothing is at {target}"
        if anchor:
            known = by_path[found].anchors
            assert anchor in known, f"{page.name}:{line}: {path or page.name} has no #{anchor}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name.startswith(("docs/", "examples/"))],
    ids=lambda page: page.name,
)
def test_every_page_can_be_found(page: Page) -> None:
    if page.name in ("docs/README.md", "examples/README.md"):
        return
    linked = {
        (other.path.parent / target.partition("#")[0]).resolve()
        for other in PAGES
        if other != page
        for _, target in other.links
    }
    assert page.path in linked, f"{page.name}: no other page links to it"


# A machine's own paths, hosts of package registries, tools, and words that sell.
_FORBIDDEN = {
    r"(?<![\w.~/-])/(?:root|home|work|mnt|Users)/": "a path of somebody's machine",
    r"\bpypi\.\w+|\bpythonhosted\.|registry\.npmjs|\bdeb\.debian\b": "a registry's host",
    r"(?i)\b(?:claude|sessions?|helpers?|issues?)\b": "about how this was written",
    r"(?i)\b(?:seamless|blazing|powerful|robust|cutting-edge|world-class|effortless|leverag)\w*": (
        "a word that sells"
    ),
    r"(?i)\b(?:simply|just|easily|obviously|of course)\b": "a word that says nothing",
    "[\U0001f000-\U0001faff\u2600-\u27bf]": "a pictogram",
}


@every_page
def test_no_page_says_what_it_should_not(page: Page) -> None:
    for pattern, what in _FORBIDDEN.items():
        found = re.search(pattern, page.text)
        assert not found, (
            f"{page.name}:{page.line_of(found.start())}: {found[0]!r} is {what}; say it otherwise"
        )


def test_no_other_file_beside_the_pages_says_it_either() -> None:
    files = [
        path
        for folder in ("docs", "examples", "deploy", "tests/docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".toml")
    ]
    assert files
    for path in files:
        for pattern, what in list(_FORBIDDEN.items())[:2]:
            text = path.read_text()
            found = re.search(pattern, text)
            line = text.count("\n", 0, found.start()) + 1 if found else 0
            assert not found, f"{path.relative_to(ROOT)}:{line}: {found[0]!r} is {what}"
