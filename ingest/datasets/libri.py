"""LibriSpeech and LibriTTS: a folder a chapter, below one a reader, below one a subset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.datasets.utterance import DatasetConfig, Faulty, Item, Utterance

TRANSCRIPTS = ".trans.txt"
TEXTS = {"normalized": ".normalized.txt", "original": ".original.txt"}
AUDIO = (".flac", ".wav", ".mp3", ".ogg", ".opus")
READERS = ("SPEAKERS.TXT", "SPEAKERS.txt", "speakers.tsv")
"""Lists of readers: of LibriSpeech with bars between id, sex, subset, minutes and name, of LibriTTS with tabs."""


def read_librispeech(root: Path, config: DatasetConfig) -> Iterator[Item]:
    """Yield the utterances of each chapter: lines of an id and a text in ``<reader>-<chapter>.trans.txt``."""
    names = reader_names(root)
    for chapter, files in _chapters(root):
        place = _place(chapter, names)
        audio = {Path(name).stem: name for name in files if name.endswith(AUDIO)}
        for transcript in (name for name in files if name.endswith(TRANSCRIPTS)):
            for number, line in enumerate(_read(chapter / transcript).splitlines(), start=1):
                name, _, text = line.partition(" ")
                if "\ufffd" in line or not name or "-" not in name:
                    where = f"line {number} of {transcript}"
                    yield Faulty(
                        f"{transcript}:{number}", RejectReason.BAD_METADATA, f"{where}: no id and text", place["group"]
                    )
                    continue
                path = str(chapter / audio.get(name, f"{name}.flac"))
                yield Utterance(utterance_id=name, audio=path, text=text, **place)


def read_libritts(root: Path, config: DatasetConfig) -> Iterator[Item]:
    """Yield the utterances of each chapter: an audio file each, with its text beside it in a file of its own."""
    names, ending = reader_names(root), TEXTS[config.text]
    for chapter, files in _chapters(root):
        place = _place(chapter, names)
        audio = {Path(name).stem: name for name in files if name.endswith(AUDIO)}
        texts = {name.removesuffix(ending): name for name in files if name.endswith(ending)}
        for name in sorted(audio.keys() | texts.keys()):
            path = str(chapter / audio.get(name, f"{name}.wav"))
            text = _read(chapter / texts[name]).rstrip("\r\n") if name in texts else None
            if text is not None and "\ufffd" in text:
                yield Faulty(name, RejectReason.BAD_METADATA, f"{texts[name]} is not UTF-8", place["group"])
                continue
            yield Utterance(utterance_id=name, audio=path, text=text, **place)


def reader_names(root: Path) -> dict[str, str]:
    """Return the readers' names by their ids, where a list of them lies in the folder or in one of two above it."""
    found: dict[str, str] = {}
    for folder in (root, *list(root.parents)[:2]):
        for path in (folder / name for name in READERS):
            if path.is_file() and not found:
                for line in _read(path).splitlines():
                    parts = [part.strip() for part in line.split("\t" if path.suffix == ".tsv" else "|")]
                    if len(parts) > 1 and parts[0].isdigit():
                        found[parts[0]] = parts[-1]
    return found


def _chapters(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with files, in the order of their paths, and the names of its files."""
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        if files:
            yield Path(folder), sorted(files)


def _place(chapter: Path, names: dict[str, str]) -> dict[str, str]:
    """The fields that all utterances of a chapter share. Both datasets are English."""
    subset, reader = chapter.parent.parent.name, chapter.parent.name
    shared = {"group": f"{subset}/{reader}/{chapter.name}", "split": subset, "speaker": reader, "language": "en"}
    return shared | ({"author": names[reader]} if reader in names else {})


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
