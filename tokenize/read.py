"""The reading half of tokenizing: clips out of the corpus, as the arrays that the dVAE takes.

`prepare_clip` is the one place here that knows what medium a clip is.
"""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import soundfile

from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.pixels import PIXEL_MODALITIES, clip_pixels
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.text import TextTokenizer, clean_text
from triforce.tokenize.plan import METADATA, PlannedShard, modality_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedShard:
    """A shard's clips, ready for the dVAE, and what became of the rest."""

    index: int
    clips: list[dict[str, Any]]
    """``clip_id``, ``text_ids``, ``size`` of the medium, and ``metadata``, in the shard's order."""
    media: list[np.ndarray]
    """``(C, *size)`` float32 of each."""
    failed: list[dict[str, str]]
    """``{"clip_id", "error"}`` of clips that could not be read."""

    def to_row(self) -> dict[str, Any]:
        """As flat arrays and text, which Ray passes between processes without a copy."""
        flat = np.concatenate([array.ravel() for array in self.media]) if self.media else np.zeros(0, np.float32)
        about = {"clips": self.clips, "failed": self.failed, "shapes": [array.shape for array in self.media]}
        return {"index": self.index, "media": flat, "about": json.dumps(about)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> PreparedShard:
        about = json.loads(row["about"])
        flat, media = np.asarray(row["media"]), []
        for shape in about["shapes"]:
            count = int(np.prod(shape))
            media.append(flat[:count].reshape(shape))
            flat = flat[count:]
        return cls(int(row["index"]), about["clips"], media, about["failed"])


def decode_flac(data: bytes, sample_rate_hz: int, dtype: str = "float32") -> np.ndarray:
    """FLAC bytes to samples ``(N,)`` float32 in -1 to 1, or int16 as stored; another rate than the front-end's is an
    error, not resampled in silence.
    """
    waveform, rate = soundfile.read(io.BytesIO(data), dtype=dtype)
    if rate != sample_rate_hz or waveform.ndim != 1:
        raise ValueError(f"clip of {rate} Hz and shape {waveform.shape}: mono at {sample_rate_hz} Hz is expected")
    return waveform


def prepare_clip(row: dict[str, Any], card: dict[str, Any]) -> np.ndarray:
    """The medium of a clip, ``(C, *size)`` float32, by the front-end that the dVAE's card names."""
    if modality_of(card) in PIXEL_MODALITIES:
        return clip_pixels(row)
    config = MelConfig.model_validate(card["mel"])
    return log_mel(decode_flac(row["audio"]["bytes"], config.sample_rate_hz), config).numpy()


def media_columns(card: dict[str, Any]) -> list[str]:
    """The columns of the corpus that `prepare_clip` needs."""
    modality = modality_of(card)
    return [modality] if modality in PIXEL_MODALITIES else ["audio"]


def prepare_shard(corpus: Corpus, shard: PlannedShard, card: dict[str, Any], tokenizer: TextTokenizer) -> PreparedShard:
    clips, media, failed = [], [], []
    for row in read_clips(corpus, shard, media_columns(card)):
        try:
            array = prepare_clip(row, card)
        except (ValueError, soundfile.LibsndfileError) as error:
            log.warning("clip %s: %s", row["clip_id"], error)
            failed.append({"clip_id": row["clip_id"], "error": str(error)})
            continue
        metadata = {key: row[key] for key in METADATA} | {"size": list(array.shape[1:])}
        text_ids = tokenizer.encode(clean_text(row["text"] or "")).tolist()
        clips.append({"clip_id": row["clip_id"], "text_ids": text_ids, "metadata": metadata})
        media.append(array)
    return PreparedShard(shard.index, clips, media, failed)


def read_clips(corpus: Corpus, shard: PlannedShard, columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a shard's clips in the shard's order; a clip that is gone from the corpus is left out.

    Of a long recording only the row groups between the shard's first and last clip are read.
    """
    by_file: dict[str, list[str]] = {}
    for clip_id, recording_id, source in shard.clips:
        by_file.setdefault(corpus.clips_uri(source, recording_id), []).append(clip_id)
    rows: dict[str, dict[str, Any]] = {}
    for uri, wanted in by_file.items():
        if not storage.exists(uri):
            continue
        field = pads.field("clip_id")
        between = (field >= min(wanted)) & (field <= max(wanted)) & field.isin(wanted)
        table = corpus.dataset(files=[uri]).to_table(columns=["clip_id", *columns, *METADATA], filter=between)
        rows |= {row["clip_id"]: row for row in table.to_pylist()}
    return [rows[clip_id] for clip_id, _, _ in shard.clips if clip_id in rows]
