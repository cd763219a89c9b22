"""The result of an ingest run as one table: in, fetched, rejected, clips kept and dropped, hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from triforce.ingest.clips.clip_recording import ClipSummary
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import Recording, Status
from triforce.ingest.errors import REASONS
from triforce.ingest.sync import SyncSummary
from triforce.ingest.text_tables import format_table


@dataclass
class SourceSummary:
    """Counts of one source in a run."""

    sync: SyncSummary
    clips: int = 0
    kept: int = 0
    dropped: Counter = field(default_factory=Counter)
    """Clips by `DropReason`."""
    unusable: Counter = field(default_factory=Counter)
    """Recordings that were fetched but gave no clip, by `RejectReason`."""
    done: int = 0
    """Recordings that were finished, with whatever result."""
    errors: list[str] = field(default_factory=list)
    """Errors of tasks that failed for a reason of our own: a full disk, a lost cluster."""
    is_disk_full: bool = False
    recording_s: float = 0.0
    kept_s: float = 0.0
    clip_wall_s: float = 0.0

    def add_recording(self, recording: Recording) -> None:
        """Count a recording that was visited."""
        self.sync.discovered += 1
        self.sync.add(recording)

    def add_clips(self, summary: ClipSummary) -> None:
        """Count the clips of a recording that was cut."""
        self.clips += summary.num_clips
        self.kept += summary.num_kept
        self.dropped.update(summary.dropped)
        self.recording_s += summary.recording_s
        self.kept_s += summary.kept_s
        self.clip_wall_s += summary.wall_s
        if summary.status == Status.REJECTED:
            self.unusable[summary.reason] += 1

    @property
    def not_taken(self) -> Counter:
        """Recordings that gave no clips, by `RejectReason`, or "error" where a task failed."""
        return self.sync.rejected + self.unusable + Counter(error=len(self.errors))

    def failure(self, settings: Settings) -> str | None:
        """Return why this source makes the run count as failed, None if it went well enough."""
        if self.is_disk_full:
            return f"{self.sync.source}: {self.errors[-1]}"
        if self.errors and not self.done:
            return f"{self.sync.source}: the run broke off: {self.errors[-1]}"
        if len(self.errors) > settings.max_failed_share * self.done:
            number = f"{len(self.errors)} of {self.done} recordings failed"
            return f"{self.sync.source}: {number}, the last with {self.errors[-1]}"
        return self.sync.failure(settings)

    def row(self) -> dict[str, str | int]:
        """Return a row of the table, in words and plain numbers."""
        return {
            "source": self.sync.source,
            "in": self.sync.discovered,
            "fetched": self.sync.fetched,
            "duplicates": self.sync.duplicates,
            "rejected": counted(self.not_taken),
            "clips": self.clips,
            "kept": self.kept,
            "dropped": counted(self.dropped),
            "hours": f"{self.recording_s / 3600:.2f}",
            "kept hours": f"{self.kept_s / 3600:.2f}",
            "x real time": f"{self.recording_s / self.clip_wall_s:.1f}" if self.clip_wall_s else "-",
        }


def counted(counts: Counter) -> str:
    """Format counts as ``3: 2 network, 1 not_audio``, or ``0``."""
    if not counts.total():
        return "0"
    return f"{counts.total()}: {', '.join(f'{number} {reason}' for reason, number in counts.most_common())}"


def as_text(rows: Iterable[dict]) -> str:
    """Return the table in columns, for a terminal, and what to do about each reason in it."""
    rows = list(rows)
    if not rows:
        return "nothing"
    table = format_table(list(rows[0]), [list(row.values()) for row in rows], left=range(len(rows[0])))
    met = {word.strip(",") for row in rows for word in str(row.get("rejected", "")).split()}
    return "\n".join([table, *(f"{name}: {each.advice}" for name, each in REASONS.items() if name in met)])
