"""The sound of one sentence while its codes are being drawn: even in loudness, and without clicks at its ends.

The loudness of a sentence is known only when it ends, so a stream has one gain for all: that of a voice, measured on
`SAMPLES` before it is first heard. Peaks are bent, not cut (`loudness.limited`).
"""

from __future__ import annotations

import numpy as np

from triforce.flows.speech.loudness import FADE_S, limited, silence, speech_level_db
from triforce.flows.speech.speaker import PAUSE_S, Speaker
from triforce.models.audio.streaming import CodeStream

FIRST_S, MOST_S = 0.3, 2.4
"""Length of the first two parts of a text and of the longest ones; from the third on each is twice the one before.
Assumed: a listener hears the first soon, the second before that is over, and the later ones cost less."""
SAMPLES = (
    "The ferry leaves at noon, and nobody waits for it.",
    "How many people live there now?",
    "She opened the window, looked down the street, and closed it again.",
)
"""What a voice says when its loudness is measured."""


def measure_gain(speaker: Speaker) -> float:
    """Return the gain that brings a voice to the loudness of its config, 1 where it names none."""
    target_db = speaker.config.level_db
    if target_db is None:
        return 1.0
    drawn = speaker.draw_all(SAMPLES, range(len(SAMPLES)))
    first = [candidates[0] for candidates in drawn]
    sound = np.concatenate([speaker.release.render(one.codes, spoken=one.spoken)[0] for one in first])
    now_db = speech_level_db(sound, speaker.release.sample_rate_hz)
    return float(10 ** ((target_db - now_db) / 20)) if np.isfinite(now_db) else 1.0


class UtteranceStream:
    """Turns the codes of a sentence into the samples that a listener gets, with the pause behind them."""

    def __init__(self, stream: CodeStream, gain: float, sample_rate_hz: int) -> None:
        self.stream, self.gain, self.rate_hz = stream, gain, sample_rate_hz
        self.ramp = _ramp(sample_rate_hz)
        self.held = np.zeros(0, np.float32)
        """The last samples, which fade if nothing follows."""
        self.started = False
        self.num_codes = 0

    def needs(self, seconds: float) -> int:
        """Return how many codes there must be for so much more sound."""
        return self.stream.codes_for(round(seconds * self.rate_hz) + len(self.ramp))

    def push(self, codes: np.ndarray, spoken: np.ndarray | None = None, *, last: bool = False) -> np.ndarray:
        """Return the samples that are settled now; ``codes`` are all that were drawn so far, ``spoken`` the pieces of
        text that are said in them.
        """
        new = slice(self.num_codes, None)
        fresh = self.stream.push(codes[new], None if spoken is None else spoken[new], last=last)
        self.num_codes = len(codes)
        sound = np.concatenate([self.held, limited(self.gain * fresh)])
        size = min(len(self.ramp), len(sound))
        if not self.started and size:
            sound[:size] *= self.ramp[:size]
            self.started = size == len(self.ramp)
        if last:
            sound[len(sound) - size :] *= self.ramp[::-1][len(self.ramp) - size :]
            return np.concatenate([sound, silence(PAUSE_S, self.rate_hz)])
        self.held = sound[len(sound) - size :]
        return sound[: len(sound) - size]


def _ramp(sample_rate_hz: int) -> np.ndarray:
    """Return the half of a cosine that rises from 0 to 1 within `FADE_S`, ``(N,)`` float32."""
    size = int(FADE_S * sample_rate_hz)
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / size)).astype(np.float32)
