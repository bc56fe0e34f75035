"""The tables of docs/scaling.md that are measured: `python -m tests.scaling` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .carried import Carried
from .fleet import BURST, Outcome
from .spent import Spent

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def of_limits(outcomes: Iterable[Outcome]) -> str:
    """What becomes of a limit, in each situation."""
    rows = [
        (
            each.situation,
            f"{each.asked:,}",
            f"{each.let_in:,}",
            f"{each.allowed:,.0f}",
            f"{each.above:,.0f} of {BURST}",
            "{}, {:g}, {}".format(*each.shares),
        )
        for each in outcomes
    ]
    heads = (
        *("situation", "calls", "let in", "the limit says", "beyond the rate"),
        "let in by a replica",
    )
    return _table(heads, rows)


def of_store(found: Iterable[Carried]) -> str:
    """What a store is asked for a call."""
    rows = [
        (each.what, f"{each.questions:g}", _about(each.to), _about(each.back)) for each in found
    ]
    return _table(("a call that meets", "questions", "bytes there", "back"), rows)


def of_spent(found: Iterable[Spent]) -> str:
    """What a call costs a gateway."""
    rows = [(each.what, f"{each.millis:.1f}", f"{each.millis / each.bare:.1f}") for each in found]
    return _table(("1,000 calls", "seconds of a processor", "times the bare one"), rows)


def written(name: str) -> str:
    """A table as it stands on the page."""
    return _part(name, PAGE.read_text())["table"]


def write(name: str, table: str) -> None:
    """Put a table onto the page."""
    text = PAGE.read_text()
    start, end = _part(name, text).span("table")
    PAGE.write_text(text[:start] + table + text[end:])


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row, by the first."""
    lines = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    return {first: cells for first, *cells in lines}


def _part(name: str, text: str) -> re.Match[str]:
    pattern = rf"<!-- measured: {name} -->\n(?P<table>.*?\n)<!-- end -->"
    found = re.search(pattern, text, re.DOTALL)
    assert found, f"{PAGE.name}: it has no part '<!-- measured: {name} -->'"
    return found


def _about(number: float) -> str:
    """A figure without the digits that mean nothing."""
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 1 else "0" if number < 0.5 else "1"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]]) + "\n"
