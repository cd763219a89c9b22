"""What thresholds do to a corpus: histograms of scores, hours that are kept, and the clips at a threshold's border."""

from __future__ import annotations

import json
from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from triforce.flows.browse.catalogue import Catalogue
from triforce.flows.browse.thresholds import THRESHOLDS, Threshold, with_limit
from triforce.ingest import storage
from triforce.ingest.clips.columns.verdicts import KEPT, REASONS, judge
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.score_index import SCORES, TEXT_SCORES

NUM_BINS = 48
"""Bins of a histogram. Assumed."""
OUTER_PERCENT = 0.5
"""Share of clips at either end that lies in the outermost bin, percent: one clip far out would hide all others.
Assumed."""
REMEMBERED = 8
"""Verdicts that are kept in memory, a byte a clip each."""
BORDER_CLIPS = 6
"""Clips that are shown at either side of a threshold."""


class Border(NamedTuple):
    """Rows of the clips that a threshold decides, the nearest to it first."""

    inside: list[int]
    outside: list[int]
    num_outside: int
    """How many clips nothing but this threshold drops."""
    hours_outside: float


class Judge:
    """Verdicts on a catalogue's clips, the last few of them remembered."""

    def __init__(self, catalogue: Catalogue, marked: np.ndarray) -> None:
        self.catalogue, self.marked = catalogue, marked
        self._lock = Lock()
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def mark(self, row: int, wrong: bool) -> None:
        """Mark a clip, or take its mark back."""
        with self._lock:
            self.marked[row] = wrong
            self._known.clear()

    def verdicts(self, config: FilterConfig) -> np.ndarray:
        """Return the number of each clip's reason, uint8 ``(N,)``."""
        key = repr(config)
        with self._lock:
            if key not in self._known:
                self._known[key] = judge(self.catalogue.clips, self.catalogue.names, config, self.marked)
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return self._known[key]

    def summary(self, config: FilterConfig) -> dict[str, Any]:
        """Return clips and hours by source and by reason, of which null is kept."""
        clips, num_sources = self.catalogue.clips, len(self.catalogue.sources)
        cell = clips["source"].astype(np.int32) * len(REASONS) + self.verdicts(config)
        size = num_sources * len(REASONS)
        shape = (num_sources, len(REASONS))
        counts = np.bincount(cell, minlength=size).reshape(shape)
        hours = np.bincount(cell, clips["duration_s"], size).reshape(shape) / 3600
        return {
            "num_kept": int(counts[:, KEPT].sum()),
            "kept_h": float(hours[:, KEPT].sum()),
            "num_clips": int(counts.sum()),
            "hours": float(hours.sum()),
            "by_source": [
                {"source": name, "num_kept": int(counts[at, KEPT]), "num_clips": int(counts[at].sum())}
                | {"kept_h": float(hours[at, KEPT]), "hours": float(hours[at].sum())}
                for at, name in enumerate(self.catalogue.sources)
            ],
            "by_reason": [
                {"reason": str(reason), "num_clips": int(counts[:, at].sum()), "hours": float(hours[:, at].sum())}
                for at, reason in enumerate(REASONS)
                if reason is not None and counts[:, at].any()
            ],
        }

    def border(self, config: FilterConfig, threshold: Threshold, limit: int = BORDER_CLIPS) -> Border:
        """Return the clips nearest to a threshold, of those that it decides: that it drops, or keeps, alone."""
        scores = self.catalogue.clips[threshold.score]
        kept = self.verdicts(config) == KEPT
        outside = np.flatnonzero(~kept & (self.verdicts(with_limit(config, threshold, threshold.nothing)) == KEPT))
        inside = np.flatnonzero(kept & (self.verdicts(with_limit(config, threshold, threshold.everything)) != KEPT))
        sign = 1 if threshold.keeps_above else -1
        return Border(
            _least(inside, sign * scores[inside], limit),
            _least(outside, -sign * scores[outside], limit),
            len(outside),
            float(self.catalogue.clips["duration_s"][outside].sum(dtype=np.float64)) / 3600,
        )


def _least(rows: np.ndarray, values: np.ndarray, limit: int) -> list[int]:
    """The rows of the smallest values, in order; of equal ones the first."""
    if len(rows) > limit:
        largest = np.partition(values, limit - 1)[limit - 1]
        below = np.flatnonzero(values < largest)
        taken = np.concatenate([below, np.flatnonzero(values == largest)[: limit - len(below)]])
        rows, values = rows[taken], values[taken]
    return rows[np.lexsort((rows, values))].tolist()


def histograms(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return each score's histogram, counted once for a state of the corpus.

    Each has ``edges`` (`NUM_BINS` + 1), ``counts`` by source, ``missing`` and the thresholds that are about it. What
    lies beyond the outermost edges is counted in the outermost bins.
    """
    path = catalogue.folder / f"histograms-{NUM_BINS}.json"
    if not path.exists():
        found = [_histogram(catalogue, score) for score in (*SCORES, *TEXT_SCORES)]
        storage.write_bytes(path, json.dumps(found).encode())
    return json.loads(path.read_text("utf-8"))


def _histogram(catalogue: Catalogue, score: str) -> dict[str, Any]:
    values, num_sources = catalogue.clips[score], len(catalogue.sources)
    known = ~np.isnan(values)
    there = values[known].astype(np.float64)
    limits = [limit for one in THRESHOLDS if one.score == score for limit in _usual(one)]
    low, high = np.percentile(there, [OUTER_PERCENT, 100 - OUTER_PERCENT]) if len(there) else (0.0, 1.0)
    low, high = min([float(low), *limits]), max([float(high), *limits])
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, NUM_BINS + 1)
    bins = np.clip(((there - edges[0]) / (edges[-1] - edges[0]) * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    cells = catalogue.clips["source"][known].astype(np.int64) * NUM_BINS + bins
    counts = np.bincount(cells, minlength=num_sources * NUM_BINS).reshape(num_sources, NUM_BINS)
    return {
        "score": score,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "missing": int(len(values) - len(there)),
        "mean": float(there.mean()) if len(there) else None,
    }


def _usual(threshold: Threshold) -> list[float]:
    """The default limit, which a slider has to reach."""
    value = getattr(FilterConfig(), threshold.field)
    return [float(value)]
