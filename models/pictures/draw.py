"""Pictures by a release: drawn from a text, described in words, encoded and decoded.

The GPT draws several grids of codes for a text and ranks them by how likely it finds the text after each, as DALL-E's
candidates are ranked by how well they fit the text, and a little by how likely each is after the text. The dVAE decodes
the codes, and the diffusion network, where there is one, brings the decode to the scale of the pictures that it learnt
from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from triforce.models.dvae import DVAE
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import Candidate, SamplingConfig, log_probability, sample_segment
from triforce.models.release import Release
from triforce.models.release_files import load_card
from triforce.models.text import clean_text
from triforce.models.vocabulary import Segment

IMAGE = "image"
MOST_TEXT = 64
"""Pieces of a description at most. Assumed."""
IMAGE_WEIGHT = 0.1
"""Weight of an image's log-probability beside that of a text in ranking: it is a sum of dozens of codes, whose spread
would decide alone. Assumed."""
GUIDANCE = 2.0
"""Guidance by default, where the GPT learnt with texts hidden (`text_dropout`). Assumed."""
RESTORED_AS = SamplerConfig(num_steps=8, temperature=1.0)
"""How a decode is restored by default: all of the noise that training saw, since no word is lost in a picture."""


@dataclass(frozen=True)
class Drawing:
    """Candidates for one text, the best first."""

    text: str
    candidates: list[Candidate]
    decodes: list[torch.Tensor]
    """Decodes by the dVAE ``(3, *size)``, from 0 to 1 but for overshoots."""
    pictures: list[torch.Tensor]
    """The decodes after the diffusion network, ``(3, *full_size)`` from 0 to 1; interpolated where there is none."""
    wall_s: float
    """Time it took, s."""


def image_segment(dvae: DVAE, planes: torch.Tensor) -> Segment:
    """Encode planes ``(3, H, W)``, at the scale that the dVAE sees, as a segment of a document."""
    return Segment(IMAGE, dvae.encode(planes[None])[0].flatten().cpu().numpy())


def decode_image(dvae: DVAE, gpt: GPT, codes: Any) -> torch.Tensor:
    """Decode the codes ``(K,)`` of an image that ``gpt`` drew to planes ``(3, H, W)``."""
    grid = gpt.config.vocabulary.modality(IMAGE).grid
    assert grid is not None, "images have a grid in the vocabulary"
    return dvae.decode(torch.as_tensor(codes, device=gpt.embedding.weight.device).view(1, *grid))[0]


def draw_picture(
    release: Release,
    text: str,
    *,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    sampler: SamplerConfig | None = None,
    num_restored: int | None = None,
) -> Drawing:
    """Draw ``sampling.num_candidates`` pictures for ``text``; of the best, ``num_restored`` or all, are made.

    Capitals that no text of the training had are read as small letters. Fields of ``sampling`` that are not set are the
    release's own. Raises ValueError for a text without words, and where the release draws no pictures
    (`require_pictures`).
    """
    started, gpt = time.monotonic(), require_pictures(release, "text>image")
    said = _as_learnt(release, clean_text(text))
    if not said:
        raise ValueError(f"text {text!r}: nothing to draw; give at least one word")
    prompt = [Segment("text", release.tokenizer.encode(said))]
    candidates = sample_segment(release.decoder, prompt, IMAGE, _sampling(release, sampling), seed=seed)
    if len(candidates) > 1 and "image>text" in layouts_of(release):
        candidates = _ranked_by_text(gpt, prompt[0], candidates)
    chosen = candidates[:num_restored]
    decodes = [decode_image(release.dvae, gpt, one.codes) for one in chosen]
    pictures = [release.restore(one, seed=seed, config=sampler or RESTORED_AS).clamp(0, 1) for one in decodes]
    return Drawing(said, candidates, decodes, pictures, time.monotonic() - started)


def describe_picture(
    release: Release, codes: Any, *, seed: int = 0, sampling: SamplingConfig | None = None
) -> list[str]:
    """Return what the GPT says of a picture of these codes, the best of its candidates first, each text once.

    Where the release draws pictures too, the log-probability of the picture after a text counts as well, by
    `IMAGE_WEIGHT`. Raises ValueError as `draw_picture`.
    """
    gpt = require_pictures(release, "image>text")
    image = Segment(IMAGE, torch.as_tensor(codes).flatten().cpu().numpy())
    config = (sampling or SamplingConfig(temperature=0.3)).model_copy(update={"max_codes": MOST_TEXT})
    candidates = sample_segment(release.decoder, [image], "text", config, seed=seed)
    texts = [Segment("text", codes) for codes in {tuple(one.codes.tolist()): one.codes for one in candidates}.values()]
    if len(texts) > 1:
        weight = IMAGE_WEIGHT if "text>image" in layouts_of(release) else 0.0

        def score(text: Segment) -> float:
            back = weight * log_probability(gpt, [text], image) if weight else 0.0
            return log_probability(gpt, [image], text) + back

        texts.sort(key=score, reverse=True)
    return list(dict.fromkeys(release.tokenizer.decode(text.codes).strip() for text in texts))


def _ranked_by_text(gpt: GPT, text: Segment, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates for an image after ``text``, the best first."""

    def score(one: Candidate) -> float:
        own = IMAGE_WEIGHT * one.log_probability * len(one.codes)
        return own + log_probability(gpt, [Segment(IMAGE, one.codes)], text)

    return sorted(candidates, key=score, reverse=True)


def _as_learnt(release: Release, text: str) -> str:
    """Return ``text`` with the capitals that the GPT never read in small letters."""
    known = release.characters
    return text if known is None else "".join(c if c in known else c.lower() for c in text)


def _sampling(release: Release, given: SamplingConfig | None) -> SamplingConfig:
    """Return the sampling that is asked for, else the release's own, with `GUIDANCE` if it learnt with texts hidden."""
    own = release.sampling_of(given)
    card = load_card(release.uri, "gpt") or {}
    asked = given is not None and "guidance" in given.model_fields_set
    if asked or "guidance" in card.get("sampling", {}) or not card.get("training", {}).get("text_dropout"):
        return own
    return own.model_copy(update={"guidance": GUIDANCE})


def layouts_of(release: Release) -> Sequence[str]:
    """Return the layouts that the release's GPT was trained on; empty where it has none."""
    return list((load_card(release.uri, "gpt") or {}).get("layouts", []))


def require_pictures(release: Release, layout: str) -> GPT:
    """Return the release's GPT; raises ValueError where it did not learn ``layout`` or its dVAE codes no images."""
    coded = (load_card(release.uri, "dvae") or {}).get("modality") or "speech"
    known = layouts_of(release)
    if coded != IMAGE or layout not in known or release.gpt is None:
        knows = f"its GPT knows {', '.join(known)}" if known else "it has no GPT"
        raise ValueError(
            f"{release.uri}: no {layout} here; its dVAE codes {coded}, {knows}. Train one on pictures with texts "
            f"(`triforce train gpt --set 'layouts={{{layout}: 1}}'`), or make one by `triforce emoji`"
        )
    return release.gpt
