"""The checkpoints of a run, whichever launcher wrote them: folders below the run's, of the files that `Trainer.save`
writes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from triforce.ingest import storage
from triforce.train.trainer.snapshot import CHECKPOINT_FILES, Snapshot

log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints of its own that a run keeps."""
PREFIX = "checkpoint"
"""What the names of checkpoints' folders begin with, Ray's (``checkpoint_<time>``) and ours (``checkpoint-<step>``)."""


def newest(run_uri: str) -> tuple[int, str] | None:
    """The step and the URI of the whole checkpoint that has come furthest; None where there is none."""
    fs, path = storage.resolve(run_uri)
    found = []
    for state in fs.glob(f"{path}/{PREFIX}*/state.json"):
        folder = state.rsplit("/", 1)[0]
        if all(fs.exists(f"{folder}/{name}") for name in CHECKPOINT_FILES):
            found.append((int(json.loads(fs.cat_file(state))["step"]), fs.unstrip_protocol(folder)))
    return max(found, default=None)


@contextlib.contextmanager
def as_folder(uri: str) -> Iterator[Path]:
    """A checkpoint as a local folder, for as long as the block runs."""
    fs, path = storage.resolve(uri)
    if storage.is_local(uri):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="triforce-checkpoint-") as folder:
        for name in CHECKPOINT_FILES:
            fs.get_file(f"{path}/{name}", f"{folder}/{name}")
        yield Path(folder)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written: training must not go on as if it had been."""


class Writer:
    """Writes checkpoints below a run's folder in a thread, one at a time. Leaving its context waits for the last."""

    def __init__(self, run_uri: str) -> None:
        self.run_uri = run_uri
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[None]] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except CheckpointError:
            if error is None:
                raise
            log.exception("while another error ends the run")
        finally:
            self._thread.shutdown()

    def wait(self) -> None:
        """Return when no checkpoint is being written. Raises CheckpointError where the last one could not be."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, written = pending
        try:
            written.result()
        except Exception as error:
            raise CheckpointError(
                f"{self.run_uri}: the checkpoint of step {step} was not written ({type(error).__name__}: {error}); the "
                "one before it is whole. Make room or access there, then run the same command again"
            ) from error

    def submit(self, snapshot: Snapshot) -> None:
        """Begin to write a checkpoint, after the one before it. Raises CheckpointError where that failed."""
        self.wait()
        self._pending = snapshot.step, self._thread.submit(write, snapshot, self.run_uri)


def write(snapshot: Snapshot, run_uri: str) -> None:
    """Write a checkpoint below the run's folder, and remove this launcher's oldest."""
    write_as(snapshot, run_uri, f"{PREFIX}-{snapshot.step:08d}")
    fs, path = storage.resolve(run_uri)
    for old in sorted(fs.glob(f"{path}/{PREFIX}-*"))[:-KEPT]:
        if storage.is_local(run_uri):
            shutil.rmtree(old, ignore_errors=True)
        else:
            fs.rm(old, recursive=True)


def write_as(snapshot: Snapshot, run_uri: str, name: str) -> None:
    """Write a checkpoint as folder ``name`` below the run's: there it is whole, or not for `newest`. Killed before, it
    leaves a folder under a temporary name, which the next one removes.
    """
    fs, path = storage.resolve(run_uri)
    with storage.named_disk_errors(path):
        if storage.is_local(run_uri):
            _write_local(snapshot, Path(path), name)
            return
        with tempfile.TemporaryDirectory(prefix="triforce-checkpoint-") as temporary:
            snapshot.write(Path(temporary))
            fs.makedirs(f"{path}/{name}", exist_ok=True)
            for file in CHECKPOINT_FILES:  # the last one is what `newest` looks for
                fs.put_file(f"{temporary}/{file}", f"{path}/{name}/{storage.TEMPORARY_PREFIX}{file}")
                fs.mv(f"{path}/{name}/{storage.TEMPORARY_PREFIX}{file}", f"{path}/{name}/{file}")


def _write_local(snapshot: Snapshot, folder: Path, name: str) -> None:
    """Write the files into a folder of a temporary name and rename that."""
    for left in folder.glob(f"{storage.TEMPORARY_PREFIX}{PREFIX}*"):
        shutil.rmtree(left)
    temporary, final = folder / f"{storage.TEMPORARY_PREFIX}{name}", folder / name
    temporary.mkdir(parents=True)
    snapshot.write(temporary)
    if final.exists():  # half of one, or of a run that went another way
        shutil.rmtree(final)
    temporary.rename(final)
