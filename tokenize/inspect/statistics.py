"""Statistics of a set of shards: counts, and the use of the codebook."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from triforce.models.quantize import perplexity
from triforce.tokenize.plan import read_meta
from triforce.tokenize.shards import list_shards, read_shard


@dataclass(frozen=True)
class TokenStatistics:
    """Counts over all shards."""

    modality: str
    dvae_hash: str
    num_shards: int
    num_clips: int
    num_speakers: int
    duration_s: float
    num_codes: int
    codebook_size: int
    num_live: int
    """Number of codes that occur at all."""
    perplexity: float
    """Perplexity of the codes' frequencies; see `models.quantize.perplexity`."""
    num_text_pieces: int
    text_vocabulary_size: int

    def lines(self) -> list[tuple[str, str]]:
        """Return names and figures as text."""
        rate = self.num_codes / self.duration_s if self.duration_s else 0.0
        return [
            ("modality", self.modality),
            ("dVAE", self.dvae_hash[:12]),
            ("shards", f"{self.num_shards:,}"),
            ("clips", f"{self.num_clips:,} of {self.num_speakers:,} speakers"),
            ("hours", f"{self.duration_s / 3600:.3f}"),
            ("codes", f"{self.num_codes:,}, {rate:.1f} a second"),
            ("bits a second", f"{rate * math.log2(self.codebook_size):.0f}"),
            ("codes in use", f"{self.num_live:,} of {self.codebook_size:,} ({self.num_live / self.codebook_size:.1%})"),
            ("perplexity", f"{self.perplexity:,.0f}"),
            ("text pieces", f"{self.num_text_pieces:,} of a vocabulary of {self.text_vocabulary_size:,}"),
        ]


def token_statistics(tokens: str) -> TokenStatistics:
    """Read every shard once and count."""
    meta, shards = read_meta(tokens), list_shards(tokens)
    counts = np.zeros(meta["num_codes"], np.int64)
    speakers, num_clips, duration_s, num_text = set(), 0, 0.0, 0
    for uri in shards:
        for sample in read_shard(uri):
            counts += np.bincount(sample.codes.ravel(), minlength=len(counts))
            speakers.add(sample.metadata["speaker"])
            num_clips += 1
            duration_s += sample.metadata["duration_s"] or 0.0
            num_text += sample.text.size
    return TokenStatistics(
        modality=meta["modality"],
        dvae_hash=meta["dvae_hash"],
        num_shards=len(shards),
        num_clips=num_clips,
        num_speakers=len(speakers - {None}),
        duration_s=duration_s,
        num_codes=int(counts.sum()),
        codebook_size=len(counts),
        num_live=int((counts > 0).sum()),
        perplexity=perplexity(counts),
        num_text_pieces=num_text,
        text_vocabulary_size=meta["text_vocabulary_size"],
    )
