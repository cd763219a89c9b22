"""Write training curves while a run goes on: ``metrics.jsonl`` and TensorBoard event files."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Any

from triforce.ingest import storage

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class Curves:
    """Writes the whole history to ``metrics.jsonl`` and what is new of it to ``tensorboard/``, each time it is called.

    A resumed run withdraws the events after the checkpoint it starts from. Event files are appended to, which object
    stores cannot do: there, ``metrics.jsonl`` alone is written.
    """

    def __init__(self, run_uri: str, first_step: int) -> None:
        self._uri = storage.join(run_uri, "metrics.jsonl")
        self._folder = storage.resolve(storage.join(run_uri, "tensorboard"))[1] if storage.is_local(run_uri) else None
        self._step = first_step
        self._writer: SummaryWriter | None = None

    def __call__(self, history: list[dict[str, float]]) -> None:
        storage.write_bytes(self._uri, as_lines(history))
        if self._folder is None:
            return
        if self._writer is None:  # only the rank that logs opens a file
            try:
                from tensorboardX import SummaryWriter
            except ImportError:  # a bare machine: metrics.jsonl says the same
                self._folder = None
                return
            self._writer = SummaryWriter(self._folder, **self._options())
        for entry in history:
            if entry["step"] > self._step:
                for name, value in entry.items():
                    if name != "step":
                        self._writer.add_scalar(name, value, int(entry["step"]))
        self._step = int(history[-1]["step"])
        self._writer.flush()

    def _options(self) -> dict[str, Any]:
        """Options of the event file; the suffix is for files that are opened within a second of each other."""
        return {"purge_step": self._step + 1, "flush_secs": 5, "filename_suffix": f".{self._step}"}

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def as_lines(history: list[dict[str, float]]) -> bytes:
    """Return one JSON object a line."""
    return "".join(json.dumps(entry) + "\n" for entry in history).encode()
