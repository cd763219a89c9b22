"""The thresholds that the browse page has sliders for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triforce.ingest.clips.filters import FilterConfig


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
