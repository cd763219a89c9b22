"""Files of JSON, a value a line, plain or packed by gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Yield each line's number, its object, and why there is none: no JSON, no object, no UTF-8.

    An archive that breaks off ends with such a line.
    """
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        while True:
            number += 1
            try:
                line = file.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield number, None, f"the archive breaks off: {error}"
                return
            if not line:
                return
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                yield number, None, f"no JSON: {error}"
                continue
            yield (number, found, "") if isinstance(found, dict) else (number, None, "no JSON object")


def first_object(path: Path) -> dict[str, Any]:
    """Return the first object of a file; an empty one where there is none."""
    return next((found for _, found, _ in read_lines(path) if found is not None), {})


def name_without_endings(path: Path) -> str:
    """Return a file's name without ``.jsonl``, ``.json`` and ``.gz``."""
    return path.name.split(".json")[0].split(".ndjson")[0]
