"""Reading: clips of the corpus as the arrays that the dVAE takes.

`prepare_clip` and `media_columns` alone depend on the medium of a clip.
"""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import torch

from triforce.ingest.corpus.records import Clip
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.pixels import PIXEL_MODALITIES, clip_pixels
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.blocks.scale import area_average
from triforce.models.reading.front_end import FrontEnd, keeps_words, require_phonemes
from triforce.models.text import clean_text
from triforce.tokenize.plan import modality_of
from triforce.tokenize.planning.inputs import inputs_sha256, read_rows
from triforce.tokenize.planning.plan_files import Member
from triforce.tokenize.timing.refine import SpokenClip, refine
from triforce.tokenize.token_sample import WORDS, sample_metadata

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedShard:
    """A shard's clips, ready for the dVAE, and those that failed."""

    index: int
    clips: list[dict[str, Any]]
    """``clip_id``, ``text_ids`` and ``metadata`` of each clip, in the shard's order."""
    media: list[np.ndarray]
    """Medium ``(C, *size)`` float32 of each clip."""
    failed: list[dict[str, str]]
    """``clip_id`` and ``error`` of each clip that could not be read."""
    inputs_sha256: str
    """Hash of the ids and metadata of all of them."""
    num_refined: int = 0
    """Clips whose words have refined times."""

    def to_row(self) -> dict[str, Any]:
        """Return flat arrays and text, which Ray passes between processes without a copy."""
        flat = np.concatenate([array.ravel() for array in self.media]) if self.media else np.zeros(0, np.float32)
        about = {
            "clips": self.clips,
            "failed": self.failed,
            "shapes": [array.shape for array in self.media],
            "num_refined": self.num_refined,
        }
        return {
            "index": self.index,
            "media": flat,
            "about": json.dumps(about),
            "inputs_sha256": self.inputs_sha256,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> PreparedShard:
        """Undo `to_row`."""
        about = json.loads(row["about"])
        flat, media = np.asarray(row["media"]), []
        for shape in about["shapes"]:
            count = int(np.prod(shape))
            media.append(flat[:count].reshape(shape))
            flat = flat[count:]
        return cls(
            int(row["index"]), about["clips"], media, about["failed"], row["inputs_sha256"], about["num_refined"]
        )


def decode_flac(data: bytes, sample_rate_hz: int, dtype: str = "float32") -> np.ndarray:
    """Decode FLAC bytes to samples ``(N,)``: float32 in -1 to 1, or int16 as stored.

    Raises ValueError for another sample rate than ``sample_rate_hz``, and for more than one channel.
    """
    waveform, rate = soundfile.read(io.BytesIO(data), dtype=dtype)
    if rate != sample_rate_hz or waveform.ndim != 1:
        raise ValueError(f"clip of {rate} Hz and shape {waveform.shape}: mono at {sample_rate_hz} Hz is expected")
    return waveform


def prepare_clip(clip: Clip, card: dict[str, Any]) -> np.ndarray:
    """Return the medium of a clip, ``(C, *size)`` float32, by the front-end that the dVAE's card names."""
    if modality_of(card) in PIXEL_MODALITIES:
        return shrunk(clip_pixels(clip), card)
    config = MelConfig.model_validate(card["mel"])
    return log_mel(decode_flac(clip.media, config.sample_rate_hz), config).numpy()


def shrunk(planes: np.ndarray, card: dict[str, Any]) -> np.ndarray:
    """Return planes ``(3, *size)`` at the scale that the dVAE of ``card`` sees."""
    whole = torch.from_numpy(planes)[None]
    return area_average(whole, torch.tensor([planes.shape[1:]]), card.get("shrink", 1))[0][0].numpy()


def media_columns(card: dict[str, Any]) -> list[str]:
    """Return the columns of the corpus that `prepare_clip` needs."""
    modality = modality_of(card)
    return [modality] if modality in PIXEL_MODALITIES else ["audio"]


def prepare_shard(
    corpus: Corpus,
    index: int,
    members: list[Member],
    card: dict[str, Any],
    tokenizer: FrontEnd,
    *,
    refine_times: bool = False,
) -> PreparedShard:
    """Read a shard's clips, as far as they are kept; one that cannot be read is recorded as failed.

    With ``refine_times`` words have those of `timing.refine`, where it finds some.
    """
    clips, media, failed = [], [], []
    words = keeps_words(tokenizer)
    columns = [*media_columns(card), *([WORDS] if words else [])]
    rows = read_rows(corpus, members, modality_of(card), columns)
    for clip in map(Clip.from_row, rows):
        try:
            array = prepare_clip(clip, card)
        except (ValueError, soundfile.LibsndfileError) as error:
            log.warning("clip %s: %s", clip.clip_id, error)
            failed.append({"clip_id": clip.clip_id, "error": str(error)})
            continue
        metadata = sample_metadata(clip, array.shape[1:], words=words)
        text_ids = tokenizer.encode(clean_text(clip.text or "")).tolist()
        clips.append({"clip_id": clip.clip_id, "text_ids": text_ids, "metadata": metadata})
        media.append(array)
    num_refined = _refine_times(clips, media, card, tokenizer) if refine_times else 0
    return PreparedShard(index, clips, media, failed, inputs_sha256(rows, words=words), num_refined)


def _refine_times(
    clips: list[dict[str, Any]], mels: list[np.ndarray], card: dict[str, Any], tokenizer: FrontEnd
) -> int:
    """Replace the times of words in the metadata of clips, and return in how many clips."""
    metadata = [clip["metadata"] for clip in clips]
    spoken = [
        SpokenClip(mel, clean_text(each["text"] or ""), each[WORDS], each["speaker"])
        for mel, each in zip(mels, metadata, strict=True)
    ]
    found = refine(spoken, require_phonemes(tokenizer), MelConfig.model_validate(card["mel"]).frames_per_s)
    for each, words in zip(metadata, found, strict=True):
        each[WORDS] = each[WORDS] if words is None else words
    return sum(words is not None for words in found)
