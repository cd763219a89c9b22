"""Evaluate a release on speech that it was not trained on: what each network loses and wins back, in words and nats."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from triforce.ingest import storage
from triforce.ingest.clips.dnsmos import DNSMOS
from triforce.ingest.corpus.records import Clip
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.models.voice.bundled import VOICE
from triforce.train.evaluate import metrics
from triforce.train.evaluate.clips import MAX_DURATION_S, MIN_DURATION_S, clip_seed, select_clips
from triforce.train.evaluate.figures import clip_figures, voice_similarities
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.kept_samples import choose_samples, write_sample
from triforce.train.evaluate.results import (
    EXCESS,
    FILE_NAME,
    Evaluation,
    compare_systems,
    read_evaluation,
    summarize_systems,
)
from triforce.train.evaluate.systems import Output, read_aloud, run_systems

logger = logging.getLogger(__name__)

BLOCK_CLIPS = 64
"""Clips whose sounds are in memory together: about 64 x 6 systems x 1 MB. Assumed."""


class EvaluateConfig(BaseModel):
    """Which clips are evaluated, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("cpu", description="Where the networks compute: cpu or cuda.")
    seed: int = Field(0, ge=0, description="Seed of noise, of sampling and of the bootstrap.")
    limit: int | None = Field(None, ge=1, description="Held-out clips at most; the seed fixes which. None: all.")
    min_duration_s: float = Field(MIN_DURATION_S, ge=0, description="Shorter clips stay out. Seconds.")
    max_duration_s: float = Field(
        MAX_DURATION_S, gt=0, le=MAX_DURATION_S, description="Longer clips stay out: the judge takes 30. Seconds."
    )
    num_training_clips: int = Field(8, ge=0, le=10_000, description="Texts from training that are read aloud.")
    quality: bool = Field(False, description="Score every sound with DNSMOS: extra `quality`, and some 0.1 s a second.")
    similarity: bool = Field(False, description="Compare each sound's voice with the original's: extra `speakers`.")
    bundled_voice: bool = Field(
        False, description="Let the voice that comes along read the texts of the kept held-out samples too."
    )
    griffin_lim: bool = Field(False, description="Put the same mels through Griffin-Lim too, to compare the vocoder.")
    tts: bool = Field(True, description="Read texts aloud, where a GPT is trained.")
    num_unseen_texts: int | None = Field(None, ge=0, description="Held-out texts that are read aloud. None: all.")
    min_chars_per_s: float = Field(5.0, gt=0, description="A slower voice is cut off; 5 to 21 are usual.")
    num_samples: int = Field(4, ge=0, le=100, description="Clips whose sounds and mels are kept to play.")
    max_sample_s: float = Field(12.0, gt=0, description="Longest sample, where there are shorter clips. Seconds.")
    num_resamples: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples of the clips.")
    sampling: SamplingConfig = SamplingConfig()
    sampler: SamplerConfig = SamplerConfig()
    judge: JudgeConfig = JudgeConfig()
    more_judges: tuple[str, ...] = Field(
        (),
        description="Other Whisper models, by which the excess of decodes over originals is told too: tiny.en where it "
        "was no teacher.",
    )


@dataclass
class _Run:
    """Results that accumulate over blocks of clips."""

    rows: list[dict] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)
    work_s: dict[str, float] = field(default_factory=dict)
    sound_s: dict[str, float] = field(default_factory=dict)
    judge_s: float = 0.0
    features: dict[str, metrics.FeatureStatistics] = field(default_factory=dict)
    """Frames of Whisper's encoder, by system."""


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
    release = Release.load(release_uri, device=config.device)
    heldout = _select(heldout_uri, config, config.limit)
    if not heldout:
        raise ValueError(
            f"{heldout_uri!r} has no clip with text between {config.min_duration_s} and {config.max_duration_s} s: "
            "name a corpus of held-out clips, or change min_duration_s"
        )
    if config.quality:
        DNSMOS()  # where the extra is missing, that is said now and not after the work
    speaks = config.tts and release.gpt is not None
    training = _select(corpus_uri, config, config.num_training_clips) if corpus_uri and speaks else []
    beside = _bundled_voice(release, config.device) if config.bundled_voice else None
    info = release.info()
    key = _key(info, heldout, training, config, beside)
    if not force and (done := read_evaluation(out_uri)) is not None and done.key == key:
        logger.info("evaluated before: %s", storage.join(out_uri, FILE_NAME))
        return done
    started = time.monotonic()
    judge = Judge(config.judge)
    others = [Judge(config.judge.model_copy(update={"model": model})) for model in config.more_judges]
    run, samples_folder = _Run(), f"samples-{key[:12]}"
    jobs = [("heldout", block) for block in _blocks(heldout)] + [("training", block) for block in _blocks(training)]
    with tqdm(total=len(heldout) + len(training), desc="evaluate", unit="clip", dynamic_ncols=True) as bar:
        for split, block in jobs:
            _evaluate_block(
                run, release, beside, judge, others, config, block, split, storage.join(out_uri, samples_folder), bar
            )
    evaluation = _summarize(run, release, judge, config, key, _describe_data(heldout_uri, heldout, training))
    evaluation.timings["wall_s"] = round(time.monotonic() - started, 1)
    storage.write_bytes(storage.join(out_uri, FILE_NAME), evaluation.to_json().encode())
    for name in storage.list_folders(out_uri):  # of an earlier evaluation, which no file names any more
        if name.startswith("samples-") and name != samples_folder:
            storage.remove(storage.join(out_uri, name), recursive=True)
    logger.info("%s", evaluation.table())
    return evaluation


def _select(corpus_uri: str, config: EvaluateConfig, limit: int | None) -> list[Clip]:
    lengths = {"min_duration_s": config.min_duration_s, "max_duration_s": config.max_duration_s}
    return select_clips(corpus_uri, seed=config.seed, limit=limit, **lengths)


def _blocks(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    return (clips[first : first + BLOCK_CLIPS] for first in range(0, len(clips), BLOCK_CLIPS))


def _bundled_voice(release: Release, device: str) -> Release:
    """Load the voice that comes along. Raises ValueError where its rate is not the release's."""
    voice = Release.load(VOICE, device=device)
    if voice.sample_rate_hz != release.sample_rate_hz:
        raise ValueError(
            f"bundled_voice: its rate is {voice.sample_rate_hz} Hz, that of {release.uri} {release.sample_rate_hz}; "
            "leave it out"
        )
    return voice


def _hashes(info: dict) -> dict[str, str]:
    return {name: stage["hash"] for name, stage in info["stages"].items()} | {"vocoder": info["vocoder"]}


def _key(
    info: dict,
    heldout: Sequence[Clip],
    training: Sequence[Clip],
    config: EvaluateConfig,
    beside: Release | None,
) -> str:
    stages: dict[str, Any] = _hashes(info)
    if beside is not None:
        stages["bundled_voice"] = _hashes(beside.info())
    clips = [[clip.clip_id, clip.text, hashlib.sha256(clip.media).hexdigest()] for clip in (*heldout, *training)]
    later = {
        name for name in ("griffin_lim", "more_judges", "bundled_voice") if not getattr(config, name)
    }  # fields that were added
    fields = config.model_dump(mode="json", exclude=later | {"device"})
    data = json.dumps([stages, clips, len(heldout), fields], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()


def _evaluate_block(
    run: _Run,
    release: Release,
    beside: Release | None,
    judge: Judge,
    others: Sequence[Judge],
    config: EvaluateConfig,
    block: Sequence[Clip],
    split: str,
    folder: str,
    bar: tqdm,
) -> None:
    """Run every system on every clip of the block, then the judge on each system, and take the figures."""
    wanted = config.num_samples - sum(sample["set"] == split for sample in run.samples)
    kept = choose_samples([clip.duration_s for clip in block], wanted, config.max_sample_s)
    outputs: list[dict[str, Output]] = []
    for i, clip in enumerate(block):
        voice = beside if split == "heldout" and i in kept else None
        outputs.append(_run_systems(run, release, voice, config, clip, split, len(run.rows) + i))
        bar.update()
    hypotheses = _recognize(run, judge, release.sample_rate_hz, block, outputs, bar)
    figures = partial(
        clip_figures,
        sample_rate_hz=release.sample_rate_hz,
        language=config.judge.language,
        quality=config.quality,
    )
    words_by = _words_by(others, release.sample_rate_hz, block, outputs) if split == "heldout" else {}
    similarities = voice_similarities(outputs, release.sample_rate_hz) if config.similarity else [{} for _ in block]
    for clip, output, found, similar in zip(block, outputs, hypotheses, similarities, strict=True):
        mel = output["original"].mel if "original" in output else None
        systems = {name: figures(one, clip.text, found[name], mel) for name, one in output.items()}
        for name, value in similar.items():
            systems[name]["similarity"] = value
        for name in systems.keys() & words_by.keys():
            systems[name]["words_by"] = {model: counts[clip.clip_id] for model, counts in words_by[name].items()}
        row = {"set": split, "clip_id": clip.clip_id, "text": clip.text, "source": clip.source, "title": clip.title}
        run.rows.append(row | {"duration_s": round(clip.duration_s, 3), "systems": systems})
    for i in kept:
        number, rate = len(run.samples), release.sample_rate_hz
        sample = write_sample(folder, number, block[i], outputs[i], hypotheses[i], rate)
        run.samples.append({"set": split} | sample)


def _recognize(
    run: _Run,
    judge: Judge,
    sample_rate_hz: int,
    block: Sequence[Clip],
    outputs: list[dict[str, Output]],
    bar: tqdm,
) -> list[dict[str, str]]:
    """Return what the judge recognises in each clip, by system; packed windows hold one system only."""
    hypotheses: list[dict[str, str]] = [{} for _ in block]
    started = time.monotonic()
    for name in dict.fromkeys(name for output in outputs for name in output):
        bar.set_postfix_str(f"judging {name}")
        there = [i for i, output in enumerate(outputs) if name in output]
        sounds = [outputs[i][name].waveform for i in there]
        texts, frames = judge.recognize(sounds, sample_rate_hz, [block[i].text for i in there])
        for i, text in zip(there, texts, strict=True):
            hypotheses[i][name] = text
        statistics = run.features.setdefault(name, metrics.FeatureStatistics())
        for part in frames:
            statistics.add(part)
    run.judge_s += time.monotonic() - started
    return hypotheses


def _words_by(
    judges: Sequence[Judge], sample_rate_hz: int, block: Sequence[Clip], outputs: list[dict[str, Output]]
) -> dict[str, dict[str, dict[str, list[int]]]]:
    """Return the errors and words of originals and of what `EXCESS` compares with them: by system, judge and clip."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for name in ("original", *EXCESS):
        there = [(clip, output[name]) for clip, output in zip(block, outputs, strict=True) if name in output]
        for judge in judges if there else ():
            references = [clip.text for clip, _ in there]
            heard = judge([one.waveform for _, one in there], sample_rate_hz, references)
            language = judge.config.language
            words = [metrics.word_errors(*texts, language) for texts in zip(references, heard, strict=True)]
            by_clip = {clip.clip_id: list(errors) for (clip, _), errors in zip(there, words, strict=True)}
            found.setdefault(name, {})[judge.whisper.name] = by_clip
    return found


def _run_systems(
    run: _Run,
    release: Release,
    beside: Release | None,
    config: EvaluateConfig,
    clip: Clip,
    split: str,
    number: int,
) -> dict[str, Output]:
    read = split == "training" or config.num_unseen_texts is None or number < config.num_unseen_texts
    outputs, codes = run_systems(
        release,
        clip,
        split,
        reads_aloud=config.tts and read and release.gpt is not None,
        seed=config.seed,
        sampling=config.sampling,
        sampler=config.sampler,
        min_chars_per_s=config.min_chars_per_s,
        griffin_lim=config.griffin_lim,
    )
    if codes is not None:
        run.codes.append(codes)
    if beside is not None:
        outputs["tts_bundled"] = read_aloud(
            beside,
            clip.text,
            seed=clip_seed(config.seed, clip.clip_id),
            sampling=config.sampling,
            sampler=config.sampler,
            min_chars_per_s=config.min_chars_per_s,
        )
    for name, one in outputs.items():
        run.work_s[name] = run.work_s.get(name, 0.0) + one.seconds
        run.sound_s[name] = run.sound_s.get(name, 0.0) + one.waveform.size / release.sample_rate_hz
    return outputs


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


def _frechet(features: dict[str, metrics.FeatureStatistics], name: str) -> float | None:
    if name == "original" or not {name, "original"} <= set(features):
        return None
    return metrics.frechet_distance(features[name], features["original"])


def _describe_data(heldout_uri: str, heldout: Sequence[Clip], training: Sequence[Clip]) -> dict[str, Any]:
    return {
        "heldout": heldout_uri,
        "num_clips": len(heldout),
        "duration_s": round(sum(clip.duration_s for clip in heldout), 2),
        "num_transcripts": sum(clip.asr_model == "transcript" for clip in heldout),
        "num_training_clips": len(training),
    }
