"""``--set a.b=value`` on the command line."""

from __future__ import annotations

import re
from typing import Any


def each_set(arguments: list[str]) -> list[str]:
    """Return the arguments with ``--set`` before each setting of a row, so that ``--set a=1 b=2`` may be written."""
    spelt: list[str] = []
    in_row = False
    for argument in arguments:
        in_row = argument == "--set" or (in_row and re.match(r"[a-z]\w*([.-]\w+)*=", argument) is not None)
        if in_row and argument != "--set" and spelt[-1] != "--set":
            spelt.append("--set")
        spelt.append(argument)
    return spelt


def merged(fields: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    """Put ``a.b=value`` settings into ``fields`` and return them; values are YAML, so numbers, lists and null work."""
    import yaml

    for setting in settings or []:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ValueError(f"--set {setting!r}: give a name and a value, as in --set max_steps=2000")
        *parents, name = path.replace("-", "_").split(".")
        place = fields
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting!r}: the value is not readable: {error}") from error
    return fields
