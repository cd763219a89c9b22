"""Token samples to documents in any layout, and documents to packed rows.

A layout names segments and their order, as in ``text>speech``, ``speech>text`` or ``voice+text>speech``; what stands
behind ``>`` is what sampling will be asked for. A ``voice`` segment is another clip of the same speaker.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from triforce.models.vocabulary import PAD, Segment, Vocabulary
from triforce.train.data import Place, ShuffledOrder, TokenStore

MAX_VOICE_CODES = 117
"""Codes of a voice prompt, 5 s. Assumed: timbre is settled by then."""


def parse_layout(layout: str) -> tuple[str, ...]:
    """The modalities of a layout, in order."""
    if not re.fullmatch(r"[a-z]+([+][a-z]+)*(>[a-z]+)?", layout):
        raise ValueError(f"layout {layout!r}: write modalities joined by + and at most one >, as in voice+text>speech")
    return tuple(re.split(r"[+>]", layout))


class PackedBatch(NamedTuple):
    """Rows of whole documents side by side, each tensor ``(B, T)``."""

    ids: torch.Tensor
    targets: torch.Tensor
    """The next id of the same document; `PAD` where there is none."""
    weights: torch.Tensor
    """Of each target in the loss."""
    positions: torch.Tensor
    """From 0 in each document."""
    documents: torch.Tensor
    """Number of the document in the row, from 1; 0 is padding."""

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(*(tensor.to(device) for tensor in self))


@dataclass
class Documents:
    """Draws a document for each position of the order; what is drawn depends on the seed and the position alone."""

    store: TokenStore
    vocabulary: Vocabulary
    layouts: dict[str, float]
    loss_weights: dict[str, float]
    seed: int

    def __post_init__(self) -> None:
        self.order = ShuffledOrder(self.store.group_sizes, self.seed)
        self._layouts = [parse_layout(layout) for layout in self.layouts]
        for layout in self._layouts:
            for name in layout:
                self.vocabulary.modality(name)
        weights = np.array(list(self.layouts.values()), dtype=float)
        self._shares = weights / weights.sum()
        self._by_speaker: dict[str, list[tuple[int, int]]] = defaultdict(list)
        if any("voice" in layout for layout in self._layouts):
            for group, size in enumerate(self.store.group_sizes):
                for row in range(size):
                    speaker = self.store.sample(group, row).metadata.get("speaker")
                    if speaker:
                        self._by_speaker[speaker].append((group, row))

    def segments(self, position: int) -> list[Segment]:
        """The document at a position of the order."""
        group, row = self.order(position)
        sample = self.store.sample(group, row)
        generator = np.random.default_rng([self.seed, position])
        layout = self._layouts[generator.choice(len(self._layouts), p=self._shares)]
        parts: dict[str, Callable[[], np.ndarray | None]] = {
            "text": lambda: sample.text,
            "speech": lambda: sample.codes,
            "voice": lambda: self._voice(sample.metadata.get("speaker"), (group, row), generator),
        }
        found = [(name, parts[name]()) for name in layout]
        return [Segment(name, codes) for name, codes in found if codes is not None]

    def _voice(self, speaker: str | None, own: tuple[int, int], generator: np.random.Generator) -> np.ndarray | None:
        """Codes of another clip of the speaker; None where there is no other."""
        others = [place for place in self._by_speaker.get(speaker or "", []) if place != own]
        if not others:
            return None
        codes = self.store.sample(*others[generator.integers(len(others))]).codes
        start = int(generator.integers(max(1, len(codes) - MAX_VOICE_CODES + 1)))
        return codes[start : start + MAX_VOICE_CODES]

    def tokens(self, segments: list[Segment]) -> tuple[np.ndarray, np.ndarray]:
        """Ids ``(L,)`` of a document and the weight of each as a target."""
        ids = self.vocabulary.document_ids(segments)
        lengths = [len(segment.codes) + 2 for segment in segments]
        values = [self.loss_weights.get(segment.modality, 1.0) for segment in segments]
        return ids, np.concatenate([np.repeat(values, lengths), [1.0]]).astype(np.float32)


class Packer:
    """Fills rows of ``context`` tokens with whole documents; one that is longer than a row is passed over and
    counted.
    """

    def __init__(self, documents: Documents, place: Place, context: int) -> None:
        self.documents, self.place, self.context = documents, place, context
        self.num_too_long = 0

    def batch(self, num_rows: int) -> PackedBatch:
        return stack([self._row() for _ in range(num_rows)], self.context)

    def _row(self) -> list[tuple[np.ndarray, np.ndarray]]:
        row: list[tuple[np.ndarray, np.ndarray]] = []
        space, misses = self.context, 0
        while True:
            taken = self.place.taken
            ids, weights = self.documents.tokens(self.documents.segments(self.place.next()))
            if len(ids) > self.context:
                self.num_too_long += 1
                misses += 1
                if misses > self.documents.order.epoch_length:
                    raise ValueError(
                        f"no document fits into context {self.context}; the last had {len(ids)} tokens: raise context"
                    )
            elif len(ids) > space:
                self.place.taken = taken  # it begins the next row
                return row
            else:
                row.append((ids, weights))
                space -= len(ids)


def stack(rows: list[list[tuple[np.ndarray, np.ndarray]]], context: int) -> PackedBatch:
    """Rows of documents, each ``(ids, weights)``, as tensors padded to ``context``."""
    shape = (len(rows), context)
    ids, targets = np.full(shape, PAD, np.int64), np.full(shape, PAD, np.int64)
    positions, numbers, weights = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for r, row in enumerate(rows):
        start = 0
        for number, (document, weight) in enumerate(row, 1):
            stop = start + len(document)
            ids[r, start:stop] = document
            targets[r, start : stop - 1] = document[1:]
            weights[r, start : stop - 1] = weight[1:]
            positions[r, start:stop] = np.arange(len(document))
            numbers[r, start:stop] = number
            start = stop
    return PackedBatch(*(torch.from_numpy(array) for array in (ids, targets, weights, positions, numbers)))
