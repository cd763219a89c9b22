"""``triforce reading``: train on hours of one synthetic voice, and let Whisper judge unseen sentences.

It shows that the recipe learns to speak when it has data. ``--set share=0.05`` is the same at a twentieth of the size,
to try it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.examples.timed_steps import Timings, release_hashes
from triforce.flows.jobs.run_stage import run_tokenize, run_train
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config

STEPS = ("speech", "pack", "train-dvae", "tokenize", "train-gpt", "train-diffusion", "listen", "evaluate")
CODE_LEVELS = (8, 8, 4, 4)
"""Levels of the codes, 1024 in all: enough for one clean voice, and each occurs often enough in a few hours."""
LONGEST_WORD = 32
"""Codes of a word at most, with the pause behind it: 1.4 s. A network that knows little may stay at one for long."""


class ReadingConfig(BaseModel):
    """How much is read and for how long each network is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(1.0, gt=0, le=100, description="Factor of the hours and minutes below.")
    hours: float = Field(4.0, gt=0, description="Hours of speech.")
    dvae_minutes: float = Field(15.0, gt=0, description="Training time of the dVAE.")
    gpt_minutes: float = Field(65.0, gt=0, description="Training time of the transformer.")
    diffusion_minutes: float = Field(30.0, gt=0, description="Training time of the diffusion network.")
    num_unseen: int = Field(200, ge=1, le=1000, description="Sentences that no network trains on, to be judged by.")
    num_read: int = Field(40, ge=1, le=1000, description="Unseen sentences that the transformer reads.")
    candidates: int = Field(1, ge=1, le=64, description="Utterances of each; of several, the ranker's best counts.")
    temperature: float = Field(0.7, gt=0, le=2, description="Sampling temperature of the utterances.")
    guidance: float = Field(1.5, ge=0, le=10, description="How much more the text counts than in training.")
    teacher: str = Field("tiny.en", description="Whisper model that teaches the dVAE; empty: none.")
    ranker: str = Field("tiny.en", description="Whisper model that picks among candidates.")
    judge: str = Field("base", description="Whisper model that judges; should be another than the two above.")
    threads: int | None = Field(None, ge=1, description="CPU threads of the training; none: all cores.")
    seed: int = Field(0, ge=0, description="Seed of texts and weights.")


def run_reading(folder: Path, config: ReadingConfig, say: Callable[[str], None] = print) -> None:
    """Run all steps, into ``folder``; ``say`` gets a line for each.

    Each step skips what an earlier run finished, and goes on where one was stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Timings(folder, STEPS, say)
    texts = functools.cache(lambda: choose_texts(folder / "cache", config))
    speech_key = [config.share, config.hours, config.num_unseen, config.seed]
    run.stored(
        "speech",
        folder / "unseen",
        lambda: [speech_key, (folder / "corpus").exists()],
        lambda: _write_speech(folder, *texts()),
    )
    data = {name: str(folder / name) for name in ("corpus", "release", "tokens")}
    with run.step("pack") as step:
        from triforce.train.data.packed.make import pack_corpus

        step.line = f"{len(pack_corpus(data['corpus'], folder / 'pack'))} clips"
    _train("train-dvae", run, config, folder, dvae_recipe(config), corpus=str(folder / "pack"))
    with run.step("tokenize") as step:
        total = run_tokenize(TokenizeConfig(**data, text="phonemes"))
        step.line = f"{total.num_clips} clips, {total.num_codes} codes"
        step.done_before = total.num_new_shards == 0
    _train("train-gpt", run, config, folder, gpt_recipe(config), tokens=data["tokens"])
    _train("train-diffusion", run, config, folder, diffusion_recipe(config), corpus=data["corpus"])
    release_key = functools.partial(release_hashes, folder / "release")
    run.stored(
        "listen",
        folder / "reading.json",
        lambda: [config.model_dump(mode="json"), release_key()],
        lambda: listen(folder, config, texts()[1][: config.num_read]),
    )
    run.stored(
        "evaluate",
        folder / "evaluation/evaluation.json",
        lambda: [config.judge, config.num_read, speech_key, release_key()],
        lambda: _evaluate(folder, config),
    )
    say(str(folder / "reading.json"))


def dvae_recipe(config: ReadingConfig) -> dict[str, Any]:
    """Settings of the dVAE."""
    minutes = config.dvae_minutes * config.share
    taught = {"teacher": "whisper", "teacher_model": config.teacher, "teacher_weight": 2.0, "teacher_every": 3}
    return {
        "stage": "dvae",
        "model": {"quantizer": "fsq", "fsq_levels": CODE_LEVELS},
        "max_steps": 20_000,
        "max_minutes": minutes,
    } | (taught if config.teacher else {})


def gpt_recipe(config: ReadingConfig) -> dict[str, Any]:
    """Settings of the transformer."""
    return {
        "stage": "gpt",
        "layouts": {"text>reading": 1.0},
        "model": {"num_layers": 6, "width": 256, "num_heads": 4, "dropout": 0.2, "reading_units": "pieces"},
        "text_dropout": 0.1,
        "code_noise": 0.15,
        "batch_size": 3,
        "context": 512,
        "max_steps": 40_000,
        "max_minutes": config.gpt_minutes * config.share,
        "optimizer": {"learning_rate": 1.5e-3, "warmup_steps": 200},
    }


def diffusion_recipe(config: ReadingConfig) -> dict[str, Any]:
    """Settings of the diffusion network."""
    return {
        "stage": "diffusion",
        "model": {"fold": 4, "hidden": 320, "num_blocks": 8, "attention_every": 4, "dropout": 0.1, "skip": True},
        "max_steps": 40_000,
        "max_minutes": config.diffusion_minutes * config.share,
    }


def choose_texts(cache: Path, config: ReadingConfig) -> tuple[list[str], list[str]]:
    """Return the sentences to train on and the unseen ones."""
    from triforce.flows.examples.reading.speech import WORDS_PER_HOUR
    from triforce.flows.examples.reading.texts import sentences

    found = sentences(cache, config.seed)
    unseen, rest = found[: config.num_unseen], found[config.num_unseen :]
    wanted, count, taken = config.hours * config.share * WORDS_PER_HOUR, 0, 0
    while count < wanted and taken < len(rest):
        count += len(rest[taken].split())
        taken += 1
    return rest[:taken], unseen


def listen(folder: Path, config: ReadingConfig, texts: Sequence[str]) -> str:
    """Let the release read ``texts`` and the judge hear them; write ``reading.json`` and ten of the utterances."""
    import soundfile

    from triforce.flows.speech.speaker import SpeakConfig, Speaker
    from triforce.models.gpt_sampling import SamplingConfig
    from triforce.models.release import Release
    from triforce.train.evaluate.judge import Judge, JudgeConfig
    from triforce.train.evaluate.metrics import character_errors, pooled, word_errors

    sampling = SamplingConfig(
        num_candidates=config.candidates,
        temperature=config.temperature,
        guidance=config.guidance,
        max_codes_per_word=LONGEST_WORD,
    )
    ranker = JudgeConfig(model=config.ranker)  # packed: several candidates are transcribed at once
    speak = SpeakConfig(sampling=sampling, unknown="drop", tries=1, judge=ranker)
    speaker = Speaker(Release.load(str(folder / "release")), speak)
    rate = speaker.release.sample_rate_hz
    utterances = [speaker.speak(text, seed=number) for number, text in enumerate(texts)]
    for number, utterance in enumerate(utterances[:10]):
        if utterance.waveform.size:
            with storage.atomic_file(folder / f"unseen-{number:02d}.wav") as path:
                soundfile.write(path, utterance.waveform, rate, format="WAV")
    judge = Judge(JudgeConfig(model=config.judge, packed=False))
    heard = judge([utterance.waveform for utterance in utterances], rate, texts)
    rows: list[dict[str, Any]] = [
        {"text": text, "heard": words, "reached_end": utterance.reached_end}
        for text, words, utterance in zip(texts, heard, utterances, strict=True)
    ]
    figures: dict[str, Any] = {
        name: pooled([count(row["text"], row["heard"]) for row in rows]).rate
        for name, count in (("wer", word_errors), ("cer", character_errors))
    }
    figures["rows"] = rows
    storage.write_bytes(folder / "reading.json", json.dumps(figures, indent=1).encode())
    return f"unseen sentences: WER {figures['wer']:.0%}, CER {figures['cer']:.0%} ({len(rows)})"


def _write_speech(folder: Path, texts: list[str], unseen: list[str]) -> str:
    from triforce.flows.examples.reading.speech import write_reading

    seconds = write_reading(Corpus(str(folder / "corpus")), texts)
    write_reading(Corpus(str(folder / "unseen")), unseen, source="unseen")
    return f"{len(texts)} sentences, {seconds / 3600:.2f} h"


def _train(name: str, run: Timings, config: ReadingConfig, folder: Path, recipe: dict[str, Any], **data: str) -> None:
    """Train one network as the step ``name``."""
    settings = {"release": str(folder / "release"), "runs": str(folder / "runs"), "seed": config.seed}
    settings |= {"threads_per_worker": config.threads} | recipe | data
    with run.step(name) as step:
        summary = run_train(train_config(**settings))
        shown = [f"{name} {value:.3g}" for name, value in sorted(summary.metrics.items()) if "eval/" in name]
        step.line, step.done_before = f"{summary.steps} steps; {', '.join(shown)}", summary.skipped


def _evaluate(folder: Path, config: ReadingConfig) -> str:
    from triforce.models.gpt_sampling import SamplingConfig
    from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
    from triforce.train.evaluate.judge import JudgeConfig

    evaluation = evaluate(
        str(folder / "release"),
        str(folder / "unseen"),
        str(folder / "evaluation"),
        corpus_uri=str(folder / "corpus"),
        config=EvaluateConfig(
            judge=JudgeConfig(model=config.judge),
            num_unseen_texts=config.num_read,
            sampling=SamplingConfig(
                temperature=config.temperature, guidance=config.guidance, max_codes_per_word=LONGEST_WORD
            ),
        ),
    )
    return evaluation.table()
