"""What every format of dataset is read as: utterances, each some audio with its text, and the settings of an import."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from triforce.ingest.asr.config import TranscribeConfig
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.corpus.records import RejectReason, Word, check_source_name, valid_text

Format = Literal["ljspeech", "librispeech", "libritts", "common-voice", "tsv", "huggingface", "nemo", "lhotse"]

HASH_CHARS = 16
"""Hex digits of an utterance's hash: among ten million two are alike once in 370 000 imports. Derived."""
MAX_PER_RECORDING = 250
"""Utterances of a recording at most, so that their hashes fit in a field of 4096 characters. Derived."""


@dataclass(frozen=True)
class Embedded:
    """Audio inside a Parquet file."""

    path: str
    row_group: int
    row: int
    """Row within the row group."""
    column: str


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Some audio and its text, as a dataset states them."""

    utterance_id: str
    """The dataset's own id, or what tells it from all others of the dataset: a path, a place in a file."""
    audio: str | Embedded
    """Absolute path of the file."""
    text: str | None = None
    """Exactly as it is written; None where the dataset has none."""
    start_s: float | None = None
    """Where it begins in the file, seconds; None: it is the whole file."""
    duration_s: float | None = None
    """Its length, seconds; None: to the file's end."""
    channel: int | None = None
    """The file's channel that it is in, from 0 on; None: all, mixed."""
    group: str = ""
    """Chapter, split or file: utterances of different groups are never in one recording."""
    split: str | None = None
    """Nor are those of different splits."""
    speaker: str | None = None
    language: str | None = None
    licence: str | None = None
    title: str | None = None
    author: str | None = None
    url: str | None = None
    words: tuple[Word, ...] | None = None
    """Words with times from the utterance's start, where the dataset has them."""

    def __post_init__(self) -> None:
        """Replace in texts what UTF-8 cannot hold. Raises ValueError for times that are none."""
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), str):
                object.__setattr__(self, each.name, valid_text(value))
        for name in ("start_s", "duration_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1e7:
                raise ValueError(f"{name} is {value}; a time is in seconds, from 0 on")


@dataclass(frozen=True)
class Faulty:
    """A row of a dataset that gives no utterance."""

    utterance_id: str
    reason: RejectReason
    detail: str
    group: str = ""


Item = Utterance | Faulty


@dataclass(frozen=True)
class Dataset:
    """A dataset that was found at a path. Nothing but its head was read."""

    format: str
    found: str
    """What was found, for a person."""
    items: Callable[[], Iterator[Item]]
    """Reads it, always in the same order."""
    licence: str | None = None
    """What the dataset itself states of all its utterances."""


class DatasetConfig(BaseModel):
    """How a dataset becomes recordings and clips of a corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="Name of the source in the corpus: lower-case letters, digits and dashes.")
    licence: str | None = Field(
        None, min_length=1, description="Licence of the utterances that state none of their own."
    )
    author: str | None = Field(None, description="Author where the dataset names none.")
    language: str | None = Field(
        None, pattern=r"^[a-z]{2,3}$", description="ISO 639 code where the dataset states none."
    )
    speaker: str | None = Field(None, description="Speaker where the dataset names none.")
    text: Literal["normalized", "original"] = Field(
        "normalized", description="LJSpeech and LibriTTS: which of their two texts is taken."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Names of columns or keys: audio, text, speaker, language, licence, id, start, duration, split.",
    )
    names: tuple[str, ...] = Field((), description="TSV and CSV without a header: names of the columns in order.")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="TSV and CSV: what separates columns; null: tab, or comma in .csv.",
    )
    quoted: bool | None = Field(
        None, description="TSV and CSV: whether quotation marks around a cell are not part of it; null: in .csv only."
    )
    utterances_per_recording: int = Field(
        100, ge=1, le=MAX_PER_RECORDING, description="Utterances of a recording, where nothing groups them; more of "
        "one file or chapter make several recordings."
    )  # fmt: skip
    max_utterance_s: float = Field(120.0, gt=0, le=600, description="Longer ones are rejected unheard, seconds.")
    filter: FilterConfig = Field(default_factory=FilterConfig, description="Which clips are for training.")
    transcribe: TranscribeConfig | None = Field(
        None, description="Speech recognition of the utterances without a text; null: they are dropped as no_text."
    )
    workers: int | None = Field(None, ge=1, description="Processes; null: one for each core.")
    max_rejected_share: float = Field(
        0.5, ge=0, le=1, description="An import counts as failed when more than this share is rejected."
    )

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return check_source_name(value)


def utterance_hash(utterance_id: str) -> str:
    """Return the hex digits by which a corpus remembers an utterance."""
    return hashlib.sha256(valid_text(utterance_id).encode()).hexdigest()[:HASH_CHARS]


def split_hashes(joined: str) -> list[str]:
    """Return the hashes of a row, which stand there one after another."""
    return [joined[at : at + HASH_CHARS] for at in range(0, len(joined), HASH_CHARS)]


LANGUAGE_NAMES = {
    "arabic": "ar", "cantonese": "yue", "catalan": "ca", "chinese": "zh", "czech": "cs", "danish": "da", "dutch": "nl",
    "english": "en", "finnish": "fi", "french": "fr", "german": "de", "greek": "el", "hindi": "hi", "hungarian": "hu",
    "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko", "mandarin": "zh", "norwegian": "no",
    "persian": "fa", "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru", "spanish": "es",
    "swahili": "sw", "swedish": "sv", "thai": "th", "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi",
}  # fmt: skip
"""Codes of languages that Lhotse's manifests name in English."""


def language_code(stated: str | None) -> str | None:
    """Return ISO 639's code of a language as datasets write it: ``en``, ``sv-SE``, ``English``. Others stay as they
    are."""
    if not stated or not stated.strip():
        return None
    plain = stated.strip().lower()
    if found := re.fullmatch(r"([a-z]{2,3})([-_][a-z0-9_-]+)?", plain):
        return found[1]
    return LANGUAGE_NAMES.get(plain, stated.strip())
