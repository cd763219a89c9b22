"""The judge of an evaluation: Whisper recognises speech greedily, so that the same sound always gives the same words.

The judge encodes windows of 30 s, so a second costs as much as thirty. Clips of one system are packed into windows, a
pause between them, and the words of a window are shared out to its clips along the alignment with the fewest edits to
the references. A clip that got no word that way, and all clips of a window that ended in a loop, are recognised again
alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jiwer
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest.asr.repetition import is_loop
from triforce.ingest.asr.whisper import FRAME_SAMPLES, RATE_HZ, WINDOW_SAMPLES, Whisper, resample, versions
from triforce.ingest.asr.window_packing import Window, one_each, pack_first_fit
from triforce.train.evaluate.metrics import normalize_text

logger = logging.getLogger(__name__)


class JudgeConfig(BaseModel):
    """How speech is recognised in an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("base", min_length=1, description="Whisper model: a name or a folder of CTranslate2 weights.")
    language: str = Field("en", pattern="^[a-z]{2,3}$", description="ISO 639 code of what is spoken.")
    packed: bool = Field(True, description="Several clips share a window; off: one each, and slower.")
    gap_s: float = Field(1.0, ge=0.2, le=5, description="Silence between the clips of a window, seconds.")
    batch_size: int = Field(4, ge=1, le=64, description="Windows encoded together.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where Whisper computes.")
    compute_type: str = Field("float32", description="CTranslate2's arithmetic; int8 is faster where the CPU has VNNI.")
    num_threads: int = Field(0, ge=0, le=256, description="CPU threads; 0 follows OMP_NUM_THREADS or the cores.")


class Judge:
    """Recognises speech: ``judge(waveforms, rate, references)``. Loads the model once."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        self.config = config or JudgeConfig()
        self.whisper = Whisper(
            self.config.model,
            device=self.config.device,
            compute_type=self.config.compute_type,
            num_threads=self.config.num_threads,
        )
        self.whisper.check_language(self.config.language)

    def __call__(self, waveforms: Sequence[np.ndarray], sample_rate_hz: int, references: Sequence[str]) -> list[str]:
        """Return the hypothesis of each ``(N,)`` float waveform; ``references`` only share out packed words."""
        return self.recognize(waveforms, sample_rate_hz, references)[0]

    def recognize(
        self, waveforms: Sequence[np.ndarray], sample_rate_hz: int, references: Sequence[str]
    ) -> tuple[list[str], list[np.ndarray]]:
        """Return the hypothesis of each clip, and its frames of Whisper's encoder ``(T, D)`` float32, 50 a second."""
        clips = [resample(np.asarray(waveform), sample_rate_hz) for waveform in waveforms]
        hypotheses = [""] * len(clips)
        frames = [np.zeros((0, 0), np.float32)] * len(clips)
        suspects: list[int] = []
        for window, text, encoded in self._recognize(self._pack(clips), clips):
            for index, start in zip(window.clips, window.starts, strict=True):
                frames[index] = encoded[start // FRAME_SAMPLES : (start + len(clips[index])) // FRAME_SAMPLES]
            parts = share_words(text, [references[index] for index in window.clips])
            for index, part in zip(window.clips, parts, strict=True):
                hypotheses[index] = part
            if len(window.clips) > 1:
                all_again = is_loop(text)
                suspects += [i for i, part in zip(window.clips, parts, strict=True) if all_again or not part]
        if suspects:
            logger.info("recognising %d of %d clips again one by one", len(suspects), len(clips))
            alone = [Window((index,), (0,), len(clips[index])) for index in suspects]
            for window, text, _ in self._recognize(alone, clips):
                hypotheses[window.clips[0]] = text.strip()
        return hypotheses, frames

    def _pack(self, clips: Sequence[np.ndarray]) -> list[Window]:
        if not self.config.packed:
            return one_each(clips)
        return pack_first_fit(clips, int(self.config.gap_s * RATE_HZ), WINDOW_SAMPLES)

    def _recognize(
        self, windows: Sequence[Window], clips: Sequence[np.ndarray]
    ) -> Iterator[tuple[Window, str, np.ndarray]]:
        """Yield each window with its text and encoder frames; one longer than 30 s is recognised in pieces."""
        pieces = [
            (number, start)
            for number, window in enumerate(windows)
            for start in range(0, window.num_samples, WINDOW_SAMPLES)
        ]
        texts: list[list[str]] = [[] for _ in windows]
        frames: list[list[np.ndarray]] = [[] for _ in windows]
        for first in range(0, len(pieces), self.config.batch_size):
            batch = pieces[first : first + self.config.batch_size]
            sounds = [windows[number].waveform(clips)[start : start + WINDOW_SAMPLES] for number, start in batch]
            encoded = self.whisper.encode_zero_padded(sounds)
            found = self.whisper.generate(encoded, self.config.language)
            rows = np.array(encoded, dtype=np.float32)
            for (number, _), sound, hypothesis, row in zip(batch, sounds, found, rows, strict=True):
                texts[number].append(hypothesis.text)
                frames[number].append(row[: -(-len(sound) // FRAME_SAMPLES)])
        for window, parts, seen in zip(windows, texts, frames, strict=True):
            yield window, " ".join(parts), np.concatenate(seen)

    def describe(self) -> dict[str, Any]:
        """Return what the record of an evaluation says of the judge: its config, and the versions that matter."""
        return {"config": self.config.model_dump(), "versions": versions()}


def share_words(hypothesis: str, references: Sequence[str]) -> list[str]:
    """Share out a window's hypothesis, normalised, to the clips whose ``references`` lie in it in this order.

    The words follow the alignment with the fewest word edits; a word that is in no reference goes to the clip whose
    word came before. A clip alone keeps its text as it is.
    """
    if len(references) == 1:
        return [hypothesis.strip()]
    spoken = [normalize_text(reference).split() for reference in references]
    words = normalize_text(hypothesis).split()
    owner = [clip for clip, part in enumerate(spoken) for _ in part]
    if not owner or not words:
        return [" ".join(words), *[""] * (len(references) - 1)]
    shares: list[list[str]] = [[] for _ in references]
    alignment = jiwer.process_words(" ".join(word for part in spoken for word in part), " ".join(words)).alignments[0]
    for chunk in alignment:
        for offset in range(chunk.hyp_end_idx - chunk.hyp_start_idx):
            position = max(chunk.ref_start_idx - 1, 0) if chunk.type == "insert" else chunk.ref_start_idx + offset
            shares[owner[position]].append(words[chunk.hyp_start_idx + offset])
    return [" ".join(part) for part in shares]
