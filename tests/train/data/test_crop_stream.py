"""Ray Data reads what the worker itself would read, from any place, whoever is killed."""

import contextlib
import functools
import os
import signal

import numpy as np
import psutil
import pytest
import ray
import torch
from corpora import add_recording

from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.tokenize.ray_session import connect
from triforce.train.config import train_config
from triforce.train.data import crop_stream
from triforce.train.data.crop_stream import CropStream
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import Place

COUNT, NUM_BATCHES = 4, 60


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    corpus = Corpus(str(folder / "corpus"))
    for source_id in "abc":
        add_recording(corpus, "feed", source_id, 9, drop=1, seed=ord(source_id))
    config = train_config(stage="dvae", release=str(folder), runs=str(folder), corpus=corpus.uri, batch_size=COUNT)
    connect(num_cpus=2)
    yield ClipCrops(config, MelConfig(), torch.device("cpu"))
    ray.shutdown()


def kill_a_reader() -> int:
    """SIGKILL the actors that read; how many there were."""
    count = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # processes come and go
            if "MapWorker" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                count += 1
    return count


@pytest.mark.slow
def test_the_stream_is_what_the_worker_would_read(crops, monkeypatch):
    monkeypatch.setattr(crop_stream, "OWN_BATCHES", 2)
    make = functools.partial(CropStream, crops, crops.remake(), COUNT, NUM_BATCHES, readers=2, cpus=0)
    place, plain = Place(1, 2), Place(1, 2)
    streamed, killed = make(), 0
    for number in range(NUM_BATCHES):
        for (found, size), (expected, true_size) in zip(
            streamed.take(place, COUNT), [crops.crop(plain.next()) for _ in range(COUNT)], strict=True
        ):
            np.testing.assert_array_equal(found, expected)
            assert size == true_size
        if number == 5:
            killed = kill_a_reader()
    assert killed, "no reader was found to kill"
    assert place.taken == plain.taken == COUNT * NUM_BATCHES
    place.taken = plain.taken = 7 * COUNT  # as after a resume
    for _ in range(4):
        for (found, _), position in zip(streamed.take(place, COUNT), [plain.next() for _ in range(COUNT)], strict=True):
            np.testing.assert_array_equal(found, crops.crop(position)[0])
    streamed.close()
