"""How much of a clip two voices speak at once, by their pitch: no model, and no other voice to compare with.

A voiced sound repeats after its pitch period. Subtracting the sound of one period before takes the strongest voice out
(a comb filter, as in de Cheveigné 1993); where what is left is strong enough and repeats after a period that stands in
no simple ratio to the first, a second voice was there. Noise has no period and does not count; music with several notes
does, and an echo a little.
"""

from __future__ import annotations

import numpy as np

RATE_HZ = 16_000
FRAME, HOP = 1024, 512
"""Samples of a frame, 64 ms: two periods of the lowest pitch behind the comb filter's delay; and between frames."""
MIN_PITCH_HZ, MAX_PITCH_HZ = 70, 400
MIN_PERIODICITY = 0.5
"""Autocorrelation at the period from which on a sound is voiced. Assumed."""
MIN_REST = 0.1
"""Share of a frame's energy that is left by the comb filter where a second voice speaks: of one voice, whose pitch
moves within the frame, 0.07 on average. Measured."""
RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 3 / 2, 2, 3, 4, 5)
RATIO_TOLERANCE = 0.06
"""Periods in such a ratio to the first, a semitone about it, are what the comb filter left of the first voice: without
this every low voice counts as two. Measured."""
LOUD_DB = 20.0
"""Frames so far under a clip's loud ones are not listened to."""
MIN_FRAMES = 15
"""Voiced frames, half a second, under which a clip has no share."""

_WINDOW = np.hanning(FRAME)
_SHORTEST, _LONGEST = RATE_HZ // MAX_PITCH_HZ, RATE_HZ // MIN_PITCH_HZ


def overlap_share(waveform: np.ndarray) -> float | None:
    """Return the share of the voiced frames in which a second pitch is heard, 0 to 1; None where little is voiced.

    ``waveform`` is ``(N,) float32`` at 16 kHz. The share is an index, not a measure of time: where two voices speak all
    the while it is about 0.2, as both must be voiced, of like strength and not in a simple ratio.
    """
    if len(waveform) < FRAME:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME)[::HOP].astype(np.float64)
    level_db = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    frames = frames[level_db > np.percentile(level_db, 95) - LOUD_DB]
    correlation = _correlation(frames)[:, _SHORTEST:_LONGEST]
    period, periodicity = correlation.argmax(axis=1) + _SHORTEST, correlation.max(axis=1)
    is_voiced = periodicity > MIN_PERIODICITY
    if is_voiced.sum() < MIN_FRAMES:
        return None
    frames, period = frames[is_voiced], period[is_voiced]
    rest = _without_period(frames, period)
    energy, rest_energy = (np.sum(each[:, _LONGEST:] ** 2, axis=1) for each in (frames, rest))
    is_second = (_other_periodicity(rest, period) > MIN_PERIODICITY) & (rest_energy > MIN_REST * energy)
    return float(is_second.mean())


def _correlation(frames: np.ndarray) -> np.ndarray:
    """Normalised autocorrelation ``(F, _LONGEST + 2)`` of ``(F, FRAME)``, less that of the window (Boersma 1993)."""
    spectrum = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * _WINDOW, 2 * FRAME)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, : _LONGEST + 2]
    return correlation / np.maximum(correlation[:, :1], 1e-9) / _window_correlation()


def _other_periodicity(frames: np.ndarray, period: np.ndarray) -> np.ndarray:
    """The highest peak of the autocorrelation at a period in no simple ratio to ``period``, ``(F,)``; 0 if none."""
    correlation = _correlation(frames)
    middle = correlation[:, 1:-1]
    is_peak = (middle > correlation[:, :-2]) & (middle >= correlation[:, 2:])
    lags = np.arange(1, _LONGEST + 1)
    is_peak &= (lags >= _SHORTEST) & (lags < _LONGEST)
    ratio = lags / period[:, None]
    for simple in RATIOS:
        is_peak &= np.abs(ratio / simple - 1) >= RATIO_TOLERANCE
    return np.where(is_peak, middle, 0.0).max(axis=1)


def _window_correlation() -> np.ndarray:
    correlation = np.fft.irfft(np.abs(np.fft.rfft(_WINDOW, 2 * FRAME)) ** 2)[: _LONGEST + 2]
    return correlation / correlation[0]


def _without_period(frames: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Half the difference between each sample and the one a period before; 0 where there is none."""
    before = np.arange(FRAME) - period[:, None]
    earlier = np.take_along_axis(frames, np.maximum(before, 0), axis=1)
    return np.where(before >= 0, 0.5 * (frames - earlier), 0.0)
