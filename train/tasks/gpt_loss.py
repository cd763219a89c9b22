"""The GPT's vocabulary of media and its loss on packed rows; needs nothing but torch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from triforce.models.blocks.chunked_loss import chunk_logits, summed_cross_entropy
from triforce.models.gpt import GPT
from triforce.models.vocabulary import Modality, Vocabulary
from triforce.train.data.tokens.rows import PackedBatch


def media_vocabulary(
    text_size: int, media: dict[str, tuple[int, tuple[int, ...] | None]], *, reading: bool = False
) -> Vocabulary:
    """Text, then each medium by its number of codes and its grid, then the voice prompts that share speech's codes,
    then ``reading``, speech between whose codes the pieces of each word stand.
    """
    modalities = [Modality(name="text", num_codes=text_size)]
    modalities += [Modality(name=name, num_codes=size, grid=grid) for name, (size, grid) in media.items()]
    if "speech" in media:
        modalities.append(Modality(name="voice", num_codes=media["speech"][0], shares="speech"))
    if reading:
        speech = next((m.num_codes for m in modalities if m.name == "speech"), None)
        if speech is None:
            raise ValueError(f"reading: it interleaves text with speech, and there is only {', '.join(media)}")
        modalities.append(Modality(name="reading", num_codes=speech, shares="speech", interleaves="text"))
    return Vocabulary(modalities=tuple(modalities))


def speech_vocabulary(text_size: int, num_codes: int, *, reading: bool = False) -> Vocabulary:
    """Text, speech, voice prompts and, where it is asked for, reading."""
    return media_vocabulary(text_size, {"speech": (num_codes, None)}, reading=reading)


def with_random_codes(ids: torch.Tensor, vocabulary: Vocabulary, share: float) -> torch.Tensor:
    """Return ``ids`` with a share of each medium's codes, text aside, replaced at random by codes of that medium."""
    chosen = torch.rand(ids.shape, device=ids.device) < share
    for modality in vocabulary.modalities:
        if modality.name == "text" or modality.shares:
            continue
        first = vocabulary.offset(modality.name)
        inside = (ids >= first) & (ids < first + modality.num_codes)
        ids = torch.where(chosen & inside, torch.randint_like(ids, first, first + modality.num_codes), ids)
    return ids


def token_losses(model: GPT, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats ``(N,)`` float32 of every target that is not padding, and its weight ``(N,)``."""
    hidden = model(batch.ids, positions=batch.positions, documents=batch.documents)
    real = batch.targets > 0
    return cross_entropy(model, hidden[real], batch.targets[real]), batch.weights[real]


def hidden_states(model: GPT, batch: PackedBatch) -> torch.Tensor:
    """Return the last hidden states ``(B, T, width)`` of packed rows; by the kernel for all lengths on a GPU, where the
    batch says where documents lie and the model is in half precision.
    """
    half = batch.ids.device.type == "cuda" and torch.is_autocast_enabled("cuda")
    bounds = batch.bounds if half else None
    documents = batch.documents if bounds is None else None
    return model(batch.ids, positions=batch.positions, documents=documents, bounds=bounds)


def packed_loss(model: GPT, batch: PackedBatch) -> torch.Tensor:
    """Return the weighted mean cross-entropy of packed rows, nats: the same as of `token_losses`. On a GPU nothing is
    indexed by what the rows hold, so that a compiler sees fixed shapes and the device never waits.
    """
    hidden = hidden_states(model, batch).flatten(0, 1)
    targets, weights = batch.targets.flatten(), batch.weights.flatten()
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        counted = weights > 0
        hidden, targets, weights = hidden[counted], targets[counted], weights[counted]
    weights = weights / weights.sum().clamp_min(1e-6)
    if len(hidden) * model.config.vocabulary.size > chunk_logits(hidden.device):
        return summed_cross_entropy(hidden, model.head.weight, targets, weights)
    return (cross_entropy(model, hidden, targets) * weights).sum()


def cross_entropy(model: GPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy ``(N,)`` float32, nats, of hidden states ``(N, width)``. Without gradients the scores of
    some tokens at a time are in memory; for training on many, `summed_cross_entropy` does the same.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.cross_entropy(model.logits(hidden).float(), targets, reduction="none")
    rows = max(1, chunk_logits(hidden.device) // model.config.vocabulary.size)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    losses = [F.cross_entropy(model.logits(part).float(), wanted, reduction="none") for part, wanted in parts]
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
