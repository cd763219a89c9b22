"""Clips to token samples: the dVAE over batches of like length."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.dataset as pads
import soundfile
import torch

from triforce.ingest import storage
from triforce.ingest.corpus import Corpus
from triforce.models.dvae import DVAE
from triforce.models.mel import MelConfig, log_mel
from triforce.models.text import TextTokenizer, clean_text
from triforce.tokenize.plan import PlannedShard
from triforce.tokenize.shards import TokenSample

log = logging.getLogger(__name__)

METADATA = ("text", "duration_s", "speaker", "source", "licence", "language", "recording_id")


def decode_flac(data: bytes, sample_rate_hz: int, dtype: str = "float32") -> np.ndarray:
    """FLAC bytes to samples ``(N,)`` float32 in -1 to 1, or int16 as stored; another rate than the front-end's is an
    error, not resampled in silence.
    """
    waveform, rate = soundfile.read(io.BytesIO(data), dtype=dtype)
    if rate != sample_rate_hz or waveform.ndim != 1:
        raise ValueError(f"clip of {rate} Hz and shape {waveform.shape}: mono at {sample_rate_hz} Hz is expected")
    return waveform


def read_clips(corpus: Corpus, shard: PlannedShard) -> list[dict]:
    """The rows of a shard's clips, audio included, in the shard's order; a clip that is gone from the corpus is left
    out.
    """
    wanted = [clip_id for clip_id, _, _ in shard.clips]
    uris = sorted({corpus.clips_uri(source, recording_id) for _, recording_id, source in shard.clips})
    files = [uri for uri in uris if storage.exists(uri)]
    if not files:
        return []
    table = corpus.dataset(files=files).to_table(
        columns=["clip_id", "audio", *METADATA], filter=pads.field("clip_id").isin(wanted)
    )
    rows = {row["clip_id"]: row for row in table.to_pylist()}
    return [rows[clip_id] for clip_id in wanted if clip_id in rows]


def length_batches(lengths: Sequence[int], batch_frames: int) -> Iterator[list[int]]:
    """Indices grouped by length, longest first, so that padded batches stay within ``batch_frames``; a longer one goes
    alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_frames:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def encode_mels(dvae: DVAE, mels: list[torch.Tensor], batch_frames: int, device: torch.device) -> list[np.ndarray]:
    """Mels ``(C, T)`` to codes ``(K,)`` uint16, in the same order."""
    codes: list[np.ndarray] = [np.empty(0, np.uint16)] * len(mels)
    for batch in length_batches([mel.shape[1] for mel in mels], batch_frames):
        sizes = torch.tensor([[mels[i].shape[1]] for i in batch], device=device)
        padded = torch.zeros(len(batch), mels[0].shape[0], int(sizes.max()), device=device)
        for row, i in enumerate(batch):
            padded[row, :, : mels[i].shape[1]] = mels[i].to(device)
        found = dvae.encode(padded, sizes).cpu().numpy()
        for row, i in enumerate(batch):
            (length,) = dvae.config.grid((mels[i].shape[1],))
            codes[i] = found[row, :length].astype(np.uint16)
    return codes


def encode_shard(
    corpus: Corpus,
    shard: PlannedShard,
    dvae: DVAE,
    mel_config: MelConfig,
    tokenizer: TextTokenizer,
    batch_frames: int,
    device: torch.device,
) -> tuple[list[TokenSample], list[dict[str, str]]]:
    """The samples of a shard and what failed, ``{"clip_id", "error"}``."""
    rows, mels, failed = [], [], []
    for row in read_clips(corpus, shard):
        try:
            mels.append(log_mel(decode_flac(row["audio"]["bytes"], mel_config.sample_rate_hz), mel_config))
            rows.append(row)
        except (ValueError, soundfile.LibsndfileError) as error:
            log.warning("clip %s: %s", row["clip_id"], error)
            failed.append({"clip_id": row["clip_id"], "error": str(error)})
    codes = encode_mels(dvae, mels, batch_frames, device)
    samples = [
        TokenSample(
            row["clip_id"],
            clip_codes,
            tokenizer.encode(clean_text(row["text"] or "")).astype(np.uint16),
            {key: row[key] for key in METADATA},
        )
        for row, clip_codes in zip(rows, codes, strict=True)
    ]
    return samples, failed
