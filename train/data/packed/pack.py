"""Packs: the clips of a corpus as whole log-mels, encoded once, in a folder that a bare machine can read with NumPy.

In the folder: ``pack.json``, its description, written last; ``mels.npy`` uint8 ``(frames, num_mels)``, the frames of
all clips end to end; ``bounds.npy`` int64 ``(clips + 1,)``, where each clip's frames begin; with sound also
``samples.npy`` int16 and ``sample_bounds.npy``; and ``clips.jsonl``, a line of text and times for each clip.

A byte stands for a 255th of the range from the floor of log-mels to a little over the loudest, so values are off by
0.024 nats at most: less than a tenth of what the best dVAE here is off by.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from triforce.models.audio.mel import MelConfig

FORMAT = "triforce-pack-1"
NAME = "pack.json"
"""The file that makes a folder a pack."""
HIGHEST_NATS = 6.0
"""Largest log-mel that a pack can hold. A full-scale sine between two filters has 6.2; speech stays below 5.5."""


BYTES_A_CLIP = 16
"""Bytes that a clip takes in the arrays of bounds."""


class PackError(ValueError):
    """A folder is no pack, or one that was not written to its end."""


def is_pack(folder: str | Path) -> bool:
    """Whether a folder is a pack that was written to its end."""
    return "://" not in str(folder) and (Path(folder) / NAME).is_file()


@dataclass(frozen=True)
class Scale:
    """How log-mels are rounded to bytes."""

    low: float
    high: float

    def to_bytes(self, mel: torch.Tensor) -> torch.Tensor:
        """Round log-mels to uint8, on their device."""
        return ((mel - self.low) * (255 / (self.high - self.low))).round().clamp(0, 255).to(torch.uint8)

    def from_bytes(self, values: torch.Tensor) -> torch.Tensor:
        """Return the log-mels float32 of bytes."""
        return values.float() * ((self.high - self.low) / 255) + self.low


class Pack:
    """An open pack; its arrays are mapped, not read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not is_pack(folder):
            raise PackError(f"{folder}: no {NAME} here, so this is no pack, or one that was not written to its end")
        self.about: dict[str, Any] = json.loads((self.folder / NAME).read_text())
        if self.about.get("format") != FORMAT:
            raise PackError(f"{folder}: format {self.about.get('format')!r}, this version reads {FORMAT}; pack again")
        self.mel_config = MelConfig.model_validate(self.about["mel"])
        self.scale = Scale(self.about["mel_low"], self.about["mel_high"])
        self.mels = np.load(self.folder / "mels.npy", mmap_mode="r")
        self.bounds = np.load(self.folder / "bounds.npy")
        if len(self.mels) != self.bounds[-1]:
            raise PackError(f"{folder}: {len(self.mels)} frames where bounds.npy says {self.bounds[-1]}; pack again")

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def hash(self) -> str:
        """Hash of what is packed."""
        if "hash" in self.about:
            return str(self.about["hash"])
        return content_hash([json.dumps(self.about), *(clip["clip_id"] for clip in self.clips)])

    @property
    def has_samples(self) -> bool:
        """Whether the sound is there too."""
        return bool(self.about.get("samples"))

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Samples of all clips end to end, ``(N,)`` int16."""
        return np.load(self.folder / "samples.npy", mmap_mode="r")

    @functools.cached_property
    def sample_bounds(self) -> np.ndarray:
        """Where each clip's samples begin, ``(clips + 1,)`` int64."""
        return np.load(self.folder / "sample_bounds.npy")

    @functools.cached_property
    def clips(self) -> list[dict[str, Any]]:
        """``clip_id``, ``text``, ``speaker`` and, where known, ``words`` of each clip."""
        with (self.folder / "clips.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def mel(self, index: int) -> torch.Tensor:
        """The log-mel ``(num_mels, T)`` float32 of a clip."""
        frames = self.mels[self.bounds[index] : self.bounds[index + 1]]
        return self.scale.from_bytes(torch.from_numpy(np.array(frames))).T


class PackWriter:
    """Writes a pack clip after clip; it is one when `close` has returned."""

    def __init__(self, folder: str | Path, mel: MelConfig, *, samples: bool) -> None:
        self.folder, self.mel_config = Path(folder), mel
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / NAME).unlink(missing_ok=True)
        self.scale = Scale(mel.log_floor, HIGHEST_NATS)
        self._mels = _GrowingArray(self.folder / "mels.npy", "|u1", (mel.num_mels,))
        self._samples = _GrowingArray(self.folder / "samples.npy", "<i2") if samples else None
        self._clips = (self.folder / "clips.jsonl").open("w", encoding="utf-8")
        self._bounds, self._sample_bounds = [0], [0]
        self._bytes = 2048  # the files' headers and pack.json

    def __len__(self) -> int:
        """Clips so far."""
        return len(self._bounds) - 1

    def add(
        self,
        mel: torch.Tensor,
        about: dict[str, Any],
        samples: np.ndarray | None = None,
        max_bytes: int | None = None,
    ) -> bool:
        """Add a clip: its log-mel ``(num_mels, T)`` or the bytes of it, its line of ``clips.jsonl``, and its samples
        ``(N,)`` int16 where the pack holds sound. Returns False, and adds nothing, where the pack would grow over
        ``max_bytes``.
        """
        rounded = mel if mel.dtype == torch.uint8 else self.scale.to_bytes(mel)
        values = rounded.T.contiguous().cpu().numpy()
        line = json.dumps(about, ensure_ascii=False) + "\n"
        grown = self._bytes + values.nbytes + len(line.encode()) + BYTES_A_CLIP
        grown += samples.nbytes if self._samples is not None and samples is not None else 0
        if max_bytes is not None and grown > max_bytes:
            return False
        self._bytes = grown
        self._mels.append(values)
        self._bounds.append(self._bounds[-1] + len(values))
        if self._samples is not None:
            if samples is None:
                raise ValueError(f"clip {about.get('clip_id')}: this pack holds sound; give the samples")
            self._samples.append(samples)
            self._sample_bounds.append(self._sample_bounds[-1] + len(samples))
        self._clips.write(line)
        return True

    def close(self, content_hash: str, *, cut_short: bool = False) -> None:
        """Finish the pack; ``content_hash`` tells it from others, ``cut_short`` says that clips found no room."""
        self._clips.close()
        self._mels.close()
        np.save(self.folder / "bounds.npy", np.array(self._bounds, np.int64))
        if self._samples is not None:
            self._samples.close()
            np.save(self.folder / "sample_bounds.npy", np.array(self._sample_bounds, np.int64))
        about = {
            "format": FORMAT,
            "hash": content_hash,
            "mel": json.loads(self.mel_config.model_dump_json()),
            "mel_low": self.scale.low,
            "mel_high": self.scale.high,
            "num_clips": len(self._bounds) - 1,
            "num_frames": self._bounds[-1],
            "sample_rate_hz": self.mel_config.sample_rate_hz,
            "samples": self._samples is not None,
            "cut_short": cut_short,
        }
        temporary = self.folder / f".{NAME}"
        temporary.write_text(json.dumps(about, indent=1))
        temporary.rename(self.folder / NAME)


class _GrowingArray:
    """A ``.npy`` file whose first axis grows."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._dtype, self._shape, self._length = np.dtype(dtype), shape, 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        """Append ``(N, *shape)`` values."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def close(self) -> None:
        """Write the length that the array has come to."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy leaves room for a first axis of any size, so the header of the finished file fits over the first one.
        facts = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, facts)


def content_hash(lines: Iterable[str]) -> str:
    """A hash of lines, in their order: ids of clips, say."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
