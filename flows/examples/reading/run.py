"""``triforce reading``: one synthetic voice reads for hours, the networks learn it, and Whisper hears unseen sentences.

The proof that the recipe learns to speak, and to give back what the dVAE lost, when it has data. ``--set share=0.05``
is the same at a twentieth, to try it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.examples.demo.stages import Stage, run_stages
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus

NUM_CODES = 1024
"""Of the dVAE: enough for one clean voice, and each code is met often enough in a few hours to be learnt."""


class ReadingConfig(BaseModel):
    """How much is read and for how long each network learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(1.0, gt=0, le=100, description="Of the hours and minutes below.")
    hours: float = Field(4.0, gt=0, description="Of speech.")
    dvae_minutes: float = Field(15.0, gt=0, description="Training time of the dVAE.")
    gpt_minutes: float = Field(65.0, gt=0, description="Training time of the transformer.")
    diffusion_minutes: float = Field(30.0, gt=0, description="Training time of the diffusion network.")
    num_unseen: int = Field(200, ge=1, le=1000, description="Sentences that nobody trains on, to be judged by.")
    num_read: int = Field(40, ge=1, le=1000, description="Of those, how many the transformer reads.")
    candidates: int = Field(16, ge=2, le=64, description="Readings of each, of which Whisper's best counts.")
    temperature: float = Field(0.5, gt=0, le=2, description="Of the readings.")
    judge: str = Field("base", description="Whisper model that listens.")
    threads: int | None = Field(None, ge=1, description="CPU threads of the training; none: all cores.")
    seed: int = Field(0, ge=0, description="Of texts and weights.")


class Reading:
    """The run in ``folder``: each stage is done once, and continued where it was stopped."""

    def __init__(self, folder: Path, config: ReadingConfig) -> None:
        self.folder, self.config = folder, config

    def _uri(self, name: str) -> str:
        return str(self.folder / name)

    def stages(self) -> list[Stage]:
        config = self.config.model_dump(mode="json")
        return [
            Stage(
                "speech",
                self._write_speech,
                {name: config[name] for name in ("share", "hours", "num_unseen", "seed")},
                ("corpus", "unseen"),
            ),
            Stage("train-dvae", self._train_dvae, config["dvae_minutes"], ("release/dvae",)),
            Stage("tokenize", self._tokenize, artifacts=("tokens",)),
            Stage("train-gpt", self._train_gpt, config["gpt_minutes"], ("release/gpt",)),
            Stage("train-diffusion", self._train_diffusion, config["diffusion_minutes"], ("release/diffusion",)),
            Stage("listen", self._listen, config, ("reading.json",)),
            Stage("evaluate", self._evaluate, config["judge"], ("evaluation/evaluation.json",)),
        ]

    def _texts(self) -> tuple[list[str], list[str]]:
        """Those to train on, and the unseen ones."""
        from triforce.flows.examples.reading.speech import WORDS_PER_HOUR
        from triforce.flows.examples.reading.texts import sentences

        found = sentences(self.folder / "cache", self.config.seed)
        unseen, rest = found[: self.config.num_unseen], found[self.config.num_unseen :]
        wanted, count, taken = self.config.hours * self.config.share * WORDS_PER_HOUR, 0, 0
        while count < wanted and taken < len(rest):
            count += len(rest[taken].split())
            taken += 1
        return rest[:taken], unseen

    def _write_speech(self) -> str:
        from triforce.flows.examples.reading.speech import write_reading

        texts, unseen = self._texts()
        seconds = write_reading(Corpus(self._uri("corpus")), texts)
        write_reading(Corpus(self._uri("unseen")), unseen, source="unseen")
        return f"{len(texts)} sentences, {seconds / 3600:.2f} h"

    def _train_dvae(self) -> str:
        minutes = self.config.dvae_minutes * self.config.share
        return self._train(
            stage="dvae",
            corpus=self._uri("corpus"),
            model={"codebook_size": NUM_CODES},
            max_steps=20_000,
            max_minutes=minutes,
        )

    def _tokenize(self) -> str:
        from triforce.models.text import NUM_BYTES
        from triforce.tokenize.config import TokenizeConfig
        from triforce.tokenize.job import tokenize_corpus

        places = {"corpus": self._uri("corpus"), "release": self._uri("release"), "tokens": self._uri("tokens")}
        total = tokenize_corpus(TokenizeConfig(**places, text_vocabulary_size=NUM_BYTES))
        return f"{total.num_clips} clips, {total.num_codes} codes"

    def _train_gpt(self) -> str:
        return self._train(
            stage="gpt",
            tokens=self._uri("tokens"),
            layouts={"text>speech": 1.0},
            model={"num_layers": 6, "width": 256, "num_heads": 4, "dropout": 0.2},
            side_by_side=True,
            code_noise=0.15,
            batch_size=3,
            context=512,
            max_steps=40_000,
            max_minutes=self.config.gpt_minutes * self.config.share,
            optimizer={"learning_rate": 1.5e-3, "warmup_steps": 200},
        )

    def _train_diffusion(self) -> str:
        return self._train(
            stage="diffusion",
            corpus=self._uri("corpus"),
            latents=True,
            model={"fold": 4, "hidden": 320, "num_blocks": 8, "attention_every": 4, "dropout": 0.1, "skip": True},
            max_steps=40_000,
            max_minutes=self.config.diffusion_minutes * self.config.share,
        )

    def _evaluate(self) -> str:
        from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
        from triforce.train.evaluate.judge import JudgeConfig

        evaluation = evaluate(
            self._uri("release"),
            self._uri("unseen"),
            self._uri("evaluation"),
            corpus_uri=self._uri("corpus"),
            config=EvaluateConfig(judge=JudgeConfig(model=self.config.judge), num_unseen_texts=self.config.num_read),
        )
        return evaluation.table()

    def _train(self, **settings) -> str:
        from triforce.train.config import TrainConfig
        from triforce.train.job import train

        places = {"release": self._uri("release"), "runs": self._uri("runs"), "seed": self.config.seed}
        summary = train(TrainConfig(**places, threads_per_worker=self.config.threads, **settings))
        shown = {name: value for name, value in sorted(summary.metrics.items()) if "eval/" in name}
        return f"{summary.steps} steps; " + ", ".join(f"{name} {value:.3g}" for name, value in shown.items())

    def _listen(self) -> str:
        import jiwer
        import soundfile

        from triforce.flows.speech.speaker import SpeakConfig, Speaker
        from triforce.models.release import Release
        from triforce.models.sampling import SamplingConfig
        from triforce.train.evaluate.judge import Judge, JudgeConfig
        from triforce.train.evaluate.metrics import normalize_text

        unseen = self._texts()[1][: self.config.num_read]
        sampling = SamplingConfig(num_candidates=self.config.candidates, temperature=self.config.temperature)
        ranker = JudgeConfig(model=self.config.judge)  # packed: several candidates are heard at once
        config = SpeakConfig(sampling=sampling, unknown="drop", tries=1, judge=ranker)
        speaker = Speaker(Release.load(self._uri("release")), config)
        readings = [speaker.speak(text, seed=number) for number, text in enumerate(unseen)]
        for number, reading in enumerate(readings[:10]):
            if reading.waveform.size:
                with storage.atomic_file(self.folder / f"unseen-{number:02d}.wav") as path:
                    soundfile.write(path, reading.waveform, speaker.release.sample_rate_hz, format="WAV")
        judge = Judge(JudgeConfig(model=self.config.judge, packed=False))
        heard = judge([reading.waveform for reading in readings], speaker.release.sample_rate_hz, unseen)
        rows: list[dict[str, Any]] = [
            {"text": text, "heard": words, "reached_end": reading.reached_end}
            for text, words, reading in zip(unseen, heard, readings, strict=True)
        ]
        truths, heards = ([normalize_text(row[key]) for row in rows] for key in ("text", "heard"))
        figures = {"wer": jiwer.wer(truths, heards), "cer": jiwer.cer(truths, heards), "rows": rows}
        storage.write_bytes(self.folder / "reading.json", json.dumps(figures, indent=1).encode())
        return f"unseen sentences: WER {figures['wer']:.0%}, CER {figures['cer']:.0%} ({len(rows)})"


def run_reading(folder: Path, config: ReadingConfig, say: Callable[[str], None] = print) -> None:
    """All stages, into ``folder``; ``say`` gets a line for each."""
    folder.mkdir(parents=True, exist_ok=True)
    run_stages(Reading(folder, config).stages(), folder, say)
    say(str(folder / "reading.json"))
