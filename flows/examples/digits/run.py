"""``triforce digits``: one network between text, images and speech, from real digits to judged answers, in minutes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.examples.demo.stages import Stage, run_stages
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus

logger = logging.getLogger(__name__)


class DigitsConfig(BaseModel):
    """How long each network learns, and how many answers are judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speech_steps: int = Field(1000, ge=1, description="Steps of the dVAE of spoken digits.")
    image_steps: int = Field(1000, ge=1, description="Steps of the dVAE of handwritten digits.")
    gpt_steps: int = Field(2000, ge=1, description="Steps of the transformer.")
    validation_share: float = Field(0.15, gt=0, lt=0.5, description="Clips that no network trains on: the prompts.")
    num_each: int = Field(10, ge=1, le=1000, description="Answers for each digit in each direction.")
    temperature: float = Field(0.3, ge=0, le=2, description="Of the answers.")
    candidates: int = Field(
        8, ge=1, le=64, description="Answers drawn, of which the network takes the one that explains the prompt best."
    )
    whisper: str | None = Field("base", description="Whisper model that is asked about speech too; none: nobody.")
    seed: int = Field(0, ge=0, description="Of everything that is drawn.")


class Digits:
    """The run in ``folder``: each stage is done once, and continued where it was stopped."""

    def __init__(self, folder: Path, config: DigitsConfig) -> None:
        self.folder, self.config = folder, config

    def _uri(self, name: str) -> str:
        return str(self.folder / name)

    def stages(self) -> list[Stage]:
        config = self.config
        share = {"validation_share": config.validation_share, "seed": config.seed}
        return [
            Stage("speech", self._write_speech, artifacts=("speech",)),
            Stage("images", self._write_images, config.validation_share, ("images",)),
            Stage("train-speech-dvae", self._train_speech, share | {"steps": config.speech_steps}, ("release/dvae",)),
            Stage("train-image-dvae", self._train_images, share | {"steps": config.image_steps}, ("images-release",)),
            Stage("tokenize", self._tokenize, artifacts=("speech-tokens", "images-tokens")),
            Stage("train-gpt", self._train_gpt, share | {"steps": config.gpt_steps}, ("release/gpt",)),
            Stage("judge", self._judge, config.model_dump(mode="json"), ("digits.html", "digits.json")),
        ]

    def _write_speech(self) -> str:
        from triforce.flows.examples.digits.data import voices, write_speech

        count = write_speech(Corpus(self._uri("speech")), self.folder / "cache")
        return f"{count} spoken digits of {len(voices())} voices"

    def _write_images(self) -> str:
        from triforce.flows.examples.digits.data import write_images

        return f"{write_images(Corpus(self._uri('images')), self.config.validation_share)} handwritten digits"

    def _train_speech(self) -> str:
        return self._train(
            stage="dvae",
            corpus=self._uri("speech"),
            release=self._uri("release"),
            # Folded: all work at the rate of the codes, which is what two cores can do in a minute.
            model={"folded": True, "hidden": 160, "num_blocks": 4, "fsq_levels": (8, 6, 5), "quantizer": "fsq"},
            batch_size=16,
            crop_frames=64,
            max_steps=self.config.speech_steps,
            optimizer={"learning_rate": 2e-3},
        )

    def _train_images(self) -> str:
        return self._train(
            stage="dvae",
            modality="image",
            corpus=self._uri("images"),
            release=self._uri("images-release"),
            model={
                "channels": 3,
                "compression": (2, 2),
                "folded": True,
                "hidden": 96,
                "num_blocks": 2,
                # Like strokes get like codes: a classifier of codes alone reads 93 % of the unseen images, and 82 % of
                # them where FSQ makes four codes of an image.
                "quantizer": "ema-vq",
                "codebook_size": 64,
            },
            crop=(8, 8),
            batch_size=64,
            max_steps=self.config.image_steps,
            optimizer={"learning_rate": 3e-3},
        )

    def _tokenize(self) -> str:
        from triforce.tokenize.config import TokenizeConfig
        from triforce.tokenize.job import tokenize_corpus

        lines = []
        for medium, release in (("speech", "release"), ("images", "images-release")):
            total = tokenize_corpus(
                TokenizeConfig(
                    corpus=self._uri(medium),
                    release=self._uri(release),
                    tokens=self._uri(f"{medium}-tokens"),
                    text_vocabulary_size=256,
                )
            )
            lines.append(f"{medium}: {total.num_clips} clips, {total.num_codes} codes")
        return "; ".join(lines)

    def _train_gpt(self) -> str:
        from triforce.flows.examples.digits.crossing import LAYOUTS, WITHOUT_TEXT

        return self._train(
            stage="gpt",
            tokens=self._uri("speech-tokens"),
            more_tokens=(self._uri("images-tokens"),),
            join_on="text",
            release=self._uri("release"),
            layouts=dict.fromkeys(LAYOUTS, 1.0) | WITHOUT_TEXT,
            # A word is three tokens among dozens of codes, and the one thing that all directions must know.
            loss_weights={"text": 4.0},
            model={"num_layers": 4, "width": 128, "num_heads": 4, "dropout": 0.15},
            code_noise=0.1,
            batch_size=4,
            context=512,
            max_steps=self.config.gpt_steps,
            optimizer={"learning_rate": 2e-3, "warmup_steps": 100},
        )

    def _train(self, **settings) -> str:
        from triforce.train.config import TrainConfig
        from triforce.train.job import train

        config = TrainConfig(
            runs=self._uri("runs"),
            validation_share=self.config.validation_share,
            seed=self.config.seed,
            eval_every=250,
            eval_clips=64,
            log_every=25,
            threads_per_worker=1,  # networks this small gain nothing by more
            **settings,
        )
        summary = train(config)
        shown = {name: value for name, value in sorted(summary.metrics.items()) if "eval/" in name}
        return f"{summary.steps} steps; " + ", ".join(f"{name} {value:.3g}" for name, value in shown.items())

    def _judge(self) -> str:
        from triforce.flows.examples.digits.score import score

        page, figures = score(self.folder, self.config)
        storage.write_bytes(self.folder / "digits.html", page.encode())
        storage.write_bytes(self.folder / "digits.json", json.dumps(figures, indent=1).encode())
        return ", ".join(f"{name} {share:.0%}" for name, share in figures["directions"].items())


def run_digits(folder: Path, config: DigitsConfig, say: Callable[[str], None] = print) -> None:
    """All stages, into ``folder``; ``say`` gets a line for each."""
    from triforce.tokenize.cluster import connect

    folder.mkdir(parents=True, exist_ok=True)
    connect()
    run_stages(Digits(folder, config).stages(), folder, say)
    say(str(folder / "digits.html"))
