"""Cutting and transcribing one recording: in this process, or as a task of a Ray cluster.

Only this step runs on the cluster. Fetching stays with the flow, as the pace of a host is kept within one process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import tenacity

from triforce.flows.jobs import environment
from triforce.ingest import storage
from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
from triforce.ingest.clips.clip_recording import ClipConfig, ClipSummary, clip_recording
from triforce.ingest.corpus.records import Recording, Status
from triforce.ingest.corpus.store import Corpus

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts to connect to a cluster that answers. Assumed."""

PAUSE_S = 2.0
"""Wait in seconds before the second attempt; twice that before the third. Assumed."""

MAX_THREADS = 256
"""Recordings that one flow works on at a time, each in a thread that mostly waits. Assumed."""

TIMEOUT_S, TIMEOUT_PER_SOUND = 3600.0, 5.0
"""Time in seconds that a recording may take on the cluster: an hour, the wait for a free core included, and five times
its length. The largest Whisper on one core reads about as fast as people speak. Assumed."""

_thread = threading.local()


def clip_here(recording: Recording, corpus: Corpus, config: ClipConfig) -> ClipSummary:
    """Cut and transcribe in this thread."""
    return clip_recording(recording, corpus, config, _transcriber(config.transcribe))


def _transcriber(config: TranscribeConfig) -> Transcriber:
    """Return the transcriber of this thread, loaded once: its weights are small beside the audio it reads."""
    if getattr(_thread, "config", None) != config:
        _thread.transcriber, _thread.config = Transcriber(config), config
    return _thread.transcriber


def clip_on_cluster(recording: Recording, corpus: Corpus, config: ClipConfig) -> ClipSummary:
    """Cut and transcribe as a Ray task, started again elsewhere if its machine dies; to be called inside `connected`.

    Raises TimeoutError for a recording that does not end in time.
    """
    import ray

    cores, cards = _needs(config)
    name = f"clip {recording.source}/{recording.recording_id}"
    run = ray.remote(clip_here).options(num_cpus=cores, num_gpus=cards, max_retries=3, name=name)
    running = run.remote(recording, *with_absolute_paths(corpus, config))
    limit_s = TIMEOUT_S + TIMEOUT_PER_SOUND * float(recording.metadata.get("decoded_duration_s", 0.0))
    try:
        return ray.get(running, timeout=limit_s)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(running, force=True)
        raise TimeoutError(f"{name}: not done after {limit_s:.0f} s, and given up") from error


def _needs(config: ClipConfig) -> tuple[int, int]:
    """Return the numbers of cores and graphics cards that one recording takes."""
    return max(1, config.transcribe.cpu_threads), int(config.transcribe.device == "cuda")


def unclipped(source: str, corpus: Corpus) -> Iterator[Recording]:
    """Yield the recordings that an earlier run fetched and did not cut.

    Only rows with a file beside them are opened: rejected recordings and duplicates may be many, and have none.
    """
    names = storage.list_files(storage.join(corpus.uri, "recordings", f"source={source}"))
    with_media = {name.split(".")[0] for name in names if not name.endswith(".parquet")}
    for recording_id in sorted(corpus.recording_ids(source) & with_media - corpus.clipped_ids(source)):
        recording = corpus.read_recording(source, recording_id)
        if recording.status == Status.FETCHED:
            yield recording


def with_absolute_paths(corpus: Corpus, config: ClipConfig) -> tuple[Corpus, ClipConfig]:
    """Return both with absolute local paths, which mean the same in a worker's folder."""
    if storage.is_local(corpus.uri):
        corpus = replace(corpus, uri=storage.absolute(corpus.uri))
    models = {"model": config.transcribe.model, "language_model": config.transcribe.language_model}
    folders = {
        name: str(Path(model).absolute())
        for name, model in models.items()
        if model and (Path(model) / "model.bin").is_file()  # a folder without is no model, whatever its name
    }
    if folders:
        config = config.model_copy(update={"transcribe": config.transcribe.model_copy(update=folders)})
    return corpus, config


def _join(ray_cluster: str) -> None:
    """Connect to a cluster; try again where a busy one cannot start the server behind ``ray://``.

    That server has 30 s to come up, and one that dies as it starts is reported in several ways, psutil's among them.
    """
    import ray
    from ray.util.client import ray as client

    def attempt() -> None:
        try:
            ray.init(ray_cluster, log_to_driver=False)
        except ConnectionAbortedError:
            client.disconnect()  # else every later ray.init of this process believes in that connection
            raise

    def warn(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = str(error).strip().rpartition("\n")[2]
        number = state.attempt_number
        logger.warning("%s did not let us in, attempt %d of %d: %s", ray_cluster, number, ATTEMPTS, reason)

    tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConnectionAbortedError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_incrementing(start=PAUSE_S, increment=PAUSE_S),
        before_sleep=warn,
        reraise=True,
    )(attempt)


@contextlib.contextmanager
def connected(ray_cluster: str | None, config: ClipConfig) -> Iterator[int]:
    """Connect to the cluster, if one is named, and yield how many tasks a flow should run at a time.

    ``ray_cluster`` is ``host:6379`` from one of the cluster's machines, ``ray://host:10001`` from any other, None for
    this machine alone. The cluster's machines have the project installed and reach the corpus by the same address.
    Raises ConnectionError where no cluster answers, ValueError for one too small, RuntimeError if Ray is in use.
    """
    if ray_cluster is None:
        yield max(2, os.cpu_count() or 1)
        return
    environment.prepare()
    import ray

    if ray.is_initialized():
        raise RuntimeError(f"ray_cluster={ray_cluster!r}: this process is connected to Ray already; shut that down")
    _join(ray_cluster)
    try:
        cores, cards = _needs(config)
        there = ray.cluster_resources()
        slots = int(min([there.get("CPU", 0) // cores, *([there.get("GPU", 0)] if cards else [])]))
        if slots < 1:
            need = f"{cores} cores" + (" and a graphics card" if cards else "")
            raise ValueError(f"ray_cluster={ray_cluster!r}: the cluster lacks the {need} that a recording takes")
        yield min(MAX_THREADS, 2 * slots)  # while one recording is cut, the next is fetched
    finally:
        ray.shutdown()
