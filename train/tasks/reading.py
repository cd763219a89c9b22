"""Train a GPT to read on sentences in memory: without shards, Ray or a release.

```
texts = ReadingTexts.make(PhonemeTokenizer(), [(text, words), ...])  # words: [(word, start_s, end_s), ...] or None
vocabulary = speech_vocabulary(PhonemeTokenizer().size, num_codes, reading=True)
corpus = ReadingCorpus(codes, texts, vocabulary, ReadingConfig())
task = ReadingTask(corpus, held_out, GPTShape(width=512, num_heads=8, pointer=True), context=1024, num_rows=64)
trainer = Trainer(task, LoopConfig(max_steps=5000))
trainer.fit(lambda trainer, metrics, save: None, lambda history: print(history[-1]))
files = stage_files("gpt", trainer.ema, task.card({"dvae": dvae_hash}), task.tokenizer)  # for a release
```
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from triforce.models.blocks.packed_attention import has_varlen
from triforce.models.gpt import GPT, GPTConfig, GPTShape
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.train.data.order import Place
from triforce.train.data.tokens.reading_corpus import ReadingCorpus
from triforce.train.data.tokens.rows import PackedBatch, RowStream
from triforce.train.tasks.base import Task
from triforce.train.tasks.gpt_loss import hidden_states, packed_loss, with_random_codes
from triforce.train.trainer.prefetch import Prefetcher


class ReadingTask(Task):
    """Learns to read the sentences of a corpus in memory."""

    model: GPT
    tokenizer: PhonemeTokenizer

    def __init__(
        self,
        corpus: ReadingCorpus,
        held_out: ReadingCorpus,
        shape: GPTShape | GPT,
        *,
        context: int,
        num_rows: int,
        place: Place | None = None,
        device: torch.device | str = "cpu",
        code_noise: float = 0.0,
        eval_rows: int = 8,
        prefetch: int = 4,
        tokenizer: PhonemeTokenizer | None = None,
    ) -> None:
        """``num_rows`` rows of ``context`` tokens are a batch of this worker. ``shape`` is the network's, made by
        torch's global generator, or a network to go on with; ``code_noise`` as in `GPTTrainConfig`.
        """
        self.place, self.device, self.code_noise = place or Place(0, 1), torch.device(device), code_noise
        self.tokenizer, self.num_rows = tokenizer or PhonemeTokenizer(), num_rows
        self.layouts = corpus.config.layouts
        if isinstance(shape, GPT):
            self.model = shape.to(self.device)
        else:
            settings = shape.model_dump(exclude_unset=True) | {"vocabulary": corpus.vocabulary}
            settings.setdefault("max_positions", context)
            settings.setdefault("reading_units", corpus.config.units)
            self.model = GPT(GPTConfig.model_validate(settings)).to(self.device)
        if self.model.config.reading_units != corpus.config.units:
            raise ValueError(
                f"reading_units {self.model.config.reading_units!r} of the network, units {corpus.config.units!r} of "
                "the corpus: give both the same"
            )
        self.varlen = has_varlen(self.device, self.model.config.head_dim)
        """Whether rows are attended to by the kernel for variable lengths."""
        self.rows = RowStream(corpus.documents, context, corpus.config.seed)
        self._reader: Place | None = None
        self._batches: Prefetcher[tuple[PackedBatch, int]] = Prefetcher(self._read, prefetch)
        unseen = RowStream(held_out.as_it_is().documents, context, 0)
        self.evaluation = [self._moved(unseen.batch(0, min(eval_rows, unseen.num_rows(0))))]
        unseen.close()

    @classmethod
    def make(cls, config: Any, place: Place, device: torch.device) -> ReadingTask:
        raise TypeError("ReadingTask is made of sentences in memory; runs by config are those of stage gpt")

    @classmethod
    def input_hashes(cls, config: Any) -> dict[str, str]:
        raise TypeError("ReadingTask is made of sentences in memory; runs by config are those of stage gpt")

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        """The dVAE behind the codes and the layouts, by which a release knows that its GPT reads."""
        layouts = self.layouts
        return {"dvae_hash": inputs["dvae"], "layouts": sorted(layout for layout, weight in layouts.items() if weight)}

    def _read(self) -> tuple[PackedBatch, int]:
        """Return the next batch and the place behind it; runs in the prefetching thread."""
        if self._reader is None:
            self._reader = copy.copy(self.place)
        first = self._reader.next()
        for _ in range(self.num_rows - 1):
            self._reader.next()
        batch = self.rows.batch(first, self.num_rows, self.place.num_workers)
        return batch.pinned() if self.device.type == "cuda" else batch, self._reader.taken

    def _moved(self, batch: PackedBatch) -> PackedBatch:
        return (batch if self.varlen else batch._replace(starts=None)).to(self.device)

    def next_batch(self) -> PackedBatch:
        batch, self.place.taken = self._batches.next()
        return self._moved(batch)

    def close(self) -> None:
        """End the threads that read ahead."""
        self._batches.close()
        self.rows.close()

    def loss(self, batch: PackedBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.code_noise:
            noisy = with_random_codes(batch.ids, self.model.config.vocabulary, self.code_noise)
            batch = batch._replace(ids=noisy)
        return packed_loss(self.model, batch), {"tokens": (batch.documents > 0).sum().float()}

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Bits a code, and a decision to go on, of held-out sentences; the weighted loss in nats."""
        return reading_bits(model, self.evaluation)


def reading_bits(model: GPT, batches: list[PackedBatch]) -> dict[str, float]:
    """Return the mean weighted loss in nats, and bits a code and a word's or piece's begin, of packed rows."""
    vocabulary = model.config.vocabulary
    first, text = vocabulary.offset("speech"), vocabulary.offset("text")
    sums = torch.zeros(3, 2, dtype=torch.float64, device=batches[0].ids.device)
    for batch in batches:
        logits = model.logits(hidden_states(model, batch)).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        targets, weights = batch.targets.flatten(), batch.weights.flatten()
        counted = weights > 0
        is_code = counted & (targets >= first) & (targets < first + vocabulary.modality("speech").num_codes)
        onward = counted & (targets >= text) & (targets < text + vocabulary.modality("text").num_codes)
        for row, weight in enumerate((weights, is_code.float(), onward.float())):
            sums[row, 0] += (losses * weight).sum()
            sums[row, 1] += weight.sum()
    loss, code, onward = (sums[:, 0] / sums[:, 1].clamp_min(1e-6)).tolist()
    return {"loss": loss, "code_bits": code / math.log(2), "onward_bits": onward / math.log(2)}
