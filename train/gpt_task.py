"""Training of the transformer on packed documents."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from triforce.ingest import storage
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.text import TextTokenizer
from triforce.models.vocabulary import Modality, Vocabulary
from triforce.tokenize.plan import load_tokenizer
from triforce.train.config import TrainConfig
from triforce.train.data import Place, TokenStore, is_validation
from triforce.train.documents import Documents, PackedBatch, Packer, stack


def speech_vocabulary(text_size: int, num_codes: int) -> Vocabulary:
    """Text, speech, and the voice prompts that share speech's codes."""
    return Vocabulary(
        modalities=(
            Modality(name="text", num_codes=text_size),
            Modality(name="speech", num_codes=num_codes),
            Modality(name="voice", num_codes=num_codes, shares="speech"),
        )
    )


class GPTTask:
    def __init__(self, config: TrainConfig, place: Place, device: torch.device) -> None:
        self.config, self.place, self.device = config, place, device
        self.tokenizer: TextTokenizer = load_tokenizer(config.tokens)
        meta = json.loads(storage.read_bytes(storage.join(config.tokens, "meta.json")))
        vocabulary = speech_vocabulary(self.tokenizer.size, meta["num_codes"])
        settings = {"vocabulary": vocabulary, "max_positions": config.context} | config.model
        self.model = GPT(GPTConfig.model_validate(settings)).to(device)
        share = config.validation_share
        training = TokenStore(config.tokens, lambda clip_id: not is_validation(clip_id, share), config.cache_bytes)
        validation = TokenStore(config.tokens, lambda clip_id: is_validation(clip_id, share), config.cache_bytes // 8)
        self.documents = self._documents(training)
        self.packer = Packer(self.documents, place, config.context)
        self._evaluation = self._evaluation_batches(self._documents(validation) if len(validation) else self.documents)

    def _documents(self, store: TokenStore) -> Documents:
        return Documents(
            store, self.model.config.vocabulary, self.config.layouts, self.config.loss_weights, self.config.seed
        )

    def _evaluation_batches(self, documents: Documents) -> list[PackedBatch]:
        """One document a row, the same ones each time."""
        count = min(self.config.eval_clips, documents.order.epoch_length)
        pairs = [documents.tokens(documents.segments(position)) for position in range(count)]
        rows = [[(ids[: self.config.context], weights[: self.config.context])] for ids, weights in pairs]
        longest = max(len(row[0][0]) for row in rows)
        return [stack(rows[i : i + 8], longest).to(self.device) for i in range(0, len(rows), 8)]

    def next_batch(self) -> Any:
        return self.packer.batch(self.config.batch_per_worker // self.config.accumulation).to(self.device)

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses, weights = token_losses(self.model, batch)
        loss = (losses * weights).sum() / weights.sum().clamp_min(1e-6)
        return loss, {"tokens": (batch.documents > 0).sum().float()}

    def anneal(self, progress: float) -> None:
        pass

    def characters(self) -> str:
        """What the texts are written in, sorted: whoever speaks with this network is told of a character that it never
        read.
        """
        return self.documents.store.characters(self.tokenizer)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Bits a token of each modality, and the weighted loss, on clips that training never sees."""
        vocabulary = model.config.vocabulary
        sums: dict[str, list[float]] = {}
        total = [0.0, 0.0]
        for batch in self._evaluation:
            losses, weights = token_losses(model, batch)
            targets = batch.targets[batch.targets > 0]
            total = [total[0] + float((losses * weights).sum()), total[1] + float(weights.sum())]
            for name in ("text", "speech"):
                first = vocabulary.offset(name)
                inside = (targets >= first) & (targets < first + vocabulary.modality(name).num_codes) | (
                    targets == vocabulary.end(name)
                )
                entry = sums.setdefault(name, [0.0, 0])
                entry[0] += float(losses[inside].sum())
                entry[1] += int(inside.sum())
        bits = {f"{name}_bits": nats / count / math.log(2) for name, (nats, count) in sums.items() if count}
        return {"loss": total[0] / max(total[1], 1e-6)} | bits


def token_losses(model: GPT, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats ``(N,)`` float32 of every target that is not padding, and its weight ``(N,)``."""
    hidden = model(batch.ids, positions=batch.positions, documents=batch.documents)
    real = batch.targets > 0
    logits = model.logits(hidden[real]).float()
    return F.cross_entropy(logits, batch.targets[real], reduction="none"), batch.weights[real]
