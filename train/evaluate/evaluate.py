"""Evaluate a release on speech that it never saw: what each network loses and wins back, in words and in nats."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import soundfile
import soxr
import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from triforce.ingest import storage
from triforce.ingest.clips.voices import RATE_HZ as VOICE_RATE_HZ
from triforce.ingest.clips.voices import VoiceEncoder
from triforce.ingest.corpus.schema import SAMPLE_RATE_HZ
from triforce.ingest.corpus.store import Corpus
from triforce.models.release import Release
from triforce.models.samplers import SamplerConfig
from triforce.models.sampling import SamplingConfig
from triforce.tokenize.read import decode_flac
from triforce.train.evaluate import metrics
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.quality import FeatureStatistics, dnsmos, frechet_distance
from triforce.train.evaluate.results import FILE_NAME, Evaluation, compare_systems, read_evaluation, summarize_systems
from triforce.train.evaluate.systems import Output, clip_seed, read_aloud, resynthesize

logger = logging.getLogger(__name__)

BLOCK_CLIPS = 64
"""Clips whose sounds are in memory together: about 64 x 6 systems x 1 MB. Assumed."""


class EvaluateConfig(BaseModel):
    """What is evaluated, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Of noise, of sampling and of the bootstrap.")
    limit: int | None = Field(None, ge=1, description="Held-out clips at most; the seed fixes which. None: all.")
    min_duration_s: float = Field(1.0, ge=0, description="Shorter clips stay out. Seconds.")
    max_duration_s: float = Field(29.0, gt=0, le=29, description="Longer stay out: the judge hears 30. Seconds.")
    num_training_clips: int = Field(8, ge=0, le=10_000, description="Texts from training that are read aloud.")
    quality: bool = Field(False, description="Score every sound with DNSMOS: extra `quality`, and some 0.1 s a second.")
    similarity: bool = Field(False, description="Compare each sound's voice with the original's: extra `speakers`.")
    tts: bool = Field(True, description="Read texts aloud, where a GPT is trained.")
    num_unseen_texts: int | None = Field(None, ge=0, description="Held-out texts that are read aloud. None: all.")
    min_chars_per_s: float = Field(5.0, gt=0, description="A slower voice is cut off; 5 to 21 are usual.")
    num_samples: int = Field(4, ge=0, le=100, description="Clips whose sounds and mels are kept to play.")
    max_sample_s: float = Field(12.0, gt=0, description="Longest sample, where there are shorter clips. Seconds.")
    num_resamples: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples of the clips.")
    sampling: SamplingConfig = SamplingConfig()
    sampler: SamplerConfig = SamplerConfig()
    judge: JudgeConfig = JudgeConfig()


@dataclass(frozen=True)
class Clip:
    """A clip to evaluate, its sound still packed."""

    clip_id: str
    text: str
    flac: bytes
    duration_s: float
    source: str
    title: str | None
    asr_model: str | None


@dataclass
class _Run:
    """What accumulates over blocks of clips."""

    rows: list[dict] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)
    work_s: dict[str, float] = field(default_factory=dict)
    sound_s: dict[str, float] = field(default_factory=dict)
    judge_s: float = 0.0
    features: dict[str, FeatureStatistics] = field(default_factory=dict)
    """What Whisper's encoder saw, by system."""


def evaluate(
    release_uri: str,
    heldout_uri: str,
    out_uri: str,
    *,
    corpus_uri: str | None = None,
    config: EvaluateConfig | None = None,
    force: bool = False,
) -> Evaluation:
    """Evaluate the release on the held-out clips and write ``evaluation.json`` and samples below ``out_uri``.

    ``corpus_uri`` names the training corpus, for the texts that the GPT has read in training. An evaluation of the same
    release, clips and config that is there already is read back, unless ``force``. Raises ValueError where no clip can
    be used, and what loading the release raises.
    """
    config = config or EvaluateConfig()
    release = Release.load(release_uri)
    heldout = select_clips(heldout_uri, config, config.limit)
    if not heldout:
        raise ValueError(
            f"{heldout_uri!r} has no clip with text between {config.min_duration_s} and {config.max_duration_s} s: "
            "name a corpus of held-out clips, or change min_duration_s"
        )
    speaks = config.tts and release.gpt is not None
    training = select_clips(corpus_uri, config, config.num_training_clips) if corpus_uri and speaks else []
    info = release.info()
    key = _key(info, heldout, training, config)
    if not force and (done := read_evaluation(out_uri)) is not None and done.key == key:
        logger.info("evaluated before: %s", storage.join(out_uri, FILE_NAME))
        return done
    started = time.monotonic()
    judge = Judge(config.judge)
    run, samples_folder = _Run(), f"samples-{key[:12]}"
    jobs = [("heldout", block) for block in _blocks(heldout)] + [("training", block) for block in _blocks(training)]
    with tqdm(total=len(heldout) + len(training), desc="evaluate", unit="clip", dynamic_ncols=True) as bar:
        for split, block in jobs:
            _evaluate_block(run, release, judge, config, block, split, storage.join(out_uri, samples_folder), bar)
    evaluation = _summarize(run, release, judge, config, key, _describe_data(heldout_uri, heldout, training))
    evaluation.timings["wall_s"] = round(time.monotonic() - started, 1)
    storage.write_bytes(storage.join(out_uri, FILE_NAME), evaluation.to_json().encode())
    for name in storage.list_folders(out_uri):  # of an earlier evaluation, which no file names any more
        if name.startswith("samples-") and name != samples_folder:
            storage.remove(storage.join(out_uri, name), recursive=True)
    logger.info("%s", evaluation.table())
    return evaluation


def select_clips(corpus_uri: str, config: EvaluateConfig, limit: int | None) -> list[Clip]:
    """Kept clips with text and a fit length, in an order that the seed fixes; ``limit`` of them at most.

    A clip's place depends on its id alone, so a larger limit only adds clips.
    """
    corpus = Corpus(corpus_uri)
    if not corpus.clip_files():
        raise ValueError(f"{corpus_uri!r} holds no clips: name a corpus that `triforce ingest` wrote")
    columns = ["clip_id", "text", "duration_s", "source", "title", "asr_model"]
    rows = [
        row
        for row in corpus.clips(columns, kept_only=True).to_pylist()
        if row["text"] and config.min_duration_s <= row["duration_s"] <= config.max_duration_s
    ]
    rows = sorted(rows, key=lambda row: (clip_seed(config.seed, row["clip_id"]), row["clip_id"]))[:limit]
    wanted = pads.field("clip_id").isin(pa.array([row["clip_id"] for row in rows], pa.string()))
    sounds = corpus.dataset().to_table(columns=["clip_id", "audio"], filter=wanted).to_pylist()
    flac = {row["clip_id"]: row["audio"]["bytes"] for row in sounds}
    return [Clip(flac=flac[row["clip_id"]], **row) for row in rows]


def _blocks(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    return (clips[first : first + BLOCK_CLIPS] for first in range(0, len(clips), BLOCK_CLIPS))


def _key(info: dict, heldout: Sequence[Clip], training: Sequence[Clip], config: EvaluateConfig) -> str:
    stages = {name: stage["hash"] for name, stage in info["stages"].items()} | {"vocoder": info["vocoder"]}
    clips = [[clip.clip_id, clip.text, hashlib.sha256(clip.flac).hexdigest()] for clip in (*heldout, *training)]
    data = json.dumps([stages, clips, len(heldout), config.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()


def _evaluate_block(
    run: _Run,
    release: Release,
    judge: Judge,
    config: EvaluateConfig,
    block: Sequence[Clip],
    split: str,
    folder: str,
    bar: tqdm,
) -> None:
    """Every system on every clip of the block, then the judge on each system: packed windows hold one system only."""
    outputs: list[dict[str, Output]] = []
    for number, clip in enumerate(block, len(run.rows)):
        outputs.append(_run_systems(run, release, config, clip, split, number))
        bar.update()
    heard: list[dict[str, str]] = [{} for _ in block]
    started = time.monotonic()
    for name in outputs[0]:
        bar.set_postfix_str(f"listening to {name}")
        there = [i for i, output in enumerate(outputs) if name in output]
        sounds = [outputs[i][name].waveform for i in there]
        texts, frames = judge.hear(sounds, release.sample_rate_hz, [block[i].text for i in there])
        for i, text, seen in zip(there, texts, frames, strict=True):
            heard[i][name] = text
            if len(seen):
                run.features.setdefault(name, FeatureStatistics()).add(seen)
    run.judge_s += time.monotonic() - started
    voices = _similarities(outputs, release.sample_rate_hz) if config.similarity else [{} for _ in block]
    for clip, output, one, alike in zip(block, outputs, heard, voices, strict=True):
        truth = output["original"].mel if "original" in output else None
        systems = {name: _figures(clip.text, output[name], one[name], truth, config, release) for name in output}
        for name, value in alike.items():
            systems[name]["similarity"] = value
        row = {"set": split, "clip_id": clip.clip_id, "text": clip.text, "source": clip.source, "title": clip.title}
        run.rows.append(row | {"duration_s": round(clip.duration_s, 3), "systems": systems})
    for i in _sample_indices(run, block, split, config):
        about = {"set": split} | _write_sample(folder, len(run.samples), block[i], outputs[i], heard[i], release)
        run.samples.append(about)


def _run_systems(
    run: _Run, release: Release, config: EvaluateConfig, clip: Clip, split: str, number: int
) -> dict[str, Output]:
    seed, output = clip_seed(config.seed, clip.clip_id), {}
    if split == "heldout":
        waveform = decode_flac(clip.flac, SAMPLE_RATE_HZ)
        output, codes = resynthesize(release, waveform, clip.text, seed=seed, sampler=config.sampler)
        run.codes.append(codes)
    read = split == "training" or config.num_unseen_texts is None or number < config.num_unseen_texts
    if config.tts and read and release.gpt is not None:
        output["tts_unseen" if split == "heldout" else "tts_train"] = read_aloud(
            release,
            clip.text,
            seed=seed,
            sampling=config.sampling,
            sampler=config.sampler,
            min_chars_per_s=config.min_chars_per_s,
        )
    for name, one in output.items():
        run.work_s[name] = run.work_s.get(name, 0.0) + one.seconds
        run.sound_s[name] = run.sound_s.get(name, 0.0) + one.waveform.size / release.sample_rate_hz
    return output


def _figures(
    text: str, output: Output, heard: str, truth: np.ndarray | None, config: EvaluateConfig, release: Release
) -> dict:
    """One system on one clip, as `Evaluation.clips` holds it."""
    language = config.judge.language
    words, characters = metrics.word_errors(text, heard, language), metrics.character_errors(text, heard, language)
    row: dict[str, Any] = {"heard": heard, "words": list(words), "characters": list(characters)}
    row |= {"num_samples": int(output.waveform.size), "sharpness": metrics.sharpness(output.mel)}
    if truth is not None and output.mel is not truth and output.mel.shape == truth.shape:
        row["log_mel_l1"] = metrics.log_mel_l1(output.mel, truth)
        row["mcd_db"] = metrics.mel_cepstral_distortion(output.mel, truth)
    if config.quality:
        row["dnsmos"] = dnsmos(output.waveform, release.sample_rate_hz)
    if output.reached_end is not None:
        row["reached_end"] = bool(output.reached_end)
    return row | ({"error": output.error} if output.error else {})


def _similarities(outputs: Sequence[dict[str, Output]], sample_rate_hz: int) -> list[dict[str, float]]:
    """Cosine of each sound's voice with that of the original clip, where there is one and there is sound."""
    encoder = VoiceEncoder()

    def embed(waveform: np.ndarray) -> np.ndarray:
        return encoder(soxr.resample(waveform.astype(np.float32), sample_rate_hz, VOICE_RATE_HZ)).embedding

    rows: list[dict[str, float]] = []
    for output in outputs:
        others = [name for name in output if name != "original" and output[name].waveform.size]
        if "original" not in output:
            others = []
        truth = embed(output["original"].waveform) if others else None
        rows.append({name: float(embed(output[name].waveform) @ truth) for name in others})
    return rows


def _sample_indices(run: _Run, block: Sequence[Clip], split: str, config: EvaluateConfig) -> list[int]:
    """Which clips of the block to keep the sounds of: the first short ones, then the first of the others."""
    wanted = config.num_samples - sum(sample["set"] == split for sample in run.samples)
    by_place = sorted(range(len(block)), key=lambda i: (block[i].duration_s > config.max_sample_s, i))
    return sorted(by_place[: max(wanted, 0)])


def _write_sample(
    folder: str, number: int, clip: Clip, output: dict[str, Output], heard: dict[str, str], release: Release
) -> dict:
    """Keep a clip's sounds and mels; the row of `Evaluation.samples`."""
    place, mels = os.path.basename(folder), io.BytesIO()
    np.savez_compressed(mels, **{name: one.mel.astype(np.float16) for name, one in output.items()})
    storage.write_bytes(storage.join(folder, f"{number:02d}-mels.npz"), mels.getvalue())
    systems = {}
    for name, one in output.items():
        path = f"{number:02d}-{name}.flac"
        sound = io.BytesIO()
        soundfile.write(sound, np.clip(one.waveform, -1, 1), release.sample_rate_hz, format="FLAC", subtype="PCM_16")
        storage.write_bytes(storage.join(folder, path), sound.getvalue())
        systems[name] = {"audio": f"{place}/{path}", "heard": heard[name], "reached_end": one.reached_end}
    about = {"clip_id": clip.clip_id, "text": clip.text, "title": clip.title, "source": clip.source}
    mels_path = f"{place}/{number:02d}-mels.npz"
    return about | {"duration_s": round(clip.duration_s, 3), "mels": mels_path, "systems": systems}


def _summarize(
    run: _Run, release: Release, judge: Judge, config: EvaluateConfig, key: str, data: dict[str, Any]
) -> Evaluation:
    info = release.info()
    use = metrics.codebook_use(run.codes, info["codebook_size"])
    factors = {name: work_s / run.sound_s[name] for name, work_s in run.work_s.items() if work_s and run.sound_s[name]}
    return Evaluation(
        key=key,
        config=config.model_dump(mode="json"),
        release=info | {"uri": release.uri, "num_evaluations": config.sampler.num_evaluations},
        data=data,
        judge=judge.describe(),
        codebook={
            "size": info["codebook_size"],
            "perplexity": use.perplexity,
            "live_share": use.live_share,
            "codes_per_second": info["codes_per_second"],
            "bits_per_second": info["bits_per_second"],
            "counts": {str(code): int(use.counts[code]) for code in np.flatnonzero(use.counts)},
        },
        systems=[
            replace(system, frechet=_frechet(run.features, system.name))
            for system in summarize_systems(run.rows, config.num_resamples, config.seed)
        ],
        comparisons=compare_systems(run.rows, config.num_resamples, config.seed),
        clips=run.rows,
        samples=run.samples,
        timings={
            "real_time_factor": {name: round(value, 4) for name, value in factors.items()},
            "judge_s": round(run.judge_s, 1),
            "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.platform()},
            "versions": {name: version(name) for name in ("torch", "jiwer", "numpy")},
        },
    )


def _frechet(features: dict[str, FeatureStatistics], name: str) -> float | None:
    if name == "original" or not {name, "original"} <= set(features):
        return None
    return frechet_distance(features[name], features["original"])


def _describe_data(heldout_uri: str, heldout: Sequence[Clip], training: Sequence[Clip]) -> dict[str, Any]:
    return {
        "heldout": heldout_uri,
        "num_clips": len(heldout),
        "duration_s": round(sum(clip.duration_s for clip in heldout), 2),
        "num_transcripts": sum(clip.asr_model == "transcript" for clip in heldout),
        "num_training_clips": len(training),
    }
