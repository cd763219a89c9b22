"""The corpus: what a recording and a clip are, where they lie, and how they are written and read back.

Layout below a corpus URI::

    recordings/source=<source>/<recording_id>.parquet     one row: where the recording came from, and what became of it
    recordings/source=<source>/<recording_id>.<ext>       the media file as it was fetched
    clips/source=<source>/<recording_id>.parquet          one row a clip, in order of time, FLAC bytes inside

A file's existence is the only state: each is written to a temporary name and renamed, so a killed run leaves finished
files and nothing else. Nothing is thrown away: a clip that the filters refuse stays, with its ``drop_reason``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

SAMPLE_RATE_HZ = 24_000
"""Rate of every clip's audio: the rate of the models' front-end, so nothing is resampled after ingest."""


class Status(StrEnum):
    """What became of a recording. Discovery yields the first; only the last three are ever on record."""

    DISCOVERED = "discovered"
    FETCHED = "fetched"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"


class RejectReason(StrEnum):
    """Why a recording is not in the corpus. The transient ones are tried again on a later run."""

    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    FILTERED = "filtered"
    """The source's own settings leave it out: by its date, by its licence."""
    BLOCKED = "blocked"
    NETWORK = "network"
    WRONG_LENGTH = "wrong_length"
    TOO_LARGE = "too_large"
    TOO_LONG = "too_long"
    TOO_SHORT = "too_short"
    TOO_SLOW = "too_slow"
    BAD_REDIRECT = "bad_redirect"
    PRIVATE_ADDRESS = "private_address"
    BAD_CHECKSUM = "bad_checksum"
    BAD_METADATA = "bad_metadata"
    NOT_AUDIO = "not_audio"
    UNDECODABLE = "undecodable"
    NO_SPEECH = "no_speech"
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_URL = "duplicate_url"
    DUPLICATE_BYTES = "duplicate_bytes"
    DUPLICATE_AUDIO = "duplicate_audio"
    UNKNOWN = "unknown"
    """An error that no table puts down to the recording: the machine's, this program's, or a new one. It may pass, and
    is settled by itself once it was tried often enough."""

    @property
    def transient(self) -> bool:
        """Whether a later run may find otherwise."""
        return self in TRANSIENT


TRANSIENT = frozenset(
    {
        RejectReason.BAD_CHECKSUM,
        RejectReason.BLOCKED,
        RejectReason.NETWORK,
        RejectReason.TOO_SLOW,
        RejectReason.UNKNOWN,
        RejectReason.WRONG_LENGTH,
    }
)
"""Reasons that are tried again in later runs, a bounded number of times."""


class DropReason(StrEnum):
    """Why a clip is not for training; `triforce.ingest.clips.filters` decides it late, from raw scores and a config."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    CUT_WORD = "cut_word"
    NO_TEXT = "no_text"
    NO_SPEECH = "no_speech"
    LOW_CONFIDENCE = "low_confidence"
    REPETITION = "repetition"
    DISAGREEMENT = "disagreement"
    """The recogniser and the published transcript say different things."""
    LONG_WORD = "long_word"
    PHANTOM_PHRASE = "phantom_phrase"
    SPEAKING_RATE = "speaking_rate"
    WRONG_LANGUAGE = "wrong_language"
    CLIPPED = "clipped"
    NOISY = "noisy"
    MUSIC = "music"
    NARROW_BAND = "narrow_band"
    QUIET = "quiet"
    MANY_SPEAKERS = "many_speakers"
    LOW_DNSMOS = "low_dnsmos"
    MARKED_WRONG = "marked_wrong"
    """A person said so, see `triforce.ingest.clips.marks`; only `refilter` gives it."""


MAX_TEXT_CHARS = 4096
"""Longest title, name or licence, in characters: feeds hold whole articles where a line belongs. Assumed."""


def valid_text(text: str) -> str:
    """Replace the halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


GIVEN_UP, TAKEN_UP = "given_up_at", "taken_up_at"
"""Metadata keys: when a recording was tried for the last time, and when a person asked for another try."""
CLIP_TRIES = "clip_tries"
"""Metadata key: how often its clips could not be made for a reason that may pass."""

UTTERANCES = "utterances"
"""Metadata key: 16 hex digits for each utterance of a dataset that the row accounts for. They outlast a takedown, so
that the next import leaves out what was removed."""

DATASET = "dataset"
"""``source_kind`` of what comes from a dataset: the clips are all that is stored of it, without a media file."""
FILE = "file"
"""``source_kind`` of a file of a local folder."""
IMPORTED = frozenset({DATASET, FILE})
"""Kinds that `triforce corpus import` brings: it looks at the folder again, and takes what has no row."""

MAP_COLUMNS = ("tool_versions", "metadata")
"""The columns of a recording that map strings to strings."""


@dataclass(frozen=True)
class Recording:
    """One row of ``recordings/``: a podcast episode, a chapter or a video, and all that is known of its origin."""

    recording_id: str
    source: str
    source_kind: str
    source_id: str
    url: str
    page_url: str | None = None
    title: str | None = None
    author: str | None = None
    collection: str | None = None
    """The feed, book, channel or playlist it belongs to."""
    published: str | None = None
    """Date of publication, ISO 8601, as the source states it."""
    licence: str | None = None
    language: str | None = None
    """ISO 639-1 code, as the source states it."""
    duration_s: float | None = None
    """Length that the source states, seconds; the decoded length is what counts."""
    media_path: str | None = None
    """Path of the media file, relative to the corpus."""
    num_bytes: int | None = None
    sha256: str | None = None
    fetched_at: str | None = None
    """Time of the download, UTC, ISO 8601."""
    tool_versions: dict[str, str] = field(default_factory=dict)
    status: str = Status.FETCHED
    reason: str | None = None
    detail: str | None = None
    """A sentence for a person: what was wrong, or which recording this one duplicates."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What else the source states: season, episode, explicit, chapter number, view count."""

    def __post_init__(self) -> None:
        """Clean texts, which come from strangers: replace what UTF-8 cannot hold, and cut off what is overlong."""
        for name, value in vars(self).items():
            if isinstance(value, str):
                limit = None if name in ("source_id", "url", "page_url") else MAX_TEXT_CHARS
                object.__setattr__(self, name, valid_text(value)[:limit])
            elif isinstance(value, dict):
                texts = {valid_text(key): valid_text(text)[:MAX_TEXT_CHARS] for key, text in value.items()}
                object.__setattr__(self, name, texts)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Recording:
        """The recording of a row as pyarrow gives it. Raises TypeError for a column that this version does not know."""
        return cls(**{name: dict(value or []) if name in MAP_COLUMNS else value for name, value in row.items()})

    def to_row(self) -> dict[str, Any]:
        """The row as pyarrow takes it; of maps the entries are sorted, so the same recording makes the same bytes."""
        return asdict(self) | {name: sorted(getattr(self, name).items()) for name in MAP_COLUMNS}

    def untried(self) -> Recording:
        """The recording as it was discovered, without what became of it."""
        outcome = {"runs", GIVEN_UP, TAKEN_UP, CLIP_TRIES, "duplicate_of"}
        metadata = {key: value for key, value in self.metadata.items() if key not in outcome}
        nothing = dict.fromkeys(("reason", "detail", "media_path", "num_bytes", "sha256", "fetched_at"))
        return replace(self, status=Status.DISCOVERED, tool_versions={}, metadata=metadata, **nothing)

    @property
    def is_settled(self) -> bool:
        """Whether a later run need not fetch it again.

        `triforce.ingest.corpus.retry` takes a settled rejection up again; a passing one settles at ``max_runs``.
        """
        if TAKEN_UP in self.metadata:
            return False
        return self.status != Status.REJECTED or GIVEN_UP in self.metadata or not RejectReason(self.reason).transient


class Word(NamedTuple):
    """A word of a clip's text, with its times in seconds from the clip's start."""

    word: str
    start_s: float
    end_s: float
    probability: float | None = None


@dataclass(frozen=True)
class Media:
    """The bytes of a clip's sound, image or video, in the layout of Hugging Face's Audio and Image features."""

    data: bytes
    path: str | None = None
    """Name of a file; only a hint for who shows it."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of ``clips/``: a stretch of a recording, its medium, its text and its scores.

    The fields are the columns of `arrow_schema.CLIP_SCHEMA`; `to_row` and `from_row` are the only way to a row and
    back. A field that is None is null in the file: not measured, or not known.
    """

    clip_id: str
    recording_id: str
    source: str
    start_sample: int
    """First sample of the decoded stream at ``sample_rate_hz``; of a video or image, its first frame."""
    end_sample: int
    """The sample or frame after the last."""
    sample_rate_hz: int
    """Samples, or frames, a second."""
    duration_s: float
    audio: Media | None = None
    """16-bit mono FLAC of speech or music."""
    text: str | None = None
    """None with an `asr_model`: the clip is in a language that the model does not transcribe."""
    asr_model: str | None = None
    """What recognised the speech: a model's name, or `TRANSCRIPT` where nothing did."""
    language: str | None = None
    """ISO 639-1 code."""
    language_probability: float | None = None
    """Probability of the language by its sound, given the one that was expected, 0 to 1."""
    words: tuple[Word, ...] | None = None
    avg_logprob: float | None = None
    """Mean natural logarithm of the probabilities of the text's tokens."""
    no_speech_prob: float | None = None
    """Whisper's probability that nobody speaks, 0 to 1."""
    compression_ratio: float | None = None
    """Characters of the text over its bytes once compressed: large where it repeats itself."""
    temperature: float | None = None
    """Temperature at which Whisper decoded the text."""
    chars_per_s: float | None = None
    """Characters of the text by seconds of the clip."""
    snr_db: float | None = None
    """Signal to noise, dB."""
    bandwidth_hz: float | None = None
    """Highest frequency with sound in it, Hz."""
    clipped_share: float | None = None
    """Share of samples at full scale, 0 to 1."""
    silence_share: float | None = None
    """Share of silent frames, 0 to 1."""
    rms_dbfs: float | None = None
    """Root mean square, dB of full scale."""
    loudness_lufs: float | None = None
    """Integrated loudness by ITU-R BS.1770, LUFS."""
    modulation_db: float | None = None
    """Standard deviation of the level, dB: large in speech, small in music and noise."""
    edge_db: float | None = None
    """Level at the louder end against the clip's loud frames, dB."""
    cut_blind: bool | None = None
    """Whether an end was cut without silence."""
    speaker: str | None = None
    title: str | None = None
    author: str | None = None
    collection: str | None = None
    url: str | None = None
    licence: str | None = None
    drop_reason: str | None = None
    """Why the clip is not for training, a `DropReason`; None: it is kept."""
    modality: str | None = None
    """``music``, ``image`` or ``video``; None: speech."""
    image: Media | None = None
    """PNG."""
    video: Media | None = None
    """FFV1 in Matroska, which is lossless."""
    voice: tuple[float, ...] | None = None
    """Embedding of the speaker's voice, a unit vector of 256; this and all to DNSMOS come from `clips.rescore`."""
    voice_similarity: float | None = None
    """Cosine between the voices before and after the most probable change of speaker."""
    conditioning: tuple[str, ...] | None = None
    """Clip ids of the most similar clips of the same speaker and recording."""
    dnsmos_ovrl: float | None = None
    """DNSMOS P.835 of the whole, 1 to 5."""
    dnsmos_sig: float | None = None
    """DNSMOS P.835 of the speech, 1 to 5."""
    dnsmos_bak: float | None = None
    """DNSMOS P.835 of the background, 1 to 5."""
    text_source: str | None = None
    """`RECOGNISER` or `PUBLISHED`: where the text comes from. None: written before this was told, see `asr_model`."""
    agreement: float | None = None
    """Share of letters in which the recognised and the published text agree, 0 to 1; None without a transcript."""
    recognised: str | None = None
    """What was recognised, where the text is the published one."""
    overlap_share: float | None = None
    """Share of the voiced frames in which a second pitch is heard, 0 to 1; of `clips.rescore`."""

    @property
    def media(self) -> bytes:
        """Bytes of the clip's sound, image or video. Raises ValueError where there are none, or they were not read."""
        media = getattr(self, self.modality) if self.modality in MEDIA_COLUMNS else self.audio
        if media is None:
            raise ValueError(f"clip {self.clip_id} has no bytes of {self.modality or 'speech'}")
        return media.data

    @classmethod
    def cut(cls, recording: Recording, start: int, end: int, sample_rate_hz: int, **columns: Any) -> Clip:
        """Samples (or frames) ``start`` to ``end`` of a recording; ``columns`` are the other fields by name."""
        return cls(
            clip_id=make_clip_id(recording.recording_id, start),
            recording_id=recording.recording_id,
            source=recording.source,
            start_sample=start,
            end_sample=end,
            sample_rate_hz=sample_rate_hz,
            duration_s=(end - start) / sample_rate_hz,
            **columns,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Clip:
        """The clip of a row as pyarrow gives it.

        A column that the row lacks is None, also one that every clip has: read what you use. A column that this version
        does not know is left out.
        """
        values = {name: row.get(name) for name in CLIP_FIELDS}
        for name in MEDIA_COLUMNS:
            if (media := values[name]) is not None:
                values[name] = Media(media["bytes"], media.get("path"))
        if (words := values["words"]) is not None:
            values["words"] = tuple([Word(*map(word.get, Word._fields)) for word in words])
        for name in ("voice", "conditioning"):
            if (value := values[name]) is not None:
                values[name] = tuple(value)
        clip = object.__new__(cls)
        vars(clip).update(values)  # a tenth of the time that a frozen dataclass takes to set its fields one by one
        return clip

    def to_row(self) -> dict[str, Any]:
        """The row as pyarrow takes it, with every column."""
        row = dict(vars(self))
        for name in MEDIA_COLUMNS:
            if (media := row[name]) is not None:
                row[name] = {"bytes": media.data, "path": media.path}
        if self.words is not None:
            row["words"] = [word._asdict() for word in self.words]
        for name in ("voice", "conditioning"):
            if row[name] is not None:
                row[name] = list(row[name])
        return row


CLIP_FIELDS = tuple(each.name for each in fields(Clip))

MEDIA_COLUMNS = ("audio", "image", "video")
"""The columns with a clip's bytes; one of them is filled in each row."""

TRANSCRIPT = "transcript"
"""``asr_model`` of a text that a person wrote."""
RECOGNISER, PUBLISHED = "recogniser", "published"
"""``text_source``: what the recogniser wrote, or what came with the recording or dataset."""


def make_recording_id(source: str, source_id: str) -> str:
    """Return 16 hex digits that depend on the source's name and its own id for the recording, and on nothing else."""
    return hashlib.sha256(f"{source}\n{valid_text(source_id)}".encode()).hexdigest()[:16]


def make_clip_id(recording_id: str, start_sample: int) -> str:
    """Return the id of the clip that begins at a sample: ids sort by recording and time."""
    return f"{recording_id}-{start_sample:010d}"


def make_clip_ids(recording_id: str, start_samples: Iterable[int]) -> list[str]:
    """Return what `make_clip_id` does for each of many samples, in half the time."""
    return [f"{recording_id}-{start_sample:010d}" for start_sample in start_samples]


def split_draw(clip_id: str) -> int:
    """Return the 32 bits by which a clip is kept from training, or not: the first of its id's SHA-256."""
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4], "big")


def numbers_on_one_side(recording_id: str, first: int = 0) -> Iterator[int]:
    """Yield numbers of clips, ``first`` and further ones, that show one thing with different texts.

    All are trained on, or none is, with any validation share in whole percent.
    """
    number, percent = first, split_draw(make_clip_id(recording_id, first)) * 100 >> 32
    while True:
        if split_draw(make_clip_id(recording_id, number)) * 100 >> 32 == percent:
            yield number
        number += 1


def check_source_name(name: str) -> str:
    """Return a source's name, which becomes a folder's. Raises ValueError for other than 1 to 40 lower-case letters,
    digits and dashes."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ValueError(
            f"source name {name!r}: use 1 to 40 lower-case letters, digits and dashes, beginning with a letter or digit"
        )
    return name
