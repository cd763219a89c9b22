"""What the diffusion network learns from: clips, what the dVAE makes of them, and what else is known of each code."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from triforce.models.reading.interleave import TimedWord, codes_before, pieces_at_codes, starts_of_pieces, time_words
from triforce.models.reading.phonemes import PhonemeTokenizer

SPELT_SHARE = 0.12
"""Share of the words of a clip that are said to be letters, not phonemes, as in a GPT's readings: rare words are."""


class Restoration(NamedTuple):
    """Media with their priors, of one sample or of a batch, which has one axis more at the front."""

    medium: torch.Tensor
    """The clips ``(C, *size)``."""
    prior: torch.Tensor
    """The dVAE's decode ``(C, *size)``, or of fewer positions where it sees a coarser scale."""
    sizes: torch.Tensor
    """Positions of each clip without padding ``(D,)``."""
    latents: torch.Tensor | None = None
    """The GPT's latents ``(width, *grid)``, one a code; None: the network is not told them."""
    tokens: torch.Tensor | None = None
    """Codes and pieces of text ``(R, *grid)`` int64, as the network is told them, -1 where none is known."""


class Tokens(NamedTuple):
    """Which integers the network is told of each code."""

    codes: bool
    """The code itself."""
    pieces: PiecesAtCodes | None
    """The piece of text that is said in it."""

    def __bool__(self) -> bool:
        return self.codes or self.pieces is not None

    def of(self, codes: np.ndarray, clip_id: str, text: str, words: Sequence[TimedWord] | None) -> np.ndarray:
        """Return the rows ``(R, K)`` int64 for the codes ``(K,)`` of a clip."""
        rows = [codes] if self.codes else []
        if self.pieces is not None:
            rows.append(self.pieces(clip_id, text, words, len(codes)))
        return np.stack(rows).astype(np.int64)


class PiecesAtCodes:
    """Tells which piece of a clip's text is said at each of its codes, from when its words are said."""

    def __init__(self, reader: PhonemeTokenizer, codes_per_s: float, spelt_share: float = SPELT_SHARE) -> None:
        self.reader, self.codes_per_s, self.spelt_share = reader, codes_per_s, spelt_share

    def __call__(self, clip_id: str, text: str, words: Sequence[TimedWord] | None, num_codes: int) -> np.ndarray:
        """Return pieces ``(num_codes,)`` int64, -1 before the first; all -1 where the words have no times.

        Which words are spelt depends on ``clip_id`` alone.
        """
        found = time_words(self.reader, text, words) if words else None
        if found is None:
            return np.full(num_codes, -1, np.int64)
        spelt = np.random.default_rng(zlib.crc32(clip_id.encode())).random(len(found.words)) < self.spelt_share
        parts = [word.spelt if in_letters else word.read for word, in_letters in zip(found.words, spelt, strict=True)]
        before = codes_before(starts_of_pieces(found, parts), num_codes, self.codes_per_s)
        return pieces_at_codes(np.concatenate(parts), before, num_codes)
