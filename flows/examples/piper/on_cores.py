"""Sentences spoken on all cores of a machine without a GPU, a process and a thread each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from triforce.flows.examples.piper.prepared import Marks, SpokenText, load_voice
from triforce.flows.examples.piper.synthesise import SpokenBatch, SynthesisConfig, Synthesiser
from triforce.flows.examples.piper.vits import Vits
from triforce.ingest.cores import num_cores
from triforce.models.memory import reuse_freed_memory

CHUNK = 8
"""Sentences that a process speaks at a time."""
AHEAD = 2
"""Chunks that wait for each process."""


def speak_on_cores(prepared: Path, texts: Sequence[SpokenText], config: SynthesisConfig) -> Iterator[SpokenBatch]:
    """Speak sentences in their order with the voice of a prepared folder.

    Each chunk has a seed of its own, so that what comes out does not depend on the number of cores. Sentences are
    spoken one by one, which keeps to the cache: 10.4 x real time a core, two at once 8.2 x (a Xeon with AMX).
    """
    config, cores = replace(config, batch_size=1), num_cores()
    chunks = (
        (prepared, texts[at : at + CHUNK], replace(config, seed=config.seed + at)) for at in range(0, len(texts), CHUNK)
    )
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        waiting: deque[Future[list[SpokenBatch]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_speak, *chunk))
                if len(waiting) >= AHEAD * cores:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one_thread() -> None:
    reuse_freed_memory()
    torch.set_num_threads(1)


def _speak(prepared: Path, texts: Sequence[SpokenText], config: SynthesisConfig) -> list[SpokenBatch]:
    if prepared not in _voices:
        _voices[prepared] = load_voice(prepared, "cpu")
    network, marks = _voices[prepared]
    return list(Synthesiser(network, marks, config)(texts))


_voices: dict[Path, tuple[Vits, Marks]] = {}
"""The voices that this process has read."""
