"""Each medium into each other with one network: prompts from held-out clips, answers judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import torch

from triforce.flows.examples.digits.data import WORDS
from triforce.flows.examples.digits.judges import ImageJudge, SpeechJudge
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.pixels import decode_png, from_planes, to_planes
from triforce.models.dvae import DVAE
from triforce.models.gpt_sampling import SamplingConfig, noisy_channel_rerank, sample_segment
from triforce.models.pictures.draw import decode_image, image_segment
from triforce.models.release import Release
from triforce.models.release_files import require_dvae
from triforce.models.vocabulary import Segment
from triforce.tokenize.read import decode_flac
from triforce.train.data.order import is_validation
from triforce.train.data.tokens.documents import parse_layout

Content: TypeAlias = Any
"""Content of a clip, by its modality: `str` for text, an array for the others."""

PAIRS = tuple(f"{a}>{b}" for a in ("text", "image", "speech") for b in ("text", "image", "speech") if a != b)
WITHOUT_TEXT = {"image>speech": 4.0, "speech>image": 4.0}
"""Sampling weights of these layouts, 1 for the others: no text in them names the digit, so no loss counts it alone."""
LAYOUTS = (*PAIRS, "text+speech>image", "text+image>speech", "image+speech>text")


@dataclass(frozen=True)
class DigitClip:
    """A real digit: ``(N,)`` float32 at 24 kHz, or ``(8, 8, 3)`` uint8."""

    word: str
    content: np.ndarray
    speaker: str | None = None


@dataclass(frozen=True)
class Clips:
    """The clips of a medium, for training and held out."""

    training: list[DigitClip]
    heldout: list[DigitClip]


def read_clips(corpus_uri: str, modality: str, validation_share: float) -> Clips:
    """Read the kept clips of a corpus, those for training and the held-out ones."""
    column = "image" if modality == "image" else "audio"
    found = Clips([], [])
    for row in Corpus(corpus_uri).clips(["clip_id", "text", "speaker", column], kept_only=True).to_pylist():
        data = row[column]["bytes"]
        content = decode_png(data) if modality == "image" else decode_flac(data, 24_000)
        held = is_validation(row["clip_id"], validation_share)
        (found.heldout if held else found.training).append(DigitClip(row["text"], content, row["speaker"]))
    return found


@dataclass
class Answer:
    """The network's answer to a prompt."""

    word: str
    prompt: dict[str, Content]
    made: Content
    judged: str = ""


@dataclass
class Direction:
    """A layout's answers, and how many of them are right."""

    layout: str
    answers: list[Answer] = field(default_factory=list)

    @property
    def share_right(self) -> float:
        """Share of the answers that are judged right."""
        return float(np.mean([answer.judged == answer.word for answer in self.answers]))


class Translator:
    """Translates between text, images and speech with the release's GPT."""

    def __init__(self, release_uri: str, image_release_uri: str, sampling: SamplingConfig) -> None:
        self.release = Release.load(release_uri)
        if self.release.gpt is None:
            raise FileNotFoundError(f"{release_uri}: no gpt/config.json here; train it first")
        self.gpt = self.release.gpt
        self.image_dvae = cast(DVAE, require_dvae(image_release_uri).model)
        self.sampling = sampling

    def segment(self, modality: str, content: Content) -> Segment:
        """Encode content as a segment of a document."""
        if modality == "text":
            return Segment("text", self.release.tokenizer.encode(content))
        if modality == "speech":
            return Segment("speech", self.release.encode(content))
        return image_segment(self.image_dvae, torch.from_numpy(to_planes(content)))

    def render(self, modality: str, codes: np.ndarray) -> Content:
        """Decode the codes of a segment."""
        if modality == "text":
            return self.release.tokenizer.decode(codes)
        if modality == "image":
            return from_planes(decode_image(self.image_dvae, self.gpt, codes).numpy())
        return self.release.vocode(self.release.decode(codes)) if codes.size else np.zeros(0, np.float32)

    def __call__(self, layout: str, prompt: dict[str, Content], seed: int) -> Content:
        """Return the network's answer to a prompt: the last medium of the layout."""
        *given, wanted = parse_layout(layout)
        segments = [self.segment(name, prompt[name]) for name in given]
        drawn = sample_segment(self.gpt, segments, wanted, self.sampling, seed=seed)
        if len(drawn) > 1:
            drawn = noisy_channel_rerank(self.gpt, segments, wanted, drawn)
        return self.render(wanted, drawn[0].codes)

    def round_trip(self, modality: str, content: Content) -> Content:
        """Encode and decode with the dVAE alone: the best that a GPT could reach."""
        return self.render(modality, self.segment(modality, content).codes)


def cross(
    translator: Translator, layouts: Sequence[str], clips: dict[str, Clips], num_each: int, seed: int = 0
) -> list[Direction]:
    """Draw, for each layout, ``num_each`` answers for each digit to held-out prompts."""
    generator = np.random.default_rng(seed)
    pools = {
        name: {word: [clip for clip in both.heldout if clip.word == word] for word in WORDS}
        for name, both in clips.items()
    }
    found = []
    for layout in layouts:
        direction = Direction(layout)
        for number, word in [(n, word) for n in range(num_each) for word in WORDS]:
            prompt: dict[str, Content] = {"text": word}
            for name, pool in pools.items():
                prompt[name] = pool[word][int(generator.integers(len(pool[word])))].content
            given = {name: prompt[name] for name in parse_layout(layout)[:-1]}
            made = translator(layout, given, seed=seed + number)
            direction.answers.append(Answer(word, given, made))
        found.append(direction)
    return found


def judge(directions: list[Direction], images: ImageJudge, speech: SpeechJudge) -> None:
    """Set `Answer.judged` to the digit that the judges take each answer for."""
    for direction in directions:
        medium = parse_layout(direction.layout)[-1]
        made = [answer.made for answer in direction.answers]
        judges: dict[str, Callable[[list], list[str]]] = {
            "text": lambda texts: [text.strip() for text in texts],
            "image": images,
            "speech": speech,
        }
        judged = judges[medium](made)
        direction.answers[:] = [
            dataclasses.replace(answer, judged=word) for answer, word in zip(direction.answers, judged, strict=True)
        ]
