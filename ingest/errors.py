"""The exception of ingest: something outside is not as it should be, for a named reason."""

from __future__ import annotations

from triforce.ingest.corpus.records import RejectReason


class Rejected(ValueError):
    """A recording, feed, page or media file that cannot be used. ``detail`` is a sentence for a person."""

    def __init__(self, reason: RejectReason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = RejectReason(reason)
        self.detail = detail

    def __reduce__(self):  # exceptions cross process borders under Prefect and Ray
        return type(self), (self.reason, self.detail)
