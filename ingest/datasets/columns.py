"""Columns of tables and keys of JSON lines: which of them means what, and a row as an utterance."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from triforce.ingest.corpus.records import RejectReason, Word
from triforce.ingest.datasets.utterance import Embedded, Faulty, Item, Utterance, language_code

NAMES = {
    "audio": ("audio", "file_name", "audio_filepath", "path", "audio_path", "audio_file", "filename", "wav", "file"),
    "text": ("text", "transcription", "transcript", "sentence", "normalized_text", "text_normalized"),
    "id": ("id", "utterance_id", "clip_id", "uid"),
    "speaker": ("speaker", "speaker_id", "client_id", "speaker_name", "reader_id"),
    "language": ("language", "lang", "locale", "source_lang"),
    "licence": ("licence", "license"),
    "start": ("start", "start_s", "offset"),
    "duration": ("duration", "duration_s"),
    "split": ("split",),
    "words": ("words",),
    "title": ("title",),
    "author": ("author",),
    "url": ("url",),
}
"""What datasets call each column, the likeliest first."""

AUDIO_FOLDERS = ("", "clips", "audio", "audios", "wavs", "wav")
AUDIO_ENDINGS = ("", ".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")


class Columns:
    """The columns of a table by their meaning.

    Raises ValueError where none is the audio or the text, or where a column is asked for that is not there.
    """

    def __init__(
        self, names: Collection[str], chosen: Mapping[str, str], place: str, needed: Collection[str] = ("audio", "text")
    ):
        if unknown := sorted(chosen.keys() - NAMES.keys()):
            raise ValueError(f"columns.{unknown[0]}: use one of {', '.join(NAMES)}")
        self.by_role: dict[str, str] = {}
        for role, usual in NAMES.items():
            wanted = (chosen[role],) if role in chosen else usual
            found = next((name for name in wanted if name in names), None)
            if found is not None:
                self.by_role[role] = found
            elif role in chosen or role in needed:
                there = ", ".join(map(repr, names))
                advice = f"name it by --set columns.{role}=NAME, of {there}"
                raise ValueError(f"{place}: no column of {role}, {wanted[0]!r} or the like; {advice}")

    def get(self, row: Mapping[str, Any], role: str) -> Any:
        """Return a value of a row; None where the column is missing or empty."""
        value = row.get(self.by_role.get(role, ""))
        return None if value is None or value == "" else value

    def item(
        self,
        row: Mapping[str, Any],
        audio: str | Embedded,
        utterance_id: str,
        *,
        group: str = "",
        split: str | None = None,
    ) -> Item:
        """Return a row as an utterance, as a faulty one where a value is none of its kind."""
        name = str(self.get(row, "id") or utterance_id)
        try:
            text = row.get(self.by_role.get("text", ""))
            start, duration = (None if (v := self.get(row, r)) is None else float(v) for r in ("start", "duration"))
            plain = {role: _text(self.get(row, role)) for role in ("speaker", "licence", "title", "author", "url")}
            return Utterance(
                utterance_id=name,
                audio=audio,
                text=_text(text),
                start_s=start,
                duration_s=duration,
                group=group,
                split=_text(self.get(row, "split")) or split,
                language=language_code(_text(self.get(row, "language"))),
                words=as_words(self.get(row, "words")),
                **plain,
            )
        except (ValueError, TypeError, LookupError) as error:
            return Faulty(name, RejectReason.BAD_METADATA, f"{type(error).__name__}: {error}", group)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise TypeError(f"{str(value)[:80]!r} stands where a text belongs")


def as_words(value: Any) -> tuple[Word, ...] | None:
    """Return words with their times: of a JSON text or a list, each ``[word, start, end]`` or with those as keys.

    Raises ValueError, TypeError or LookupError for anything else.
    """
    if value is None:
        return None
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise TypeError(f"words are a list, not {str(value)[:80]!r}")
    return tuple(_word(each) for each in found) or None


def _word(value: Any) -> Word:
    if isinstance(value, Mapping):
        start, end = (value[f"{key}_s"] if f"{key}_s" in value else value[key] for key in ("start", "end"))
        value = [value["word"], start, end, value.get("probability")]
    word, start, end, *rest = value
    probability = rest[0] if rest else None
    return Word(str(word), float(start), float(end), None if probability is None else float(probability))


def find_audio(folder: Path, name: str) -> str:
    """Return the absolute path of an audio file that a table names: relative to the table's folder, or to one in it
    that datasets keep their audio in, with or without its ending. A file that is not there is named by the likeliest
    path."""
    if os.path.isabs(name):
        return name
    base = str(folder)
    for sub in _sub_folders(base) if os.sep not in name else ("",):
        for ending in AUDIO_ENDINGS:
            path = os.path.join(base, sub, name + ending)
            if os.path.isfile(path):
                return path
    return os.path.join(base, name)


@lru_cache(maxsize=1024)
def _sub_folders(base: str) -> tuple[str, ...]:
    """Where audio may lie, the last one that is there first: files beside the table are the exception."""
    return tuple(name for name in (*AUDIO_FOLDERS[1:], "") if os.path.isdir(os.path.join(base, name)))
