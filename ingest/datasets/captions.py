"""Captions of pictures: from tables that name files and texts.

A table is CSV, TSV or lines of JSON. One named ``metadata.csv`` or ``metadata.jsonl`` in the folder of pictures or
below is found by itself, which is how Hugging Face lays a folder of images out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triforce.ingest.datasets.tables import Row, cells
from triforce.ingest.json_lines import ENDINGS as JSON_ENDINGS
from triforce.ingest.json_lines import first_object, read_lines

DELIMITERS = {".csv": ",", ".tsv": "\t"}
METADATA = ("metadata.csv", "metadata.jsonl")
NAMES = {
    "file": ("file_name", "file", "filename", "image", "image_path", "image_file", "path", "name"),
    "text": ("text", "caption", "captions", "texts", "description", "sentence", "prompt", "label", "title"),
}
"""What tables call the two columns, the likeliest first."""


@dataclass
class Captions:
    """What tables say of the files of a folder."""

    texts: dict[Path, list[str]] = field(default_factory=dict)
    """By absolute path, in the order of the rows; a file may have several."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each row that gives no caption."""


def find_tables(folder: Path) -> list[Path]:
    """Return the tables below a folder that Hugging Face's layout names."""
    return sorted(path for name in METADATA for path in folder.rglob(name) if path.is_file())


def read_captions(tables: Collection[Path], folder: Path, columns: Mapping[str, str]) -> Captions:
    """Read what ``tables`` say of files in ``folder``.

    A file is looked for from the table's folder on, then from ``folder`` on. ``columns`` names the columns ``file`` and
    ``text`` where they have unusual names. Raises ValueError for a table without these columns or of another kind,
    FileNotFoundError for one that is not there.
    """
    if unknown := sorted(columns.keys() - NAMES.keys()):
        raise ValueError(f"columns.{unknown[0]}: use columns.file and columns.text")
    found, root = Captions(), folder.resolve()
    for table in tables:
        names = _names(table)
        file_column, text_column = (_column(names, role, columns, table) for role in ("file", "text"))
        for where, row, fault in _rows(table, names):
            if row is None:
                found.problems.append(f"{where}: {fault}")
                continue
            name = row.get(file_column)
            path, texts = _file(name, table, root), _texts(row.get(text_column))
            if path is None:
                found.problems.append(f"{where}: {name!r} is no file below {folder}")
            elif not texts:
                found.problems.append(f"{where}: no text for {name!r}")
            else:
                known = found.texts.setdefault(path, [])
                known.extend(text for text in texts if text not in known)
    return found


def _names(table: Path) -> list[str]:
    """Return the names of a table's columns."""
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such table of captions")
    if table.name.lower().endswith(JSON_ENDINGS):
        return list(first_object(table))
    if table.suffix.lower() not in DELIMITERS:
        raise ValueError(f"{table}: captions are read from .csv, .tsv or .jsonl, not from {table.suffix or 'this'!r}")
    _, names, fault = next(_cells(table), (0, None, "it is empty"))
    if names is None:
        raise ValueError(f"{table}: no header can be read: {fault}")
    return names


def _rows(table: Path, names: list[str]) -> Iterator[tuple[str, Mapping[str, Any] | None, str]]:
    """Yield where each row is, its values by column, and why there are none."""
    if table.name.lower().endswith(JSON_ENDINGS):
        yield from ((f"{table.name}:{line}", row, fault) for line, row, fault in read_lines(table))
        return
    rows = _cells(table)
    next(rows)
    for line, row, fault in rows:
        fits = row is not None and len(row) == len(names)
        words = fault or f"{len(row or ())} cells, the header has {len(names)}"
        yield f"{table.name}:{line}", dict(zip(names, row or (), strict=True)) if fits else None, words


def _cells(table: Path) -> Iterator[Row]:
    delimiter = DELIMITERS[table.suffix.lower()]
    return cells(table, delimiter, quoted=delimiter == ",")


def _column(names: Collection[str], role: str, chosen: Mapping[str, str], table: Path) -> str:
    wanted = (chosen[role],) if role in chosen else NAMES[role]
    for name in wanted:
        if name in names:
            return name
    there = ", ".join(map(repr, names))
    raise ValueError(
        f"{table}: no column of {role}, as {wanted[0]!r}; name it by --set columns.{role}=NAME, of {there}"
    )


def _file(name: Any, table: Path, root: Path) -> Path | None:
    """Return the file that a row names; None where there is none, or it is outside of the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    for start in (table.parent, root):
        path = Path(os.path.normpath(start.resolve() / name))
        if path.is_relative_to(root) and path.is_file():
            return path
    return None


def _texts(value: Any) -> list[str]:
    """Return the texts of a cell, spaces made one, without empty ones; a key of JSON may hold several."""
    values = value if isinstance(value, list) else [value]
    return [text for one in values if isinstance(one, str | int | float) and (text := " ".join(str(one).split()))]
