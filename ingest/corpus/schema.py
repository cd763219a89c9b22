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
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

SAMPLE_RATE_HZ = 24_000
"""Rate of every clip's audio: the rate of the models' front-end, so nothing is resampled after ingest."""


class Status(StrEnum):
    """What became of a recording. Only the last three are ever on record; the first is what discovery yields."""

    DISCOVERED = "discovered"
    FETCHED = "fetched"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"


class RejectReason(StrEnum):
    """Why a recording is not in the corpus. The transient ones are tried again on a later run."""

    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    FILTERED = "filtered"
    """The source's own settings do not want it: its date, its licence."""
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

    @property
    def transient(self) -> bool:
        return self in {RejectReason.NETWORK, RejectReason.BLOCKED, RejectReason.TOO_SLOW, RejectReason.WRONG_LENGTH}


class DropReason(StrEnum):
    """Why a clip is not for training; `triforce.ingest.clips.filters` decides it late, from raw scores and a config."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    CUT_WORD = "cut_word"
    NO_TEXT = "no_text"
    NO_SPEECH = "no_speech"
    LOW_CONFIDENCE = "low_confidence"
    REPETITION = "repetition"
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


MAX_TEXT_CHARS = 4096
"""Of a title, a name, a licence; feeds hold whole articles where a line belongs. Assumed."""


def valid_text(text: str) -> str:
    """``text`` without the halves of character pairs that JSON may spell and UTF-8 may not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Recording:
    """One row of ``recordings/``: a podcast episode, a chapter, a video, and all we know of where it came from."""

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
    """ISO 8601, as the source states it."""
    licence: str | None = None
    language: str | None = None
    """Hint from the source, as an ISO 639-1 code."""
    duration_s: float | None = None
    """As the source declares it; the decoded length is what counts."""
    media_path: str | None = None
    """Relative to the corpus."""
    num_bytes: int | None = None
    sha256: str | None = None
    fetched_at: str | None = None
    """UTC, ISO 8601."""
    tool_versions: dict[str, str] = field(default_factory=dict)
    status: str = Status.FETCHED
    reason: str | None = None
    detail: str | None = None
    """A sentence for a person: what was wrong, or which recording this one duplicates."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What else the source said: season, episode, explicit, chapter number, view count."""

    def __post_init__(self) -> None:
        """Texts come from strangers: what no UTF-8 file can hold is replaced, and what nobody reads is cut off."""
        for name, value in vars(self).items():
            if isinstance(value, str):
                limit = None if name in ("source_id", "url", "page_url") else MAX_TEXT_CHARS
                object.__setattr__(self, name, valid_text(value)[:limit])
            elif isinstance(value, dict):
                texts = {valid_text(key): valid_text(text)[:MAX_TEXT_CHARS] for key, text in value.items()}
                object.__setattr__(self, name, texts)

    @property
    def is_settled(self) -> bool:
        """Whether a later run need not fetch it again."""
        return self.status != Status.REJECTED or not RejectReason(self.reason).transient


STRING_MAP = pa.map_(pa.string(), pa.string())

RECORDING_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_kind", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        ("page_url", pa.string()),
        ("title", pa.string()),
        ("author", pa.string()),
        ("collection", pa.string()),
        ("published", pa.string()),
        ("licence", pa.string()),
        ("language", pa.string()),
        ("duration_s", pa.float64()),
        ("media_path", pa.string()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("fetched_at", pa.string()),
        ("tool_versions", STRING_MAP),
        pa.field("status", pa.string(), nullable=False),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("metadata", STRING_MAP),
    ]
)

WORD = pa.struct(
    [("word", pa.string()), ("start_s", pa.float32()), ("end_s", pa.float32()), ("probability", pa.float32())]
)

CLIP_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        # Samples of the decoded stream at ``sample_rate_hz``: the end is exclusive.
        pa.field("start_sample", pa.int64(), nullable=False),
        pa.field("end_sample", pa.int64(), nullable=False),
        pa.field("sample_rate_hz", pa.int32(), nullable=False),
        pa.field("duration_s", pa.float32(), nullable=False),
        # 16-bit mono FLAC, in the layout of Hugging Face's Audio feature, which wants the field nullable.
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("text", pa.string()),
        ("asr_model", pa.string()),  # or "transcript", where a person wrote the text
        ("language", pa.string()),
        ("language_probability", pa.float32()),
        ("words", pa.list_(WORD)),  # times in seconds from the clip's start
        ("avg_logprob", pa.float32()),
        ("no_speech_prob", pa.float32()),
        ("compression_ratio", pa.float32()),
        ("temperature", pa.float32()),
        ("chars_per_s", pa.float32()),
        ("snr_db", pa.float32()),
        ("bandwidth_hz", pa.float32()),
        ("clipped_share", pa.float32()),
        ("silence_share", pa.float32()),
        ("rms_dbfs", pa.float32()),
        ("loudness_lufs", pa.float32()),
        ("modulation_db", pa.float32()),  # how much the level moves: much in speech, little in music and noise
        ("edge_db", pa.float32()),  # level at the louder end, against the clip's loud frames
        ("cut_blind", pa.bool_()),  # no silence was found to cut in
        ("speaker", pa.string()),
        ("title", pa.string()),
        ("author", pa.string()),
        ("collection", pa.string()),
        ("url", pa.string()),
        ("licence", pa.string()),
        ("drop_reason", pa.string()),  # null: keep
        ("modality", pa.string()),  # null: speech; music lies in ``audio`` too, image and video in their columns
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # PNG
        ("video", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # FFV1 in Matroska: lossless
        # The next six are null until `triforce corpus rescore`: models of their own, which are optional.
        ("voice", pa.list_(pa.float32())),  # embedding of the speaker's voice, a unit vector of 256
        ("voice_similarity", pa.float32()),  # of the voices before and after the likeliest change of speaker
        ("conditioning", pa.list_(pa.string())),  # clip ids: the likest clips of the same speaker and recording
        ("dnsmos_ovrl", pa.float32()),  # DNSMOS P.835, 1 to 5: overall, speech, background
        ("dnsmos_sig", pa.float32()),
        ("dnsmos_bak", pa.float32()),
    ],
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "audio": {"_type": "Audio", "sampling_rate": SAMPLE_RATE_HZ},
                        "image": {"_type": "Image"},
                    }
                }
            }
        )
    },
)

MEDIA_COLUMNS = ("audio", "image", "video")
"""The columns with a clip's bytes; of each row one is filled."""


def make_recording_id(source: str, source_id: str) -> str:
    """16 hex digits that depend on the source's name and its own id for the recording, and on nothing else."""
    return hashlib.sha256(f"{source}\n{valid_text(source_id)}".encode()).hexdigest()[:16]


def make_clip_id(recording_id: str, start_sample: int) -> str:
    return f"{recording_id}-{start_sample:010d}"


def check_source_name(name: str) -> str:
    """A source's name becomes a folder's: lower-case letters, digits and dashes, 40 at most."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ValueError(
            f"source name {name!r}: use 1 to 40 lower-case letters, digits and dashes, beginning with a letter or digit"
        )
    return name
