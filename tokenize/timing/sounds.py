"""The sounds of a text as states: of each sound a beginning, a middle and an end, and pauses where they may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triforce.models.reading.phonemes import SYMBOLS
from triforce.tokenize.timing.forced import Chain

PAUSE = 0
"""The state of all that is not said."""
PARTS = 3
"""States of a sound."""
SOUND_OF_LETTER = """
a AE b B c K d D e EH f F g G h HH i IH j JH k K l L m M n N o AA p P q K r R s S t T u AH v V w W x S y IY z Z
"""
"""The sound that each letter of a word of unknown pronunciation is taken for. Assumed."""
LETTERS = dict(zip(SOUND_OF_LETTER.split()[::2], SOUND_OF_LETTER.split()[1::2], strict=True))
STRESSED = ("AH",)
"""Vowels that are another sound without stress; of the others stress changes the length more than the sound."""


def _kind(symbol: str) -> str | None:
    """Return the sound of a piece; None for boundaries, punctuation and the apostrophe."""
    if symbol in LETTERS:
        return LETTERS[symbol] + "1" * (LETTERS[symbol] in STRESSED)
    if not symbol.rstrip("012").isalpha():
        return None
    name = symbol.rstrip("012")
    return name + ("0" if symbol.endswith("0") else "1") if name in STRESSED else name


KINDS = sorted({kind for kind in map(_kind, SYMBOLS) if kind is not None})
NUM_KINDS = 1 + len(KINDS)
"""Kinds of sounds, and the pause."""
NUM_STATES = 1 + PARTS * len(KINDS)
_FIRST = np.array([-1 if (kind := _kind(symbol)) is None else 1 + PARTS * KINDS.index(kind) for symbol in SYMBOLS])
"""First state of each piece, ``(P,)``; -1 where it is no sound."""


def kind_of(states: np.ndarray) -> np.ndarray:
    """Return the number of each state's kind of sound, 0 for the pause."""
    return np.where(states == PAUSE, 0, 1 + (states - 1) // PARTS)


class SoundChain(NamedTuple):
    """What is said in a clip, as a chain of states."""

    chain: Chain
    sounds: np.ndarray
    """Place of each sound among the pieces of all words, ``(N,)``."""
    first_places: np.ndarray
    """Place of each sound's first state in the chain, ``(N,)``; the others follow it."""

    @classmethod
    def of(cls, words: Sequence[np.ndarray]) -> SoundChain:
        """Make the chain of words, each given as its pieces ``(L,)``. Between words, before and behind them, a pause
        may be; the middle of a sound may be left out.
        """
        states, skips, sounds, first_places = [PAUSE], [False], [], []
        place = 0
        for pieces in words:
            begun = False
            for piece in pieces:
                if (first := _FIRST[piece]) >= 0:
                    sounds.append(place)
                    first_places.append(len(states))
                    states += range(first, first + PARTS)
                    skips += [not begun, *[False] * (PARTS - 2), True]
                    begun = True
                place += 1
            if begun:
                states.append(PAUSE)
                skips.append(False)
        chain = Chain(np.array(states), np.array(skips))
        return cls(chain, np.array(sounds, np.int64), np.array(first_places, np.int64))

    def spread(self, starts: np.ndarray, ends: np.ndarray, num_frames: int) -> np.ndarray:
        """Return the states ``(num_frames,)`` of frames where each sound lies between these frames ``(N,)``."""
        states = np.full(num_frames, PAUSE)
        for place, start, end in zip(self.first_places, starts.tolist(), ends.tolist(), strict=True):
            parts = (np.arange(max(0, end - start)) + 0.5) / max(1, end - start) * PARTS
            states[start:end] = self.chain.states[place] + parts.astype(np.int64)[: max(0, num_frames - start)]
        return states

    def bounds(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first frame of each sound ``(N,)`` and that behind its last, on a path ``(T,)`` of `align`."""
        return np.searchsorted(places, self.first_places), np.searchsorted(places, self.first_places + PARTS)
