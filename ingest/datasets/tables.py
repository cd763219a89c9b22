"""Tables of text: LJSpeech's ``metadata.csv``, Common Voice's ``validated.tsv``, and any other TSV or CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.datasets.columns import Columns, find_audio
from triforce.ingest.datasets.utterance import DatasetConfig, Faulty, Item, Utterance, utterance_hash

COMMON_VOICE_SPLITS = ("test", "dev", "train", "validated")
"""Tables of a release that are read, in this order: the last one also holds the rows of the others."""
COMMON_VOICE_COLUMNS = frozenset({"client_id", "path", "sentence"})

Row = tuple[int, list[str] | None, str]
"""Number of a row's last line, its cells, and why there are none."""


def cells(path: Path, delimiter: str, quoted: bool) -> Iterator[Row]:
    """Yield the rows of a table. A row that is no UTF-8, or that the reader refuses, has no cells."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, None, str(error)
                continue
            if any("\udc80" <= char <= "\udcff" for cell in row if not cell.isascii() for char in cell):
                yield reader.line_num, None, "it is not UTF-8"
            elif row:
                yield reader.line_num, row, ""


def dialect(path: Path, config: DatasetConfig) -> tuple[str, bool]:
    """Return what separates the cells of a table, and whether they are quoted."""
    is_csv = path.suffix.lower() == ".csv"
    delimiter = config.delimiter or ("," if is_csv else "\t")
    return delimiter, is_csv if config.quoted is None else config.quoted


def header(path: Path, config: DatasetConfig) -> list[str]:
    """Return the names of a table's columns: those of its first row, or those that the settings name."""
    if config.names:
        return list(config.names)
    _, row, fault = next(cells(path, *dialect(path, config)), (0, None, "it is empty"))
    if row is None:
        raise ValueError(f"{path}: no header can be read: {fault}")
    return row


def read_table(
    path: Path, config: DatasetConfig, *, split: str | None = None, folder: Path | None = None
) -> Iterator[Item]:
    """Yield the rows of a TSV or CSV. Audio is looked for from ``folder`` on, by default the table's.

    Raises ValueError where the header names no audio or no text.
    """
    folder, split, group = folder or path.parent, split or path.stem, path.stem
    names = header(path, config)
    columns = Columns(names, config.columns, str(path))
    rows = cells(path, *dialect(path, config))
    if not config.names:
        next(rows)
    for line, row, fault in rows:
        if row is None or len(row) != len(names):
            fault = fault or f"{len(row or ())} cells, the header has {len(names)}"
            yield Faulty(
                f"{path.name}:{line}", RejectReason.BAD_METADATA, f"line {line} of {path.name}: {fault}", group
            )
            continue
        named = dict(zip(names, row, strict=True))
        audio = columns.get(named, "audio")
        if audio is None:
            yield Faulty(
                f"{path.name}:{line}", RejectReason.BAD_METADATA, f"line {line} of {path.name}: no audio", group
            )
            continue
        start = columns.get(named, "start")
        name = audio if start is None else f"{audio}#t={start}"
        yield columns.item(named, find_audio(folder, audio), name, group=group, split=split)


def read_common_voice(folder: Path, config: DatasetConfig) -> Iterator[Item]:
    """Yield the rows of a release of Common Voice: its test, dev and train splits, then the rest that is validated."""
    seen: set[str] = set()
    for split in COMMON_VOICE_SPLITS:
        path = folder / f"{split}.tsv"
        if not path.is_file():
            continue
        for item in read_table(path, config):
            mark = utterance_hash(item.utterance_id)
            if isinstance(item, Utterance) and split != COMMON_VOICE_SPLITS[-1]:
                seen.add(mark)
            elif mark in seen:
                continue
            yield item


def read_ljspeech(path: Path, config: DatasetConfig) -> Iterator[Item]:
    """Yield the rows of LJSpeech's ``metadata.csv``: id, text, and as a rule the text with its numbers spelt.

    Quotation marks are part of the text.
    """
    for line, row, fault in cells(path, "|", quoted=False):
        if row is None or not 2 <= len(row) <= 3 or not row[0]:
            fault = fault or f"{len(row or ())} cells, LJSpeech has 3: id|text|text"
            yield Faulty(f"{path.name}:{line}", RejectReason.BAD_METADATA, f"line {line} of {path.name}: {fault}")
            continue
        text = row[-1] or row[1] if config.text == "normalized" else row[1]
        yield Utterance(utterance_id=row[0], audio=find_audio(path.parent, row[0]), text=text)
