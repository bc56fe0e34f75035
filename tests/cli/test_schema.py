"""`headrace schema`: the schema, as a file that editors read."""

from __future__ import annotations

import json

from headrace.config.schema import schema

from .running import headrace


def test_it_prints_the_schema_and_nothing_else() -> None:
    told = headrace("schema")

    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads(told.stdout) == schema()
