"""The checkpoints of a run, whichever launcher wrote them: folders below the run's, of the files that `Trainer.save`
writes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from triforce.ingest import storage
from triforce.train.trainer.loop import CHECKPOINT_FILES, Trainer

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


def write(trainer: Trainer, run_uri: str) -> None:
    """Save the trainer's state below the run's folder, and remove this launcher's oldest. Every rank calls it where
    weights are sharded, else rank 0 alone.
    """
    name = f"{PREFIX}-{trainer.state.step:08d}"
    with tempfile.TemporaryDirectory(prefix="triforce-checkpoint-") as temporary:
        trainer.save(Path(temporary))
        if trainer.rank:
            return
        fs, path = storage.resolve(storage.join(run_uri, name))
        fs.makedirs(path, exist_ok=True)
        for file in CHECKPOINT_FILES:  # the last one is what `newest` looks for
            fs.put_file(f"{temporary}/{file}", f"{path}/{storage.TEMPORARY_PREFIX}{file}")
            fs.mv(f"{path}/{storage.TEMPORARY_PREFIX}{file}", f"{path}/{file}")
    fs, path = storage.resolve(run_uri)
    for old in sorted(fs.glob(f"{path}/{PREFIX}-*"))[:-KEPT]:
        if storage.is_local(run_uri):
            shutil.rmtree(old, ignore_errors=True)
        else:
            fs.rm(old, recursive=True)
