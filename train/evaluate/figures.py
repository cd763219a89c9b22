"""The figures of one system on one clip, as `triforce.train.evaluate.results.Evaluation.clips` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import soxr

from triforce.ingest.clips.dnsmos import overall_quality
from triforce.ingest.clips.speakers import RATE_HZ as SPEAKER_RATE_HZ
from triforce.ingest.clips.speakers import SpeakerEncoder
from triforce.train.evaluate import metrics
from triforce.train.evaluate.systems import Output


def clip_figures(
    output: Output,
    reference: str,
    hypothesis: str,
    reference_mel: np.ndarray | None,
    *,
    sample_rate_hz: int,
    language: str,
    quality: bool,
) -> dict[str, Any]:
    """Return the figures of an ``output``; ``hypothesis`` is what the judge recognised in it.

    ``reference_mel`` is the original's, where there is one. ``quality`` adds DNSMOS.
    """
    row: dict[str, Any] = {
        "heard": hypothesis,
        "words": list(metrics.word_errors(reference, hypothesis, language)),
        "characters": list(metrics.character_errors(reference, hypothesis, language)),
        "num_samples": int(output.waveform.size),
        "sharpness": metrics.sharpness(output.mel),
    }
    if reference_mel is not None and output.mel is not reference_mel and output.mel.shape == reference_mel.shape:
        row["log_mel_l1"] = metrics.log_mel_l1(output.mel, reference_mel)
        row["mcd_db"] = metrics.mel_cepstral_distortion(output.mel, reference_mel)
    if quality:
        row["dnsmos"] = overall_quality(output.waveform, sample_rate_hz)
    if output.reached_end is not None:
        row["reached_end"] = bool(output.reached_end)
    return row | ({"error": output.error} if output.error else {})


def voice_similarities(outputs: Sequence[dict[str, Output]], sample_rate_hz: int) -> list[dict[str, float]]:
    """Return for each clip, by system, the cosine of the sound's voice with that of the original clip.

    Systems without sound are left out, and so are all where there is no original.
    """
    encoder = SpeakerEncoder()

    def embed(waveform: np.ndarray) -> np.ndarray:
        return encoder(soxr.resample(waveform.astype(np.float32), sample_rate_hz, SPEAKER_RATE_HZ)).embedding

    rows: list[dict[str, float]] = []
    for output in outputs:
        others = [name for name in output if name != "original" and output[name].waveform.size]
        if "original" not in output:
            others = []
        original = embed(output["original"].waveform) if others else None
        rows.append({name: float(embed(output[name].waveform) @ original) for name in others})
    return rows
