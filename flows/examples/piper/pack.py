"""Clips as a pack: a folder of a few large arrays that training reads without ray or Parquet.

```
pack.json          format, mel settings, counts, the scale of the mels; written last
mels.npy           (num_frames, num_mels) uint8, frames of all clips end to end
bounds.npy         (num_clips + 1,) int64, where each clip's frames begin
samples.npy        (num_samples,) int16, optional
sample_bounds.npy  (num_clips + 1,) int64, optional
clips.jsonl        a line a clip: clip_id, text, speaker, words, source, licence
```
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from triforce.flows.examples.piper.synthesise import SpokenBatch, SynthesisConfig
from triforce.train.data.packed.pack import PackWriter


class SpeechWriter:
    """Writes batches as they come; the pack is complete once the block is left without an error."""

    def __init__(self, folder: Path, config: SynthesisConfig, samples: bool = False) -> None:
        self.config, self.num_clips, self.num_samples = config, 0, 0
        self._has_samples = samples
        self._pack = PackWriter(folder, config.mel, samples=samples)
        self._said = hashlib.sha256()

    def write(self, batch: SpokenBatch) -> None:
        """Append the clips of a batch."""
        mels = batch.mels.cpu().split(batch.num_frames)
        sounds = batch.samples.cpu().split(batch.num_samples) if self._has_samples else [None] * len(mels)
        for clip, mel, sound in zip(batch.clips, mels, sounds, strict=True):
            self._pack.add(mel.T, asdict(clip), None if sound is None else sound.numpy())
            self._said.update(repr(clip).encode())
        self.num_clips += len(batch.clips)
        self.num_samples += sum(batch.num_samples)

    @property
    def seconds(self) -> float:
        """Speech written so far."""
        return self.num_samples / self.config.mel.sample_rate_hz

    def __enter__(self) -> SpeechWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._pack.close(self._said.hexdigest())
