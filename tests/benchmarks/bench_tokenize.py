"""How much of the dVAE's own speed the tokenize pipeline keeps, and what a second worker adds.

    python tests/benchmarks/bench_tokenize.py --size small --minutes 20

One run measures, over the same shards and batches with the same model: a bare loop over mels that lie in memory, alone
and while another core reads the same shards, and the pipeline in steady state with one worker, which reads, decodes,
computes mels, encodes and commits tar files. Cores that share their units slow each other: what the loop loses to a
reader beside it is the machine's. Steady state is from the first commit to the last. Corpus and weights are made up;
neither matters for speed.

With ``--scale``: one worker on one core against two on two, one thread each, readers and writers sharing those cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import ray
import torch
from corpora import sweep

from triforce.flows.jobs import environment
from triforce.ingest import storage
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, Media, Recording, make_recording_id
from triforce.ingest.corpus.shard_names import shard_name
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac
from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.memory import reuse_freed_memory
from triforce.models.release_files import require_dvae, stage_files
from triforce.models.text import TextTokenizer
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.encode import encode_media
from triforce.tokenize.job import run_pipeline
from triforce.tokenize.plan import PlannedShard, extend_plan, open_tokens
from triforce.tokenize.planning.plan_files import MemberReader
from triforce.tokenize.ray_session import connect
from triforce.tokenize.read import prepare_shard
from triforce.tokenize.shards import load_tokenizer
from triforce.train.config import RECIPES


def make_corpus(folder: Path, minutes: float, clips_per_recording: int = 100) -> Corpus:
    """Clips of 3 to 15 s; a hundred different sounds, repeated."""
    corpus = Corpus(str(folder / "corpus"))
    generator = np.random.default_rng(0)
    sounds = [sweep(float(generator.uniform(3, 15)), seed) for seed in range(clips_per_recording)]
    coded = [encode_flac(sound) for sound in sounds]
    made_s, number = 0.0, 0
    while made_s < 60 * minutes:
        recording = Recording(make_recording_id("feed", str(number)), "feed", "podcast", str(number), "http://x/")
        clips, start = [], 0
        for sound, data in zip(sounds, coded, strict=True):
            end, text = start + len(sound), "the quick brown fox jumps over the lazy dog and runs away"
            clips.append(Clip.cut(recording, start, end, SAMPLE_RATE_HZ, audio=Media(data), text=text))
            start = end
        corpus.write_recording(recording)
        corpus.write_clips(recording, clips)
        made_s, number = made_s + start / SAMPLE_RATE_HZ, number + 1
    return corpus


def make_release(folder: Path, size: str) -> str:
    torch.manual_seed(0)
    model = DVAE(DVAEConfig.model_validate(RECIPES["dvae"][size]["model"]))
    model.set_statistics(torch.full((100,), -3.0), torch.full((100,), 2.0))
    for name, data in stage_files("dvae", model, {"mel": MelConfig().model_dump()}).items():
        storage.write_bytes(folder / "release/dvae" / name, data)
    return str(folder / "release")


class BareLoop:
    """Mels in memory to codes, on one thread, in a process of Ray's as the pipeline's: the model and nothing else."""

    def __init__(self, config: TokenizeConfig, shards: list[PlannedShard]) -> None:
        torch.set_num_threads(1)
        reuse_freed_memory()
        self.config, self.stage = config, require_dvae(config.release)
        tokenizer: TextTokenizer = load_tokenizer(config.tokens)
        corpus = Corpus(config.corpus)
        plan = MemberReader(config.tokens)
        self.media = [
            prepare_shard(corpus, shard.index, plan.members(shard.index), self.stage.card, tokenizer).media
            for shard in shards
        ]

    def encode(self) -> float:
        """Seconds for all shards, once warm."""
        self._encode(self.media[0])
        started = time.perf_counter()
        for media in self.media:
            self._encode(media)
        return time.perf_counter() - started

    def _encode(self, media: list[np.ndarray]) -> None:
        encode_media(self.stage.model, media, self.config.batch_positions, torch.device("cpu"))


class Reader:
    """What the pipeline's readers do, beside a model."""

    def __init__(self, config: TokenizeConfig) -> None:
        torch.set_num_threads(1)
        self.corpus, self.card = Corpus(config.corpus), require_dvae(config.release).card
        self.tokenizer: TextTokenizer = load_tokenizer(config.tokens)

    def read(self, shards: list[PlannedShard]) -> float:
        started, plan = time.perf_counter(), MemberReader(shards[0].tokens)
        for shard in shards:
            prepare_shard(self.corpus, shard.index, plan.members(shard.index), self.card, self.tokenizer)
        return time.perf_counter() - started


def pipeline(config: TokenizeConfig, shards: list[PlannedShard], out: Path) -> tuple[float, float]:
    """Seconds to the first committed shard, and seconds of audio made a second from then on."""
    run = config.model_copy(update={"tokens": str(out)})
    open_tokens(run, require_dvae(run.release))
    audio_s = shard_lengths(run, shards)
    started = time.time()
    for _ in run_pipeline(run, shards):
        pass
    # When the files came to be, not when the driver heard of it.
    commits = sorted((out.joinpath(shard_name(i)).stat().st_mtime - started, audio_s[i]) for i in audio_s)
    steady = commits[: len(commits) - config.num_workers + 1]  # without the end, when workers run out of shards
    return steady[0][0], sum(length for _, length in steady[1:]) / (steady[-1][0] - steady[0][0])


def shard_lengths(config: TokenizeConfig, shards: list[PlannedShard]) -> dict[int, float]:
    """Seconds of audio in each shard."""
    rows = Corpus(config.corpus).clips(["clip_id", "duration_s"]).to_pylist()
    durations = {row["clip_id"]: row["duration_s"] for row in rows}
    plan = MemberReader(shards[0].tokens)
    members = {shard.index: plan.members(shard.index) for shard in shards}
    return {index: sum(durations[clip.clip_id] for clip in clips) for index, clips in members.items()}


def measure_overhead(config: TokenizeConfig, shards: list[PlannedShard], folder: Path, repeats: int) -> None:
    ratios, ratios_beside = [], []
    part = shards[:6]
    part_s = sum(shard_lengths(config, part).values())
    for repeat in range(repeats):
        before = bare_loop(config, part)
        beside, reading = loop_beside_a_reader(config, part)
        first, steady = pipeline(config, shards, folder / f"overhead-{repeat}")
        after = bare_loop(config, part)
        bare = part_s / statistics.mean([before, after])
        ratios.append(steady / bare)
        ratios_beside.append(steady / (part_s / beside))
        print(
            f"bare loop {bare:.0f}x real time (before {part_s / before:.0f}x, after {part_s / after:.0f}x; "
            f"{part_s / beside:.0f}x with a reader at work beside it, which reads at {part_s / reading:.0f}x), "
            f"pipeline {steady:.0f}x: {ratios[-1]:.1%}, and {ratios_beside[-1]:.1%} of the loop beside a reader; "
            f"first shard after {first:.1f} s"
        )
    print(
        f"median: the pipeline runs at {statistics.median(ratios):.1%} of the bare loop, "
        f"{statistics.median(ratios_beside):.1%} of it beside a reader"
    )


def bare_loop(config: TokenizeConfig, shards: list[PlannedShard]) -> float:
    """Seconds of the loop alone."""
    loop = ray.remote(BareLoop).remote(config, shards)
    seconds = ray.get(loop.encode.remote())
    ray.kill(loop)
    return seconds


def loop_beside_a_reader(config: TokenizeConfig, shards: list[PlannedShard]) -> tuple[float, float]:
    """Seconds of the loop while the same shards are read on another core, and of that reading."""
    loop, reader = ray.remote(BareLoop).remote(config, shards), ray.remote(Reader).remote(config)
    ray.get(reader.read.remote(shards[:1]))  # warm
    seconds = ray.get([loop.encode.remote(), reader.read.remote(shards)])
    for actor in (loop, reader):
        ray.kill(actor)
    return tuple(seconds)


def scaled_run(folder: Path, num_workers: int, size: str) -> float:
    """Real-time factor of a process bound to as many cores as it has workers."""
    command = [sys.executable, __file__, "--child", str(folder), "--workers", str(num_workers), "--size", size]
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:num_workers]))
    output = subprocess.run(["taskset", "-c", cores, *command], check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=sorted(RECIPES["dvae"]), help="recipe of the dVAE")
    parser.add_argument("--minutes", type=float, default=60.0, help="of audio in the corpus")
    parser.add_argument("--clips-per-shard", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", action="store_true", help="one worker against two, not pipeline against bare loop")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    environment.prepare()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.child or Path(temporary)
        if not arguments.child:
            make_corpus(folder, arguments.minutes)
            make_release(folder, arguments.size)
        config = TokenizeConfig(
            corpus=str(folder / "corpus"),
            release=str(folder / "release"),
            tokens=str(folder / "tokens"),
            clips_per_shard=arguments.clips_per_shard,
            num_workers=arguments.workers,
        )
        open_tokens(config, require_dvae(config.release))
        shards = extend_plan(config)
        if arguments.child:
            connect(num_cpus=arguments.workers)
            with tempfile.TemporaryDirectory() as out:
                print(pipeline(config, shards, Path(out))[1])
            return
        if not arguments.scale:
            connect()
            measure_overhead(config, shards, folder, arguments.repeats)
            ray.shutdown()
            return
        gains = []
        for _ in range(arguments.repeats):
            one, two = (scaled_run(folder, workers, arguments.size) for workers in (1, 2))
            gains.append(two / one)
            print(f"one worker {one:.0f}x real time, two workers {two:.0f}x: {two / one:.2f} times as fast")
        print(f"median: {statistics.median(gains):.2f} times as fast")


if __name__ == "__main__":
    main()
