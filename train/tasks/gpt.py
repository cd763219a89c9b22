"""Train the GPT on packed documents."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from triforce.ingest import storage
from triforce.models.blocks.packed_attention import has_varlen
from triforce.models.footprint import HALF_SHARE, footprint
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.reading.front_end import FrontEnd, keeps_words
from triforce.models.release_files import load_stage, load_tokenizer_of, require_dvae
from triforce.models.vocabulary import Modality, Vocabulary
from triforce.tokenize.shards import load_tokenizer
from triforce.train.config import GPTTrainConfig
from triforce.train.data.order import Place, is_validation
from triforce.train.data.tokens.documents import Documents, Packer, parse_layout
from triforce.train.data.tokens.rows import PackedBatch, stack
from triforce.train.data.tokens.token_store import TokenStore
from triforce.train.tasks.base import Task
from triforce.train.tasks.gpt_loss import media_vocabulary, packed_loss, token_losses, with_random_codes
from triforce.train.tasks.inputs import refuse_own_release, require_gpt_card
from triforce.train.trainer.memory import COMPILED_SHARE
from triforce.train.trainer.prefetch import Prefetcher

log = logging.getLogger(__name__)

TRAINING_ONLY = ("dropout",)
"""Settings of the network that may change where training goes on: they shape nothing."""
SEARCH_PER_DOCUMENT = 2000
"""Positions searched for each validation document; a share of 1/2000 is still found. Assumed."""


class GPTTask(Task):
    """Learns to continue packed documents of text and codes."""

    tokenizer: FrontEnd
    model: GPT

    def __init__(self, config: GPTTrainConfig, place: Place, device: torch.device) -> None:
        self.config, self.place, self.device = config, place, device
        self.store = TokenStore(config.shard_sets, config.cache_bytes)
        self.tokenizer = _front_end(config)
        self.model = self._model().to(device)
        self.model.checkpoint_activations = config.checkpoint_activations
        share = config.validation_share
        self.documents = self._documents(lambda clip_id: not is_validation(clip_id, share))
        self.packer = Packer(self.documents, config.context)
        self._reader: Place | None = None
        self._batches = Prefetcher(self._read, config.prefetch)
        self.varlen = has_varlen(device, self.model.config.head_dim)
        """Whether rows are attended to by the kernel for variable lengths."""
        unseen = self._documents(lambda clip_id: is_validation(clip_id, share), as_it_is=True)
        self.evaluation = self._evaluation_batches(unseen)
        self.evaluation = self.evaluation or self._evaluation_batches(self.documents)

    @classmethod
    def make(cls, config: GPTTrainConfig, place: Place, device: torch.device) -> GPTTask:
        return cls(config, place, device)

    @classmethod
    def input_hashes(cls, config: GPTTrainConfig) -> dict[str, str]:
        dvae = require_dvae(config.release)
        indices = [_read_index(uri) for uri in config.shard_sets]
        coded_by = json.loads(indices[0])["dvae_hash"]
        if coded_by != dvae.codes_hash:
            raise ValueError(
                f"{config.tokens} holds codes of dVAE {coded_by[:12]}, the release has {dvae.codes_hash[:12]}; "
                "tokenize again into another folder"
            )
        hashes = {"dvae": dvae.codes_hash, "tokens": hashlib.sha256(b"".join(indices)).hexdigest()}
        if config.init_from is not None:
            hashes["init_from"] = _base_hash(config, [json.loads(index) for index in indices])
        return hashes

    @classmethod
    def describe(cls, config: GPTTrainConfig) -> str:
        """Parameters, memory and work of a run."""
        store = TokenStore(config.shard_sets, config.cache_bytes)
        sizes = {name: (meta["num_codes"], None) for name, meta in zip(store.modalities, store.metas, strict=True)}
        vocabulary = media_vocabulary(load_tokenizer(config.tokens).size, sizes, reading=_reads(config))
        if config.init_from is None:
            shape = GPTConfig.model_validate(_decided_by_data(config, vocabulary) | config.model_settings)
        else:
            base = GPTConfig.model_validate(require_gpt_card(config.init_from)["model"])
            added = _added(base.vocabulary, vocabulary)
            shape = base.model_copy(update={"vocabulary": base.vocabulary.extended(*added)})
        shards = config.num_workers if config.sharding == "fsdp" else 1
        recompute = config.checkpoint_activations
        return str(footprint(shape, config.context, config.part_size, shards=shards, recompute=recompute))

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        """The dVAE behind the codes, of each medium where there are several, and the characters of the texts: whoever
        speaks with this network is warned of a character that it never read.
        """
        hashes = {name: meta["dvae_hash"] for name, meta in zip(self.store.modalities, self.store.metas, strict=True)}
        several = {"dvae_hashes": hashes} if len(hashes) > 1 else {}
        # Front ends with words of their own read any letter.
        known = {} if keeps_words(self.tokenizer) else {"characters": self.store.characters()}
        return (
            {"dvae_hash": inputs["dvae"]}
            | several
            | known
            | _sampling(self.config)
            | {"layouts": sorted(layout for layout, weight in self.config.layouts.items() if weight)}
        )

    def _model(self) -> GPT:
        config, store = self.config, self.store
        sizes = {
            name: (meta["num_codes"], store.grid(name))
            for name, meta in zip(store.modalities, store.metas, strict=True)
        }
        vocabulary = media_vocabulary(self.tokenizer.size, sizes, reading=_reads(config))
        if config.init_from is None:
            settings = _decided_by_data(config, vocabulary) | config.model_settings
            if config.side_by_side:
                settings = {"paces": {"text": store.codes_per_piece()}} | settings
            return GPT(GPTConfig.model_validate(settings))
        stage = load_stage(config.init_from, "gpt")
        assert stage is not None  # its tokenizer was read
        changed = {name: value for name, value in config.model_settings.items() if name in TRAINING_ONLY}
        model = GPT(stage.model.config.model_copy(update=changed))
        model.load_state_dict(stage.model.state_dict())
        torch.manual_seed(config.seed)
        return model.extended(*_added(model.config.vocabulary, vocabulary)).train()

    def _documents(self, keep: Any, *, as_it_is: bool = False) -> Documents:
        shape = self.model.config
        return Documents(
            self.store,
            shape.vocabulary,
            self.tokenizer,
            self.config,
            keep,
            units=shape.reading_units,
            as_it_is=as_it_is,
        )

    def _evaluation_batches(self, documents: Documents) -> list[PackedBatch]:
        """One document a row, the same ones each time; none where there is nothing to keep."""
        config, rows = self.config, []
        last = min(documents.order.epoch_length, config.eval_clips * SEARCH_PER_DOCUMENT)
        for position in range(last):
            segments = documents.segments(position)
            if segments:
                ids, weights = documents.tokens(segments)
                rows.append([(ids[: config.context], weights[: config.context])])
            if len(rows) == config.eval_clips:
                break
        longest = max((len(row[0][0]) for row in rows), default=0)
        return [self._moved(stack(rows[i : i + 8], longest)) for i in range(0, len(rows), 8)]

    def _moved(self, batch: PackedBatch) -> PackedBatch:
        return (batch if self.varlen else batch._replace(starts=None)).to(self.device)

    def _read(self) -> tuple[PackedBatch, int]:
        """Return the next batch and the place behind it; runs in the prefetching thread."""
        if self._reader is None:
            self._reader = copy.copy(self.place)
        batch = self.packer.batch(self._reader, self.config.part_size)
        return batch.pinned() if self.device.type == "cuda" else batch, self._reader.taken

    def next_batch(self) -> Any:
        batch, taken = self._batches.next()
        self.place.taken = taken
        return self._moved(batch)

    def close(self) -> None:
        """End the prefetching thread, and log how many documents were too long."""
        self._batches.close()
        if self.packer.num_too_long:
            log.warning(
                "train gpt: %d of %d documents read were longer than context %d and passed over",
                self.packer.num_too_long,
                self.packer.num_read,
                self.config.context,
            )
        if self.documents.num_untimed:
            log.warning(
                "train gpt: %d times a clip could be no reading: the times of its words are not known, or do not fit "
                "its text",
                self.documents.num_untimed,
            )

    def activation_bytes(self, half: bool) -> int:
        """Computed by `models.footprint`."""
        config = self.config
        size = footprint(self.model.config, config.context, 1, recompute=config.checkpoint_activations)
        share = (HALF_SHARE if half else 1) * (COMPILED_SHARE if config.compile else 1)
        return int(size.activation_bytes * share)

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.config.code_noise:
            vocabulary = self.model.config.vocabulary
            batch = batch._replace(ids=with_random_codes(batch.ids, vocabulary, self.config.code_noise))
        return packed_loss(self.model, batch), {"tokens": (batch.documents > 0).sum().float()}

    @torch.no_grad()  # not inference_mode: sharded weights are gathered in the forward pass
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The weighted loss, and bits a token of each modality."""
        vocabulary = model.config.vocabulary
        sums: dict[str, list[float]] = {}
        total = [0.0, 0.0]
        for batch in self.evaluation:
            losses, weights = token_losses(model, batch)
            targets = batch.targets[batch.targets > 0]
            counted = weights > 0 if _reads(self.config) else targets > 0  # pieces that are given say nothing
            total = [total[0] + float((losses * weights).sum()), total[1] + float(weights.sum())]
            for name in ("text", *self.store.modalities):
                first = vocabulary.offset(name)
                inside = (targets >= first) & (targets < first + vocabulary.modality(name).num_codes) | (
                    targets == vocabulary.end(name)
                )
                inside &= counted
                entry = sums.setdefault(name, [0.0, 0])
                entry[0] += float(losses[inside].sum())
                entry[1] += int(inside.sum())
        bits = {f"{name}_bits": nats / count / math.log(2) for name, (nats, count) in sums.items() if count}
        return {"loss": total[0] / max(total[1], 1e-6)} | bits


def _front_end(config: GPTTrainConfig) -> FrontEnd:
    """The shards' text front end. Raises ValueError where the release that training begins at has another."""
    tokenizer = load_tokenizer(config.tokens)
    if config.init_from is not None and load_tokenizer_of(config.init_from).to_json() != tokenizer.to_json():
        raise ValueError(
            f"{config.tokens} was tokenized with another text front end than {config.init_from} reads; tokenize into "
            f"another folder with --set init_from={config.init_from}"
        )
    return tokenizer


def _sampling(config: GPTTrainConfig) -> dict[str, Any]:
    """Return how a release's GPT is best sampled, where it is gone on with and its card says so."""
    card = require_gpt_card(config.init_from) if config.init_from is not None else {}
    return {"sampling": card["sampling"]} if "sampling" in card else {}


def _base_hash(config: GPTTrainConfig, indices: Sequence[dict[str, Any]]) -> str:
    """Hash of the GPT that training begins at. Raises ValueError where its codes or its text front end are not those of
    the shards, where a shape is asked for that is not its own, and where the run would replace it.
    """
    assert config.init_from is not None
    refuse_own_release(config.init_from, config.release)
    card = require_gpt_card(config.init_from)
    base = GPTConfig.model_validate(card["model"])
    medium = next(modality.name for modality in base.vocabulary.modalities if modality.name != "text")
    known = card.get("dvae_hashes") or {medium: card["dvae_hash"]}
    for uri, index in zip(config.shard_sets, indices, strict=True):
        coded_by = index["dvae_hash"]
        expected = known.get(index.get("modality", "speech"), coded_by)
        if expected != coded_by:
            raise ValueError(
                f"{uri} holds codes of dVAE {coded_by[:12]}, the GPT of init_from {config.init_from} knows those of "
                f"{expected[:12]}: tokenize with that dVAE, or with one that goes on from it on frozen codes"
            )
    _front_end(config)
    recipe = config.recipes[config.size]["model"]
    for name, value in config.model_settings.items():
        own = getattr(base, name)
        if name not in TRAINING_ONLY and value not in (own, recipe.get(name)):
            raise ValueError(f"model.{name} {value}: the GPT of init_from {config.init_from} has {own}; leave it out")
    return card["hash"]


def _added(known: Vocabulary, wanted: Vocabulary) -> list[Modality]:
    """Modalities that a vocabulary lacks. Raises ValueError where one that it has has another number of codes."""
    codes = {modality.name: modality.num_codes for modality in known.modalities}
    for modality in wanted.modalities:
        if codes.get(modality.name, modality.num_codes) != modality.num_codes:
            raise ValueError(
                f"init_from: its {modality.name} has {codes[modality.name]} codes, these shards have "
                f"{modality.num_codes}"
            )
    return [modality for modality in wanted.modalities if modality.name not in codes]


def _read_index(tokens: str) -> bytes:
    uri = storage.join(tokens, "index.json")
    if not storage.exists(uri):
        raise FileNotFoundError(f"{tokens}: no index.json here; run `triforce tokenize`")
    return storage.read_bytes(uri)


def _decided_by_data(config: GPTTrainConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """Fields of the network's config that hold unless the run's config sets them."""
    pointer = {"pointer": True} if _reads(config) and not config.model.paces and not config.side_by_side else {}
    return {"vocabulary": vocabulary, "max_positions": config.context} | pointer


def _reads(config: GPTTrainConfig) -> bool:
    """Whether a layout has readings."""
    return any("reading" in parse_layout(layout) for layout, weight in config.layouts.items() if weight)
