"""The audio of utterances: files decoded once each, and what lies between two times cut out of them."""

from __future__ import annotations

import itertools
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, RejectReason
from triforce.ingest.datasets.huggingface import embedded_audio
from triforce.ingest.datasets.utterance import Embedded, Utterance
from triforce.ingest.errors import Rejected
from triforce.ingest.media.decode import decode

MAX_MISSING_S = 0.25
"""Sound that may be missing at an utterance's end, seconds: encoders' padding, rounded lengths. Assumed."""


@dataclass
class Sound:
    """The sound of an utterance, or why there is none."""

    utterance: Utterance
    start: int = 0
    """First sample within its file, at the corpus rate."""
    samples: np.ndarray | None = None
    """``(N,) int16`` at the corpus rate."""
    problem: Rejected | None = None


@dataclass
class _Piece:
    """A stretch of a file on its way."""

    sound: Sound
    end: int | None
    """The sample after the last; None: all that follows."""
    parts: list[np.ndarray] = field(default_factory=list)
    length: int = 0

    def take(self, block: np.ndarray, position: int, limit: int) -> None:
        """Add what belongs here of a block that begins at sample ``position``."""
        part = block[max(self.sound.start - position, 0) : None if self.end is None else max(self.end - position, 0)]
        self.length += len(part)
        if self.length <= limit and len(part):
            self.parts.append(part)

    def finish(self, limit_s: float) -> Sound:
        """Join what was taken, and compare it with what the dataset states."""
        stated, self.sound.samples = self.sound.utterance.duration_s, None
        length_s = self.length / SAMPLE_RATE_HZ
        if length_s > limit_s:
            self._reject(RejectReason.TOO_LONG, f"over {limit_s:g} s (max_utterance_s)")
        elif not self.length:
            self._reject(
                RejectReason.BAD_METADATA,
                f"begins at {self.sound.start / SAMPLE_RATE_HZ:.2f} s, where the audio has ended",
            )
        elif stated is not None and stated - length_s > MAX_MISSING_S:
            self._reject(RejectReason.BAD_METADATA, f"{length_s:.2f} s of sound, {stated:.2f} s are stated")
        else:
            self.sound.samples = np.concatenate(self.parts)
        return self.sound

    def _reject(self, reason: RejectReason, detail: str) -> None:
        self.sound.problem = Rejected(reason, detail)


def read_sounds(utterances: Sequence[Utterance], limit_s: float) -> Iterator[list[Sound]]:
    """Yield the sounds of utterances, all of a file at a time, in order of time within it.

    What cannot be read, begins behind the end of its file, is shorter than stated or longer than ``limit_s`` has a
    problem in place of samples; nothing is raised for it.
    """
    runs = [list(run) for _, run in itertools.groupby(utterances, key=_file_of)]
    for run in runs:
        if isinstance(run[0].audio, Embedded):
            yield from _embedded(run, limit_s)
        else:
            yield _of_file(Path(run[0].audio), run, limit_s)


def _file_of(utterance: Utterance) -> tuple[str, int | None, bool]:
    place = utterance.audio
    return (place.path, None, True) if isinstance(place, Embedded) else (place, utterance.channel, False)


def _embedded(run: list[Utterance], limit_s: float) -> Iterator[list[Sound]]:
    """The sounds of utterances that lie in one Parquet file, one after the other."""
    waiting = deque(run)
    try:
        for data, name in embedded_audio([utterance.audio for utterance in run]):
            utterance = waiting.popleft()
            folder = Path(utterance.audio.path).parent
            if data is None:
                yield _of_file(folder / (name or ""), [utterance], limit_s)
                continue
            with tempfile.TemporaryDirectory(prefix="triforce-") as temporary:
                path = Path(temporary) / f"audio{Path(name or '').suffix[:8]}"
                path.write_bytes(data)
                yield _of_file(path, [utterance], limit_s)
    except (OSError, pa.ArrowException) as error:
        problem = Rejected(RejectReason.UNDECODABLE, f"{run[0].audio.path} cannot be read: {error}")
        yield [Sound(utterance, problem=problem) for utterance in waiting]


def _of_file(path: Path, utterances: Sequence[Utterance], limit_s: float) -> list[Sound]:
    order = sorted(utterances, key=lambda utterance: utterance.start_s or 0.0)
    try:
        return list(_cut_out(decode(path, channel=order[0].channel), order, limit_s))
    except Rejected as error:
        problem = error
    except FileNotFoundError:
        problem = Rejected(RejectReason.NOT_FOUND, f"{path}: no such file")
    except (OSError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:  # of a library, for one file
        problem = Rejected(RejectReason.UNKNOWN, f"{path}: {type(error).__name__}: {error}")
    return [Sound(utterance, problem=problem) for utterance in order]


def _cut_out(blocks: Iterable[np.ndarray], utterances: Sequence[Utterance], limit_s: float) -> Iterator[Sound]:
    """Yield each utterance, in order of its end, as ``(N,) int16`` blocks go by; they may overlap.

    A file that is one utterance is taken whole, whatever length is stated.
    """
    waiting, open_pieces, position = deque(map(_piece, utterances)), list[_Piece](), 0
    limit = round(limit_s * SAMPLE_RATE_HZ)
    for block in blocks:
        end = position + len(block)
        while waiting and waiting[0].sound.start < end:
            open_pieces.append(waiting.popleft())
        for piece in open_pieces:
            piece.take(block, position, limit)
        done = [piece for piece in open_pieces if piece.end is not None and piece.end <= end]
        open_pieces = [piece for piece in open_pieces if piece.end is None or piece.end > end]
        yield from (piece.finish(limit_s) for piece in done)
        position = end
        if not waiting and not open_pieces:
            return
    yield from (piece.finish(limit_s) for piece in (*open_pieces, *waiting))


def _piece(utterance: Utterance) -> _Piece:
    start = round((utterance.start_s or 0.0) * SAMPLE_RATE_HZ)
    is_whole = utterance.start_s is None or utterance.duration_s is None
    end = None if is_whole else start + round(utterance.duration_s * SAMPLE_RATE_HZ)
    return _Piece(Sound(utterance, start), end)
