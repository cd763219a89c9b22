"""The report's section on other media: originals beside what is decoded from their codes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from triforce.flows.report import figures
from triforce.ingest import storage
from triforce.ingest.corpus.records import Clip
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac
from triforce.ingest.media.pixels import PIXEL_MODALITIES, clip_pixels, from_planes
from triforce.ingest.media.samples import to_int16
from triforce.models.release import Release
from triforce.models.release_files import require_dvae
from triforce.tokenize.read import decode_flac, media_columns
from triforce.tokenize.restore import find_samples, restore_medium
from triforce.train.data.order import is_validation

NUM_SAMPLES = 4
"""Samples of each medium. Assumed."""
MAX_SOUND_S = 6.0


def media_sections(folder: str) -> list[dict[str, Any]]:
    """Return an entry for each medium below ``folder`` that was trained and tokenized."""
    names = sorted(storage.list_folders(folder))
    done = [name for name in names if storage.exists(storage.join(folder, name, "tokens", "index.json"))]
    return [_section(name, storage.join(folder, name)) for name in done]


def _section(modality: str, place: str) -> dict[str, Any]:
    release = Release.load(storage.join(place, "release"))
    card = require_dvae(release.uri).card
    corpus = Corpus(storage.join(place, "corpus"))
    columns = ["clip_id", "title", "modality", *media_columns(card)]
    rows = corpus.dataset().to_table(columns=columns).to_pylist()
    share = card["training"]["validation_share"]
    rows.sort(key=lambda row: (not is_validation(row["clip_id"], share), row["clip_id"]))
    rows = rows[:NUM_SAMPLES]
    samples = find_samples(storage.join(place, "tokens"), [row["clip_id"] for row in rows])
    pairs = []
    for row, sample in zip(rows, samples, strict=True):
        restored = restore_medium(release, sample).cpu()
        shown = _pixels(row, restored) if modality in PIXEL_MODALITIES else _sounds(row, restored, release)
        unseen = is_validation(row["clip_id"], share)
        pairs.append({"title": row["title"], "unseen": unseen, "grid": "x".join(map(str, sample.codes.shape))} | shown)
    about = {name: value for name, value in card["metrics"].items() if name.startswith("eval/")}
    return {"modality": modality, "card": card, "metrics": about, "pairs": pairs}


def _pixels(row: dict[str, Any], restored: Any) -> dict[str, str]:
    return {"original": _picture(clip_pixels(Clip.from_row(row))), "restored": _picture(restored.numpy())}


def _picture(planes: np.ndarray) -> str:
    """Return a PNG as a data URI; a video is an animated one."""
    pixels = from_planes(planes)
    frames = [Image.fromarray(frame) for frame in (pixels if pixels.ndim == 4 else pixels[None])]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:], "duration": 80, "loop": 0} if len(frames) > 1 else {}
    frames[0].save(buffer, format="PNG", **more)
    return figures.data_uri(buffer.getvalue(), "image/png")


def _sounds(row: dict[str, Any], restored: Any, release: Release) -> dict[str, str]:
    rate, hop = release.sample_rate_hz, release.mel_config.hop_length
    longest = int(MAX_SOUND_S * rate)
    original = decode_flac(row["audio"]["bytes"], rate)[:longest]
    rebuilt = release.vocode(restored[:, : longest // hop])
    waveforms = {"original": original, "restored": rebuilt}
    return {name: figures.mp3(encode_flac(to_int16(waveform))) for name, waveform in waveforms.items()}
