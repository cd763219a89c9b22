"""Times of words found anew for a pack's clips: the synthesiser's own are late by a good part of a phoneme."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from triforce.ingest.cores import num_cores
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.tokenize.timing.refine import SpokenClip, refine
from triforce.train.data.packed.pack import Pack

CLIPS_AT_ONCE = 400
"""Clips that are timed by what is learnt of these alone: some twenty minutes of sentences."""


def refine_pack(folder: Path) -> dict[str, Any]:
    """Replace the times of words in a pack's ``clips.jsonl``, with those of their pieces, where better ones are found;
    return how many clips have them.
    """
    clips = Pack(folder).clips
    parts = [(folder, first) for first in range(0, len(clips), CLIPS_AT_ONCE)]
    with ProcessPoolExecutor(min(len(parts), num_cores()), mp_context=get_context("spawn")) as pool:
        found = [words for part in pool.map(_refined, parts) for words in part]
    for clip, words in zip(clips, found, strict=True):
        if words is not None:
            clip["words"] = words
    temporary = folder / ".clips.jsonl"
    temporary.write_text("".join(json.dumps(clip, ensure_ascii=False) + "\n" for clip in clips), encoding="utf-8")
    temporary.rename(folder / "clips.jsonl")
    return {"clips": len(clips), "refined": sum(words is not None for words in found)}


def _refined(part: tuple[Path, int]) -> list[Any]:
    folder, first = part
    pack = Pack(folder)
    spoken = [
        SpokenClip(pack.mel(number).numpy(), clip["text"], [tuple(word) for word in clip["words"]], clip.get("speaker"))
        for number, clip in enumerate(pack.clips[first : first + CLIPS_AT_ONCE], first)
    ]
    return refine(spoken, PhonemeTokenizer(), pack.mel_config.frames_per_s)
