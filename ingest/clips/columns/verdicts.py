"""The filters on whole columns: why each of many clips is dropped, or not.

`triforce.ingest.clips.filters` decides of one clip; here the same is computed for all of them at once, from columns of
a clip file or from what `triforce.ingest.clips.score_index` remembers. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from triforce.ingest.clips.filters import SHORT_WORDED, FilterConfig
from triforce.ingest.corpus.records import PUBLISHED, DropReason

Columns = Mapping[str, np.ndarray]
"""Columns of N clips by name, as `score_index` has them, and ``text_is_null``; of its `NAMES` the places in `Names`."""
Names = Mapping[str, list[str | None]]
"""The different values of the columns of few texts."""
KEPT = 0
REASONS = (None, *DropReason)
"""What a verdict's number means; 0: kept."""
MIN_CLIPS_FOR_RATE = 20
"""Clips of a source from which its speaking rate is known well enough to drop outliers; after Emilia."""


def judge(clips: Columns, names: Names, config: FilterConfig, marked: np.ndarray) -> np.ndarray:
    """Return for each clip the number of its reason in `REASONS`, uint8 ``(N,)``; ``marked`` is bool ``(N,)``.

    ``max_rate_iqr`` is about all clips of a source: give them together.
    """
    reasons = np.zeros(len(marked), np.uint8)
    reasons[marked] = REASONS.index(DropReason.MARKED_WRONG)
    undecided = ~marked & _is_any(clips, names, "modality", {None, "speech"})
    for reason, holds in _CHECKS.items():
        hit = holds(clips, names, config)
        hit &= undecided
        reasons[hit] = REASONS.index(reason)
        undecided[hit] = False
    if config.max_rate_iqr is not None:
        reasons[_is_unusual_rate(clips, reasons, config.max_rate_iqr)] = REASONS.index(DropReason.SPEAKING_RATE)
    return reasons


def _is_unusual_rate(clips: Columns, reasons: np.ndarray, max_rate_iqr: float) -> np.ndarray:
    """The quartiles are those of the clips of a source that nothing else drops."""
    rate, unusual = clips["letters_per_s"], np.zeros(len(reasons), bool)
    usable = (reasons == KEPT) & ~np.isnan(rate)
    for source in np.unique(clips["source"][usable]):
        here = usable & (clips["source"] == source)
        if limits := rate_limits(rate[here].astype(np.float32), max_rate_iqr):
            unusual |= here & ((rate < limits[0]) | (rate > limits[1]))
    return unusual


def rate_limits(rates: np.ndarray, max_rate_iqr: float) -> tuple[float, float] | None:
    """Return the lowest and highest rate of a source that no outlier has, from its kept clips' rates, float32 ``(N,)``;
    None where they are too few."""
    if len(rates) < MIN_CLIPS_FOR_RATE:
        return None
    low, high = np.percentile(rates.astype(np.float64), [25, 75])
    return float(low - max_rate_iqr * (high - low)), float(high + max_rate_iqr * (high - low))


def _below(scores: np.ndarray, limit: float) -> np.ndarray:
    """Whether scores are under a limit, as numbers of float64 are compared, without making them such: the limit is
    rounded up to the next that the scores' type holds."""
    rounded = scores.dtype.type(limit)
    if float(rounded) < limit:
        rounded = np.nextafter(rounded, scores.dtype.type(np.inf))
    return scores < rounded


def _above(scores: np.ndarray, limit: float) -> np.ndarray:
    rounded = scores.dtype.type(limit)
    if float(rounded) > limit:
        rounded = np.nextafter(rounded, scores.dtype.type(-np.inf))
    return scores > rounded


def _is_any(clips: Columns, names: Names, column: str, values: set[str | None] | frozenset[str | None]) -> np.ndarray:
    return np.array([name in values for name in names[column]] or [False])[clips[column]]


def _is_wrong_language(clips: Columns, names: Names, config: FilterConfig) -> np.ndarray:
    wrong = _below(clips["language_probability"], config.min_language_probability)
    wrong &= ~_is_any(clips, names, "text_source", {PUBLISHED})
    wrong |= clips["text_is_null"].astype(bool) & ~_is_any(clips, names, "asr_model", {None})
    if config.languages is not None:
        wrong |= ~_is_any(clips, names, "language", {None, *config.languages})
    return wrong


def _has_long_word(clips: Columns, names: Names, config: FilterConfig) -> np.ndarray:
    is_short = _is_any(clips, names, "language", SHORT_WORDED)
    return clips["longest_word"] >= np.where(is_short, config.max_word_chars, config.max_compound_chars)


def _compare(column: str, compare: Callable[[np.ndarray, float], np.ndarray], field: str, more: float = 0.0) -> _Check:
    return lambda clips, names, config: compare(clips[column], getattr(config, field) + more)


_Check = Callable[[Columns, Names, FilterConfig], np.ndarray]
_CHECKS: dict[DropReason, _Check] = {
    DropReason.NO_SPEECH: lambda clips, _, config: (
        _above(clips["no_speech_prob"], config.max_no_speech_prob)
        & _below(clips["avg_logprob"], config.min_avg_logprob)
    ),
    DropReason.NO_TEXT: lambda clips, _, __: clips["no_words"] == 1,
    DropReason.TOO_SHORT: _compare("duration_s", _below, "min_s"),
    DropReason.TOO_LONG: _compare("duration_s", _above, "max_s", more=1e-3),
    DropReason.CUT_WORD: lambda clips, _, config: (
        (clips["cut_blind"] == 1) | ((clips["touches_edge"] == 1) & _above(clips["edge_db"], config.max_edge_db))
    ),
    DropReason.WRONG_LANGUAGE: _is_wrong_language,
    DropReason.REPETITION: lambda clips, _, config: (
        (clips["unique_word_share"] <= config.min_unique_word_share)
        | _above(clips["compression_ratio"], config.max_compression_ratio)
    ),
    DropReason.LONG_WORD: _has_long_word,
    DropReason.PHANTOM_PHRASE: lambda clips, _, __: clips["is_phantom"] == 1,
    DropReason.LOW_CONFIDENCE: _compare("avg_logprob", _below, "min_avg_logprob"),
    DropReason.DISAGREEMENT: _compare("agreement", _below, "min_agreement"),
    DropReason.SPEAKING_RATE: lambda clips, _, config: (
        _below(clips["letters_per_s"], config.min_chars_per_s) | _above(clips["letters_per_s"], config.max_chars_per_s)
    ),
    DropReason.CLIPPED: _compare("clipped_share", _above, "max_clipped_share"),
    DropReason.QUIET: _compare("rms_dbfs", _below, "min_rms_dbfs"),
    DropReason.MUSIC: _compare("modulation_db", _below, "min_modulation_db"),
    DropReason.NOISY: _compare("snr_db", _below, "min_snr_db"),
    DropReason.MANY_SPEAKERS: lambda clips, _, config: (
        _below(clips["voice_similarity"], config.min_voice_similarity)
        | _above(clips["overlap_share"], config.max_overlap_share)
    ),
    DropReason.LOW_DNSMOS: _compare("dnsmos_ovrl", _below, "min_dnsmos"),
    DropReason.NARROW_BAND: _compare("bandwidth_hz", _below, "min_bandwidth_hz"),
}
"""In the order of `filters.drop_reason`."""
