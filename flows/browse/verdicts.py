"""The filters on whole columns: which clips are kept at which thresholds, and which clips a threshold decides.

`triforce.ingest.clips.filters` decides of one clip; here the same is computed for all of them at once, from what
`triforce.ingest.clips.score_index` remembers. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from triforce.ingest.clips.filters import SHORT_WORDED, FilterConfig
from triforce.ingest.clips.refilter import MIN_CLIPS_FOR_RATE
from triforce.ingest.corpus.records import PUBLISHED, DropReason

Columns = Mapping[str, np.ndarray]
"""Columns of N clips by name, as `score_index` has them; of `NAMES` the places in `Names`."""
Names = Mapping[str, list[str | None]]
"""The different values of the columns of few texts."""
KEPT = 0
REASONS = (None, *DropReason)
"""What a verdict's number means; 0: kept."""


@dataclass(frozen=True)
class Threshold:
    """A limit of `FilterConfig`, and the score that it is about."""

    field: str
    score: str
    keeps_above: bool
    """Whether clips over the limit are kept, or those under it."""

    @property
    def nothing(self) -> float:
        """The limit at which nothing is dropped."""
        return -np.inf if self.keeps_above else np.inf

    @property
    def everything(self) -> float:
        """The limit at which every clip is dropped that it is about."""
        return -self.nothing


THRESHOLDS = (
    Threshold("min_s", "duration_s", True),
    Threshold("max_s", "duration_s", False),
    Threshold("min_snr_db", "snr_db", True),
    Threshold("min_avg_logprob", "avg_logprob", True),
    Threshold("min_agreement", "agreement", True),
    Threshold("max_no_speech_prob", "no_speech_prob", False),
    Threshold("max_compression_ratio", "compression_ratio", False),
    Threshold("min_unique_word_share", "unique_word_share", True),
    Threshold("min_language_probability", "language_probability", True),
    Threshold("min_chars_per_s", "letters_per_s", True),
    Threshold("max_chars_per_s", "letters_per_s", False),
    Threshold("max_edge_db", "edge_db", False),
    Threshold("max_clipped_share", "clipped_share", False),
    Threshold("min_rms_dbfs", "rms_dbfs", True),
    Threshold("min_modulation_db", "modulation_db", True),
    Threshold("min_bandwidth_hz", "bandwidth_hz", True),
    Threshold("min_voice_similarity", "voice_similarity", True),
    Threshold("max_overlap_share", "overlap_share", False),
    Threshold("min_dnsmos", "dnsmos_ovrl", True),
    Threshold("max_word_chars", "longest_word", False),
    Threshold("max_compound_chars", "longest_word", False),
)


def with_limit(config: FilterConfig, threshold: Threshold, limit: float) -> FilterConfig:
    """Return the config with another limit, which may be infinite: it is not a valid file then."""
    return config.model_copy(update={threshold.field: limit})


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
    """As `refilter` does: the quartiles are those of the clips of a source that nothing else drops."""
    rate, unusual = clips["letters_per_s"], np.zeros(len(reasons), bool)
    usable = (reasons == KEPT) & ~np.isnan(rate)
    for source in np.unique(clips["source"][usable]):
        here = usable & (clips["source"] == source)
        rates = rate[here]
        if len(rates) >= MIN_CLIPS_FOR_RATE:
            low, high = np.percentile(rates.astype(np.float32).astype(np.float64), [25, 75])
            spread = max_rate_iqr * (high - low)
            unusual |= here & ((rate < low - spread) | (rate > high + spread))
    return unusual


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
