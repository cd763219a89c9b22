"""Samples of an evaluation: clips whose sounds and mels are kept to play and to look at."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile

from triforce.ingest import storage
from triforce.ingest.corpus.records import Clip
from triforce.train.evaluate.systems import Output


def choose_samples(durations_s: Sequence[float], count: int, max_duration_s: float) -> list[int]:
    """Return which ``count`` clips to keep the sounds of: the first short ones, then the first of the others."""
    by_place = sorted(range(len(durations_s)), key=lambda i: (durations_s[i] > max_duration_s, i))
    return sorted(by_place[: max(count, 0)])


def write_sample(
    folder: str,
    number: int,
    clip: Clip,
    outputs: dict[str, Output],
    hypotheses: dict[str, str],
    sample_rate_hz: int,
) -> dict[str, Any]:
    """Write a clip's sounds and mels, and return the row of `triforce.train.evaluate.results.Evaluation.samples`."""
    place, mels = os.path.basename(folder), io.BytesIO()
    np.savez_compressed(mels, **{name: one.mel.astype(np.float16) for name, one in outputs.items()})
    storage.write_bytes(storage.join(folder, f"{number:02d}-mels.npz"), mels.getvalue())
    systems = {}
    for name, one in outputs.items():
        path = f"{number:02d}-{name}.flac"
        sound = io.BytesIO()
        soundfile.write(sound, np.clip(one.waveform, -1, 1), sample_rate_hz, format="FLAC", subtype="PCM_16")
        storage.write_bytes(storage.join(folder, path), sound.getvalue())
        systems[name] = {"audio": f"{place}/{path}", "heard": hypotheses[name], "reached_end": one.reached_end}
    about = {"clip_id": clip.clip_id, "text": clip.text, "title": clip.title, "source": clip.source}
    mels_path = f"{place}/{number:02d}-mels.npz"
    return about | {"duration_s": round(clip.duration_s, 3), "mels": mels_path, "systems": systems}
