"""``triforce digits``: one network between text, images and speech, from real digits to judged answers, in minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triforce.flows.examples.digits.config import DigitsConfig
from triforce.flows.examples.timed_steps import Timings, release_hashes
from triforce.flows.jobs.run_stage import run_tokenize, run_train
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config

STEPS = ("speech", "images", "train-speech-dvae", "train-image-dvae", "tokenize", "train-gpt", "judge")


def run_digits(folder: Path, config: DigitsConfig, say: Callable[[str], None] = print) -> None:
    """Run all steps, into ``folder``; ``say`` gets a line for each.

    Each step skips what an earlier run finished, and goes on where one was stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Timings(folder, STEPS, say)
    speech, images = Corpus(str(folder / "speech")), Corpus(str(folder / "images"))
    run.stored(
        "speech", folder / "speech", lambda: sorted(speech.clipped_ids("voices")), lambda: _write_speech(speech, folder)
    )
    run.stored(
        "images",
        folder / "images",
        lambda: [config.validation_share, sorted(images.clipped_ids("handwriting"))],
        lambda: _write_images(images, config.validation_share),
    )
    _train("train-speech-dvae", run, config, folder, speech_recipe(config), corpus=speech.uri)
    _train("train-image-dvae", run, config, folder, image_recipe(config), corpus=images.uri)
    with run.step("tokenize") as step:
        totals = {medium: run_tokenize(tokenize_config(folder, medium)) for medium in RELEASES}
        lines = [f"{medium}: {total.num_clips} clips, {total.num_codes} codes" for medium, total in totals.items()]
        step.line, step.done_before = "; ".join(lines), not any(total.num_new_shards for total in totals.values())
    shards = {"tokens": str(folder / "speech-tokens"), "more_tokens": (str(folder / "images-tokens"),)}
    _train("train-gpt", run, config, folder, gpt_recipe(config), **shards)
    run.stored("judge", folder / "digits.json", lambda: _judge_key(folder, config), lambda: _judge(folder, config))
    say(str(folder / "digits.html"))


RELEASES = {"speech": "release", "images": "images-release"}
"""Folder of the release whose dVAE codes each medium."""


def speech_recipe(config: DigitsConfig) -> dict[str, Any]:
    """Settings of the dVAE of spoken digits."""
    return {
        "stage": "dvae",
        "release": RELEASES["speech"],
        # Folded: all work at the rate of the codes, which is what two cores can do in a minute.
        "model": {"folded": True, "hidden": 160, "num_blocks": 4, "fsq_levels": (8, 6, 5), "quantizer": "fsq"},
        "batch_size": 16,
        "crop_frames": 64,
        "max_steps": config.speech_steps,
        "optimizer": {"learning_rate": 2e-3},
    }


def image_recipe(config: DigitsConfig) -> dict[str, Any]:
    """Settings of the dVAE of handwritten digits."""
    return {
        "stage": "dvae",
        "modality": "image",
        "release": RELEASES["images"],
        "model": {
            "channels": 3,
            "compression": (2, 2),
            "folded": True,
            "hidden": 96,
            "num_blocks": 2,
            # Similar strokes get similar codes: a classifier of codes alone reads 93 % of the unseen images, and 82 %
            # of them where FSQ makes four codes of an image.
            "quantizer": "ema-vq",
            "codebook_size": 64,
        },
        "crop": (8, 8),
        "batch_size": 64,
        "max_steps": config.image_steps,
        "optimizer": {"learning_rate": 3e-3},
    }


def gpt_recipe(config: DigitsConfig) -> dict[str, Any]:
    """Settings of the transformer between the three media."""
    from triforce.flows.examples.digits.crossing import LAYOUTS, WITHOUT_TEXT

    return {
        "stage": "gpt",
        "join_on": "text",
        "release": RELEASES["speech"],
        "layouts": dict.fromkeys(LAYOUTS, 1.0) | WITHOUT_TEXT,
        # A word is three tokens among dozens of codes, and the one thing that all directions must know.
        "loss_weights": {"text": 4.0},
        "model": {"num_layers": 4, "width": 128, "num_heads": 4, "dropout": 0.15},
        "code_noise": 0.1,
        "batch_size": 4,
        "context": 512,
        "max_steps": config.gpt_steps,
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 100},
    }


def tokenize_config(folder: Path, medium: str) -> TokenizeConfig:
    """Return the config that tokenizes a medium's corpus."""
    return TokenizeConfig(
        corpus=str(folder / medium),
        release=str(folder / RELEASES[medium]),
        tokens=str(folder / f"{medium}-tokens"),
        text_vocabulary_size=256,
    )


def _write_speech(corpus: Corpus, folder: Path) -> str:
    from triforce.flows.examples.digits.data import voices, write_speech

    return f"{write_speech(corpus, folder / 'cache')} spoken digits of {len(voices())} voices"


def _write_images(corpus: Corpus, validation_share: float) -> str:
    from triforce.flows.examples.digits.data import write_images

    return f"{write_images(corpus, validation_share)} handwritten digits"


def _train(name: str, run: Timings, config: DigitsConfig, folder: Path, recipe: dict[str, Any], **data: Any) -> None:
    """Train one network as the step ``name``."""
    settings = {
        "runs": str(folder / "runs"),
        "validation_share": config.validation_share,
        "seed": config.seed,
        "eval_every": 250,
        "eval_clips": 64,
        "log_every": 25,
        "threads_per_worker": 1,  # networks this small gain nothing by more
    }
    settings |= recipe | data | {"release": str(folder / recipe["release"])}
    with run.step(name) as step:
        summary = run_train(train_config(**settings))
        shown = [f"{name} {value:.3g}" for name, value in sorted(summary.metrics.items()) if "eval/" in name]
        step.line, step.done_before = f"{summary.steps} steps; {', '.join(shown)}", summary.skipped


def _judge_key(folder: Path, config: DigitsConfig) -> list[Any]:
    """The settings, the networks, and whether the page is there."""
    hashes = {name: release_hashes(folder / name) for name in RELEASES.values()}
    return [config.model_dump(mode="json"), hashes, (folder / "digits.html").exists()]


def _judge(folder: Path, config: DigitsConfig) -> str:
    """Draw and judge answers; write ``digits.html`` and, last, ``digits.json``."""
    from triforce.flows.examples.digits.score import score

    page, figures = score(folder, config)
    storage.write_bytes(folder / "digits.html", page.encode())
    storage.write_bytes(folder / "digits.json", json.dumps(figures, indent=1).encode())
    return ", ".join(f"{name} {share:.0%}" for name, share in figures["directions"].items())
