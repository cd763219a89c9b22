"""Cutting and transcribing one recording: in this process, or as a task of a Ray cluster.

Only this step fans out. Fetching stays with the flow, as the limits a host is promised hold within one process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from triforce.flows.jobs import environment
from triforce.ingest import storage
from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
from triforce.ingest.clips.clip_recording import ClipConfig, ClipSummary, clip_recording
from triforce.ingest.corpus.schema import Recording
from triforce.ingest.corpus.store import Corpus

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Tries to join a cluster that answers. Assumed."""

PAUSE_S = 2.0
"""Before the second of them; twice that before the third. Assumed."""

MAX_THREADS = 256
"""Recordings that one flow has in hand at a time, each in a thread that mostly waits. Assumed."""

TIMEOUT_S, TIMEOUT_PER_SOUND = 3600.0, 5.0
"""How long a recording may take on the cluster: an hour, the wait for a free core included, and five times its length.
The largest Whisper on one core reads about as fast as people speak. Assumed."""

_thread = threading.local()


def clip_here(recording: Recording, corpus: Corpus, config: ClipConfig) -> ClipSummary:
    """Cut and transcribe in this thread."""
    return clip_recording(recording, corpus, config, _transcriber(config.transcribe))


def _transcriber(config: TranscribeConfig) -> Transcriber:
    """One recogniser a thread, loaded once: its weights are small beside the audio it reads."""
    if getattr(_thread, "config", None) != config:
        _thread.transcriber, _thread.config = Transcriber(config), config
    return _thread.transcriber


def clip_on_cluster(recording: Recording, corpus: Corpus, config: ClipConfig) -> ClipSummary:
    """The same as a Ray task, begun anew elsewhere if its machine dies; to be called inside `connected`.

    Raises TimeoutError for a recording that a cluster never comes back from.
    """
    import ray

    cores, cards = _needs(config)
    name = f"clip {recording.source}/{recording.recording_id}"
    run = ray.remote(clip_here).options(num_cpus=cores, num_gpus=cards, max_retries=3, name=name)
    running = run.remote(recording, _anywhere(corpus), _with_absolute_model(config))
    limit_s = TIMEOUT_S + TIMEOUT_PER_SOUND * float(recording.metadata.get("decoded_duration_s", 0.0))
    try:
        return ray.get(running, timeout=limit_s)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(running, force=True)
        raise TimeoutError(f"{name}: not done after {limit_s:.0f} s, and given up") from error


def _needs(config: ClipConfig) -> tuple[int, int]:
    """Cores and graphics cards that one recording takes."""
    return max(1, config.transcribe.cpu_threads), int(config.transcribe.device == "cuda")


def _anywhere(corpus: Corpus) -> Corpus:
    """The corpus by an address that means the same in a worker's folder."""
    return replace(corpus, uri=storage.resolve(corpus.uri)[1]) if storage.is_local(corpus.uri) else corpus


def _with_absolute_model(config: ClipConfig) -> ClipConfig:
    model = Path(config.transcribe.model)
    if not model.is_dir():
        return config
    return config.model_copy(
        update={"transcribe": config.transcribe.model_copy(update={"model": str(model.absolute())})}
    )


def _join(ray_address: str) -> None:
    """``ray.init``, tried again where a busy cluster cannot start the server behind ``ray://``.

    That server has 30 s to come up, and one that dies as it starts is reported in several ways, psutil's among them.
    """
    import ray
    from ray.util.client import ray as client

    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(ray_address, log_to_driver=False)
            return
        except ConnectionAbortedError as error:
            client.disconnect()  # else every later ray.init of this process believes in that connection
            if attempt == ATTEMPTS:
                raise
            reason = str(error).strip().rpartition("\n")[2]
            logger.warning("%s did not let us in, attempt %d of %d: %s", ray_address, attempt, ATTEMPTS, reason)
            time.sleep(PAUSE_S * attempt)


@contextlib.contextmanager
def connected(ray_address: str | None, config: ClipConfig) -> Iterator[int]:
    """How many tasks a flow should run at a time, while there is a connection to the cluster, if one is named.

    ``ray_address`` is ``host:6379`` from one of the cluster's machines, ``ray://host:10001`` from any other, None for
    this machine alone. The cluster's machines have the project installed and reach the corpus by the same address.
    Raises ConnectionError where no cluster answers, ValueError for one too small, RuntimeError if Ray is in use.
    """
    if ray_address is None:
        yield max(2, os.cpu_count() or 1)
        return
    environment.prepare()
    import ray

    if ray.is_initialized():
        raise RuntimeError(f"ray_address={ray_address!r}: this process is connected to Ray already; shut that down")
    _join(ray_address)
    try:
        cores, cards = _needs(config)
        there = ray.cluster_resources()
        slots = int(min([there.get("CPU", 0) // cores, *([there.get("GPU", 0)] if cards else [])]))
        if slots < 1:
            need = f"{cores} cores" + (" and a graphics card" if cards else "")
            raise ValueError(f"ray_address={ray_address!r}: the cluster lacks the {need} that a recording takes")
        yield min(MAX_THREADS, 2 * slots)  # while one recording is cut, the next is fetched
    finally:
        ray.shutdown()
