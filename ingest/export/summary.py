"""Counts of an export, for its card and for the terminal."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from triforce.ingest.export.config import SCORES
from triforce.ingest.export.writers import Exported
from triforce.ingest.text_tables import format_table

Seconds = defaultdict[str | None, float]


def seconds() -> Seconds:
    """Return a sum of seconds for each name, of which there is none yet."""
    return defaultdict(float)


@dataclass
class ExportSummary:
    """What an export holds, and what it left out. All sums are of seconds."""

    by_licence: Seconds = field(default_factory=seconds)
    by_source: Seconds = field(default_factory=seconds)
    by_language: Seconds = field(default_factory=seconds)
    by_split: Seconds = field(default_factory=seconds)
    licences_of: defaultdict[str, Seconds] = field(default_factory=lambda: defaultdict(seconds))
    """By source, then by licence."""
    authors_of: defaultdict[str, Seconds] = field(default_factory=lambda: defaultdict(seconds))
    """By source, then by author."""
    speakers: set[tuple[str, str]] = field(default_factory=set)
    """Each with its source."""
    scores: dict[str, array] = field(default_factory=lambda: {name: array("f") for name in SCORES})
    num_clips: int = 0
    duration_s: float = 0.0
    left_out: Counter = field(default_factory=Counter)
    """Clips that are not exported, by reason."""

    def add(self, exported: Exported) -> None:
        """Count a clip that was written."""
        clip = exported.clip
        self.num_clips += 1
        self.duration_s += clip.duration_s
        for sums, name in (
            (self.by_licence, clip.licence),
            (self.by_source, clip.source),
            (self.by_language, clip.language),
            (self.by_split, exported.split),
            (self.licences_of[clip.source], clip.licence),
            (self.authors_of[clip.source], clip.author),
        ):
            sums[name] += clip.duration_s
        if clip.speaker:
            self.speakers.add((clip.source, clip.speaker))
        for name, found in self.scores.items():
            if (value := getattr(clip, name)) is not None:
                found.append(value)

    def table(self) -> str:
        """Return the counts as text."""
        rows: list[tuple[str, int, str]] = [("exported", self.num_clips, f"{self.duration_s / 3600:.2f}")]
        rows += [(f"left out: {reason}", number, "") for reason, number in self.left_out.most_common()]
        return format_table(("", "clips", "hours"), rows)
