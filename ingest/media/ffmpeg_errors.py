"""What PyAV's errors mean for a recording: a table with a row per class.

A broken file is broken for ever, and the row says what its owner can do. What the machine or this program did is not
the recording's fault: such an error is transient, and so is every error that has no row. Who tries again counts the
tries (`Settings.max_runs`, `clip_recording.MAX_TRIES`), so even an error that never passes ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected


class Verdict(NamedTuple):
    """What an error means for the recording, and what to do next."""

    reason: RejectReason
    advice: str


BROKEN = Verdict(RejectReason.UNDECODABLE, "play it elsewhere; if that works, convert it, as in ffmpeg -i FILE a.flac")
UNSUPPORTED = Verdict(
    RejectReason.UNDECODABLE, "this build of FFmpeg lacks a part for it; convert it to FLAC elsewhere"
)
MACHINE = Verdict(RejectReason.UNKNOWN, "it is tried again; look at this machine's disk, memory and rights")
NETWORK = Verdict(RejectReason.UNKNOWN, "a local file needs no network; it is tried again; report it with the file")
OURS = Verdict(RejectReason.UNKNOWN, "a fault of this program, not of the file; it is tried again; report it")
UNSORTED = Verdict(RejectReason.UNKNOWN, "no row of the table knows this error; it is tried again; report it")

ERRORS: dict[type[Exception], Verdict] = {
    # The file.
    av.error.InvalidDataError: BROKEN,
    av.error.EOFError: BROKEN,
    av.error.ArgumentError: BROKEN,
    av.error.BufferTooSmallError: BROKEN,
    av.error.OverflowError: BROKEN,
    av.error.InputChangedError: BROKEN,
    # The file and this build of FFmpeg.
    av.error.DecoderNotFoundError: UNSUPPORTED,
    av.error.DemuxerNotFoundError: UNSUPPORTED,
    av.error.BSFNotFoundError: UNSUPPORTED,
    av.error.ExperimentalError: UNSUPPORTED,
    av.error.PatchWelcomeError: UNSUPPORTED,
    av.error.NotImplementedError: UNSUPPORTED,
    # The machine.
    av.error.OSError: MACHINE,
    av.error.MemoryError: MACHINE,
    av.error.PermissionError: MACHINE,
    av.error.FileNotFoundError: MACHINE,
    av.error.FileExistsError: MACHINE,
    av.error.IsADirectoryError: MACHINE,
    av.error.NotADirectoryError: MACHINE,
    av.error.BlockingIOError: MACHINE,
    av.error.InterruptedError: MACHINE,
    av.error.TimeoutError: MACHINE,
    av.error.ChildProcessError: MACHINE,
    av.error.ProcessLookupError: MACHINE,
    # A network that no local file needs: `formats.OPTIONS` allows none.
    av.error.ProtocolNotFoundError: NETWORK,
    av.error.BrokenPipeError: NETWORK,
    av.error.ConnectionAbortedError: NETWORK,
    av.error.ConnectionRefusedError: NETWORK,
    av.error.ConnectionResetError: NETWORK,
    av.error.HTTPError: NETWORK,
    av.error.HTTPClientError: NETWORK,
    av.error.HTTPBadRequestError: NETWORK,
    av.error.HTTPUnauthorizedError: NETWORK,
    av.error.HTTPForbiddenError: NETWORK,
    av.error.HTTPNotFoundError: NETWORK,
    av.error.HTTPTooManyRequestsError: NETWORK,
    av.error.HTTPOtherClientError: NETWORK,
    av.error.HTTPServerError: NETWORK,
    # This program.
    av.error.OptionNotFoundError: OURS,
    av.error.EncoderNotFoundError: OURS,
    av.error.MuxerNotFoundError: OURS,
    av.error.FilterNotFoundError: OURS,
    av.error.LookupError: OURS,
    av.error.OutputChangedError: OURS,
    av.error.PyAVCallbackError: OURS,
    # Errors that FFmpeg itself does not sort.
    av.error.BugError: UNSORTED,
    av.error.ExitError: UNSORTED,
    av.error.ExternalError: UNSORTED,
    av.error.UnknownError: UNSORTED,
    av.error.UndefinedError: UNSORTED,
}


def verdict_on(error: Exception) -> Verdict:
    """Return the row of the error's own class; `UNSORTED` where it has none."""
    return ERRORS.get(type(error), UNSORTED)


def rejection(path: Path, what: str, error: Exception) -> Rejected:
    """Return how a recording is put on record whose file met ``error`` while ``what``, as in "decoding it"."""
    reason, advice = verdict_on(error)
    return Rejected(reason, f"{path.name}: {what}: {type(error).__name__}: {error}; {advice}")
