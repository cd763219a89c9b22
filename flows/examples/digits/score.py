"""Train the judges, draw the answers and judge them; return all of it as figures and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from triforce.flows.examples.digits.config import DigitsConfig
from triforce.flows.examples.digits.crossing import (
    LAYOUTS,
    Clips,
    DigitClip,
    Direction,
    Translator,
    cross,
    judge,
    read_clips,
)
from triforce.flows.examples.digits.judges import ImageJudge, SpeechJudge, read_word
from triforce.flows.examples.digits.page import write_page
from triforce.models.gpt_sampling import SamplingConfig

MAX_CODES = 40
"""Longest answer: 1.7 s of speech. The longest spoken digit has 25 codes or so."""
WHISPER_CLIPS = 30
"""Sounds of each kind that Whisper transcribes: a third of a second of work each."""


def score(folder: Path, config: DigitsConfig) -> tuple[str, dict]:
    """Return the page and the figures of a trained run."""
    share = config.validation_share
    clips = {
        "image": read_clips(str(folder / "images"), "image", share),
        "speech": read_clips(str(folder / "speech"), "speech", share),
    }
    images = ImageJudge(*_columns(clips["image"].training))
    speech = SpeechJudge(*_columns(clips["speech"].training))
    sampling = SamplingConfig(temperature=config.temperature, max_codes=MAX_CODES, num_candidates=config.candidates)
    translator = Translator(str(folder / "release"), str(folder / "images-release"), sampling)
    directions = cross(translator, LAYOUTS, clips, config.num_each, config.seed)
    judge(directions, images, speech)
    figures: dict[str, Any] = {
        "directions": {direction.layout: direction.share_right for direction in directions},
        "judges": _judges(translator, clips, images, speech, config, directions),
        "answers_each": 10 * config.num_each,
    }
    tables = {
        "Right answers to held-out prompts": [
            {"direction": direction.layout, "right": f"{direction.share_right:.0%}", "of": len(direction.answers)}
            for direction in directions
        ],
        "The judges themselves": figures["judges"],
    }
    notes = [
        f"{len(clips['speech'].training)} spoken and {len(clips['image'].training)} handwritten digits for training, "
        f"{len(clips['speech'].heldout)} and {len(clips['image'].heldout)} held out as prompts. "
        f"Sampled at temperature {config.temperature}, the best of {config.candidates} by "
        "noisy-channel reranking with the same network. "
        "Text is right if it is the word, letter for letter."
    ]
    return write_page(directions, tables, notes), figures


def _columns(clips: list[DigitClip]) -> tuple[list[np.ndarray], list[str]]:
    return [clip.content for clip in clips], [clip.word for clip in clips]


def _judges(
    translator: Translator,
    clips: dict[str, Clips],
    images: ImageJudge,
    speech: SpeechJudge,
    config: DigitsConfig,
    directions: list[Direction],
) -> list[dict]:
    """Return how far each judge can be trusted: on real held-out clips, and on the same through the dVAE alone."""
    rows = []
    for name, judging in (("image", images), ("speech", speech)):
        contents, words = _columns(clips[name].heldout[:300])
        through = [translator.round_trip(name, content) for content in contents]
        rows.append(
            {
                "judge": f"classifier of {name}",
                "real, held out": _share(judging(contents), words),
                "through the dVAE": _share(judging(through), words),
                "answers": "above",
            }
        )
        person = [clip for clip in clips[name].training + clips[name].heldout if clip.speaker == "allison"]
        if person:
            contents, words = _columns(person)
            through = [translator.round_trip(name, content) for content in contents]
            rows.append(
                {
                    "judge": "classifier of speech, on the person",
                    "real, held out": _share(judging(contents), words) + " (some trained on)",
                    "through the dVAE": _share(judging(through), words),
                    "answers": "",
                }
            )
    if config.whisper is not None:
        rows.append(_whisper(translator, clips["speech"].heldout, config.whisper, directions))
    return rows


def _whisper(translator: Translator, heldout: list[DigitClip], model: str, directions: list[Direction]) -> dict:
    """Return Whisper's row: single words, which it was not made for, each in a window of its own."""
    from triforce.train.evaluate.judge import Judge, JudgeConfig

    judging = Judge(JudgeConfig(model=model, packed=False))
    contents, words = _columns(heldout[:WHISPER_CLIPS])
    spoken = next(direction for direction in directions if direction.layout == "text>speech").answers[:WHISPER_CLIPS]
    sounds = {
        "real, held out": (contents, words),
        "through the dVAE": ([translator.round_trip("speech", content) for content in contents], words),
        "answers": ([answer.made for answer in spoken], [answer.word for answer in spoken]),
    }
    hypotheses = {name: judging(waveforms, 24_000, references) for name, (waveforms, references) in sounds.items()}
    return {"judge": f"Whisper {model}, one word alone, {WHISPER_CLIPS} each"} | {
        name: _share([read_word(text) for text in hypotheses[name]], sounds[name][1]) for name in sounds
    }


def _share(found: list[str], words: list[str]) -> str:
    return f"{np.mean([a == b for a, b in zip(found, words, strict=True)]):.0%}"
