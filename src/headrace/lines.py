"""Lines of JSON, as logs have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson


def json_line(members: Mapping[str, Any]) -> str:
    """A line of JSON without the members that are None; what JSON does not know is told as text.

    Nothing in it moves a terminal's cursor, ends the line or turns it, whoever chose the text.
    """
    present = {name: value for name, value in members.items() if value is not None}
    try:
        line = orjson.dumps(present, default=str).decode()
    except TypeError:  # text that is no Unicode, or a number without end
        line = ""
    return line if line and line.isprintable() else json.dumps(present, default=str)
