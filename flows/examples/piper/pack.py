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

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from triforce.flows.examples.piper.synthesise import MEL_HIGH, SpokenBatch, SynthesisConfig
from triforce.train.data.packed.pack import FORMAT, NAME


class _GrowingArray:
    """A ``.npy`` file whose first axis grows."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self.file: IO[bytes] = path.open("wb")
        self.dtype, self.shape, self.length = np.dtype(dtype), shape, 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def _write_header(self) -> None:
        # numpy leaves room for a first axis of any size, so the header of the finished file fits over the first one.
        facts = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, facts)


class PackWriter:
    """Writes batches as they come; the pack is complete once the block is left without an error."""

    def __init__(self, folder: Path, config: SynthesisConfig, samples: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).unlink(missing_ok=True)
        self.folder, self.config = folder, config
        self.mels = _GrowingArray(folder / "mels.npy", "|u1", (config.mel.num_mels,))
        self.samples = _GrowingArray(folder / "samples.npy", "<i2") if samples else None
        self.clips = (folder / "clips.jsonl").open("w", encoding="utf-8")
        self.num_frames: list[int] = []
        self.num_samples: list[int] = []

    def write(self, batch: SpokenBatch) -> None:
        """Append the clips of a batch."""
        self.mels.append(batch.mels.cpu().numpy())
        if self.samples is not None:
            self.samples.append(batch.samples.cpu().numpy())
        self.num_frames += batch.num_frames
        self.num_samples += batch.num_samples
        for clip in batch.clips:
            self.clips.write(json.dumps(asdict(clip), ensure_ascii=False) + "\n")

    @property
    def seconds(self) -> float:
        """Speech written so far."""
        return sum(self.num_samples) / self.config.mel.sample_rate_hz

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mels.close()
        self.clips.close()
        np.save(self.folder / "bounds.npy", _bounds(self.num_frames))
        if self.samples is not None:
            self.samples.close()
            np.save(self.folder / "sample_bounds.npy", _bounds(self.num_samples))
        if error is None:
            self._finish()

    def _finish(self) -> None:
        facts = {
            "format": FORMAT,
            "mel": self.config.mel.model_dump(mode="json"),
            "num_clips": len(self.num_frames),
            "num_frames": sum(self.num_frames),
            "mel_low": self.config.mel_low,
            "mel_high": MEL_HIGH,
            "sample_rate_hz": self.config.mel.sample_rate_hz,
            "samples": self.samples is not None,
        }
        temporary = self.folder / ".tmp-pack.json"
        temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        os.replace(temporary, self.folder / NAME)


def _bounds(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)
