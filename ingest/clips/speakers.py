"""Who speaks in a clip: an embedding of the voice, whether it changes within the clip, and which clips of a recording
are by the same speaker.

The encoder is Resemblyzer's, trained with the generalized end-to-end loss (Wan et al. 2018). Its requirements name two
packages that must not come along, so it is installed by itself: see `INSTALL`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

INSTALL = "pip install 'triforce[speakers]' && pip install --no-deps Resemblyzer==0.1.4"
RATE_HZ = 16_000
PARTIALS_PER_S = 1.25
"""Windows of 1.6 s a second; they overlap by half."""
MIN_PARTIALS = 2
"""Windows on either side of a change of voice: 2.4 s."""
LEVEL_DBFS = -30.0
"""Level to which quiet clips are amplified, as in the encoder's training."""


class SpeakerConfig(BaseModel):
    """Which clips count as one speaker's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_similarity: float = Field(
        0.83,
        gt=0,
        lt=1,
        description="Mean cosine at which groups of clips are one speaker. Measured on Debian's prompts in four "
        "languages: 0.94 between clips of one voice (median), 0.81 at most between clips of two.",
    )
    across_recordings: bool = Field(
        True, description="Whether a voice has the same name in all recordings of its source."
    )
    min_linked_similarity: float = Field(
        0.94,
        gt=0,
        lt=1,
        description="Mean cosine at which voices of two recordings are one speaker: over 0.92, which two speakers "
        "reach through one telephone line. Measured, see ingest/speakers.",
    )
    num_conditioning: int = Field(3, ge=1, le=32, description="Conditioning clips named for each clip.")


@dataclass(frozen=True)
class SpeakerEmbedding:
    """The voice of a clip."""

    embedding: np.ndarray
    """``(256,) float32``, a unit vector."""
    similarity: float | None
    """Cosine between the voices before and after the most probable change of speaker; None for clips under 4 s."""


class SpeakerEncoder:
    """The pretrained speaker encoder, loaded once."""

    def __init__(self, device: str = "cpu"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # names that SciPy is going to move
                import resemblyzer
        except ImportError as error:
            raise ImportError(f"the speaker encoder is not installed ({error.name}): {INSTALL}") from error
        self._encoder = resemblyzer.VoiceEncoder(device, verbose=False)

    def __call__(self, waveform: np.ndarray) -> SpeakerEmbedding:
        """Embed one clip, ``(N,) float32`` in [-1, 1] at 16 kHz."""
        level = float(np.sqrt(np.mean(waveform**2))) if len(waveform) else 0.0
        gain = max(1.0, 10 ** (LEVEL_DBFS / 20) / max(level, 1e-5))
        embedding, partials, _ = self._encoder.embed_utterance(
            (waveform * gain).astype(np.float32), return_partials=True, rate=PARTIALS_PER_S, min_coverage=0.5
        )
        return SpeakerEmbedding(_unit(np.nan_to_num(embedding)), change_similarity(np.nan_to_num(partials)))


def change_similarity(partials: np.ndarray) -> float | None:
    """Return the least cosine between the means before and after any point of ``(P, D)`` embeddings in order."""
    points = range(MIN_PARTIALS, len(partials) - MIN_PARTIALS + 1)
    sides = [(_unit(partials[:at].mean(axis=0)), _unit(partials[at:].mean(axis=0))) for at in points]
    return min((float(before @ after) for before, after in sides), default=None)


def cluster(embeddings: np.ndarray, config: SpeakerConfig) -> np.ndarray:
    """Return the speaker of each clip, ``(N,) int``, from ``(N, D)`` unit vectors: 0 for the one who speaks in most
    clips.

    Groups whose clips are similar on average are joined, the most similar first.
    """
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), int)
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(embeddings.astype(np.float64), method="average", metric="cosine")
    labels = fcluster(tree, 1.0 - config.min_similarity, criterion="distance")
    found, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = sorted(range(len(found)), key=lambda at: (-counts[at], first[at]))
    rank = {found[at]: number for number, at in enumerate(order)}
    return np.asarray([rank[label] for label in labels])


def conditioning(embeddings: np.ndarray, speakers: np.ndarray, usable: np.ndarray, count: int) -> list[list[int]]:
    """Return for each clip the ``count`` most similar others of its speaker, the most similar first, of those that are
    ``usable (N,) bool``."""
    best: list[list[int]] = [[] for _ in speakers]
    for speaker in np.unique(speakers):
        own = np.flatnonzero(speakers == speaker)
        others = own[usable[own]]
        for clip in own:
            similarity = embeddings[others] @ embeddings[clip]
            ranked = others[np.argsort(-similarity, kind="stable")]
            best[clip] = [int(other) for other in ranked if other != clip][:count]
    return best


def speaker_names(speakers: Sequence[int], recording_id: str, stated: str | None) -> list[str]:
    """Return a label for each clip. The name that the source states goes to the speaker of most clips; the others of a
    recording are numbered after it."""
    return [stated if stated and not number else f"{recording_id}#{number}" for number in map(int, speakers)]


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-9)).astype(np.float32)
