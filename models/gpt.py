"""The causal transformer over one vocabulary of integers: RoPE, RMSNorm before each sublayer, QK-norm, SwiGLU, SDPA."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from triforce.models.blocks.fused import qk_norm_rotate, rms_norm
from triforce.models.vocabulary import Modality, Segment, Vocabulary

PARTS = 4096
"""Of a position: paces are rounded to these."""


class GPTConfig(BaseModel):
    """Shape of the transformer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: Vocabulary
    num_layers: int = Field(6, ge=1, le=200, description="Blocks.")
    width: int = Field(256, ge=16, description="Channels of the residual stream.")
    num_heads: int = Field(4, ge=1, description="Attention heads.")
    mlp_ratio: float = Field(
        8 / 3, gt=0, le=16, description="Inner width of the SwiGLU layer over `width`, before rounding up to 32."
    )
    max_positions: int = Field(2048, ge=16, description="Longest document, tokens.")
    rope_base: float = Field(10_000.0, gt=1, description="Base of the rotary angles.")
    tie_embeddings: bool = Field(True, description="One matrix for the embedding and the output head.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after each sublayer and on the embedding.")
    paces: dict[str, float] = Field(
        {},
        description="Positions from one token of a modality to the next, 1 where it is not named. Given any, each "
        "segment begins at position 0, and media that run in parallel lie side by side: with {text: 1.9}, where a "
        "character is spoken in 1.9 codes, what a code tells of lies about where the code does. Empty: positions are "
        "counted through the document.",
    )

    @model_validator(mode="after")
    def _check(self) -> GPTConfig:
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width}: must be a multiple of twice num_heads, {2 * self.num_heads}")
        names = [modality.name for modality in self.vocabulary.modalities if not modality.shares]
        for name, pace in self.paces.items():
            if name not in names:
                raise ValueError(f"paces: modality {name!r}: codes of this vocabulary are of {', '.join(names)}")
            if not 1 / PARTS <= pace <= 1000:
                raise ValueError(f"paces: {name} {pace}: must be at least 1/{PARTS} and at most 1000")
        return self

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def mlp_width(self) -> int:
        return math.ceil(self.width * self.mlp_ratio / 32) * 32


@dataclass
class KVCache:
    """Keys and values of what has been read, in memory taken once: ``(num_layers, 2, B, num_heads, capacity,
    head_dim)``.
    """

    store: torch.Tensor
    length: int = 0
    reached: torch.Tensor | None = None
    """Position of the last token, ``(B, 1)`` in parts, where segments have their own."""

    @classmethod
    def empty(cls, config: GPTConfig, batch_size: int, capacity: int, like: torch.Tensor) -> KVCache:
        shape = (config.num_layers, 2, batch_size, config.num_heads, capacity, config.head_dim)
        return cls(torch.empty(shape, device=like.device, dtype=like.dtype))

    def fan_out(self, num_copies: int) -> KVCache:
        """The same past for ``num_copies`` continuations; this cache holds one."""
        store = torch.empty(
            (*self.store.shape[:2], num_copies, *self.store.shape[3:]), device=self.store.device, dtype=self.store.dtype
        )
        store[..., : self.length, :] = self.store[..., : self.length, :]
        reached = None if self.reached is None else self.reached.expand(num_copies, 1)
        return KVCache(store, self.length, reached)

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write ``(B, H, T, head_dim)`` behind what is there; all keys and values so far. The caller moves
        ``length``.
        """
        end = self.length + k.shape[2]
        if end > self.store.shape[4]:
            raise ValueError(f"{end} tokens: this cache holds {self.store.shape[4]}; make it with a larger capacity")
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight)


class Context(NamedTuple):
    """What the blocks of one forward pass share."""

    cos: torch.Tensor
    """``(N, head_dim / 2)`` of all tokens in a row, as ``sin``."""
    sin: torch.Tensor
    mask: torch.Tensor | None
    """``(B, 1, T, S)`` bool: which keys a query may see; None for all or, among several queries, the earlier ones."""
    lengths: list[int] | None
    """Of the documents, where each is attended to by itself."""
    cache: KVCache | None


class Attention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_norm = RMSNorm(config.head_dim)
        self.k_norm = RMSNorm(config.head_dim)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: torch.Tensor, context: Context, layer: int) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(-1, 3, self.num_heads, self.head_dim)
        norms = torch.stack([self.q_norm.weight, self.k_norm.weight])
        qk, v = qk_norm_rotate(qkv, norms, context.cos, context.sin)
        if context.lengths is not None:
            attended = attend_each(qk[:, 0], qk[:, 1], v, context.lengths)
            return self.out(attended.reshape(batch, length, width))
        q, k, v = (
            part.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2) for part in (qk[:, 0], qk[:, 1], v)
        )
        causal = context.mask is None and length > 1
        if context.cache is not None:
            k, v = context.cache.extend(layer, k, v)
            causal = causal and k.shape[2] == length
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask, is_causal=causal)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


def attend_each(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Causal attention inside each of the documents that lie end to end in ``(N, H, D)``."""
    parts = zip(*(tensor.transpose(0, 1)[None].split(lengths, dim=2) for tensor in (q, k, v)), strict=True)
    with torch.autocast("cpu", enabled=False):  # short documents: float32 is the faster there
        attended = [F.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return torch.cat(attended, dim=2)[0].transpose(0, 1)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, context: Context, layer: int) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), context, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary.size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary.size, bias=False)
        self.checkpoint_activations = False
        """Recompute each block in the backward pass instead of keeping what is inside it."""
        angles = torch.arange(config.max_positions)[:, None] * rotary_frequencies(config)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        if config.paces:
            paces, begins = _paces(config)
            self.register_buffer("paces", paces, persistent=False)
            self.register_buffer("begins", begins, persistent=False)
        self.apply(self._init)
        for block in self.blocks:  # the residual stream's variance stays near 1 at any depth (GPT-2, section 2.3)
            for linear in (block.attention.out, block.mlp.down):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * config.num_layers))
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        documents: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Hidden states ``(B, T, width)`` of ids ``(B, T)``; `logits` makes scores of them.

        ``positions`` ``(B, T)``, by default from 0 or from the cache's end; with ``paces`` the ids tell them.
        ``documents`` ``(B, T)`` numbers the documents of a packed row: a token attends to its own document alone. With
        a ``cache``, ids are what comes next.
        """
        past = cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + ids.shape[1], device=ids.device).expand(ids.shape)
        if ids.shape[1] + past > self.config.max_positions and documents is None:
            raise ValueError(
                f"{ids.shape[1] + past} tokens: this model reads {self.config.max_positions} at most; "
                "shorten the text or prompt"
            )
        cos, sin = self._angles(ids, positions, cache)
        mask, lengths = self._visibility(ids, documents, past, cache)
        context = Context(cos, sin, mask, lengths, cache)
        x = self.dropout(self.embedding(ids))
        for layer, block in enumerate(self.blocks):
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, context, layer, use_reentrant=False)
            else:
                x = block(x, context, layer)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.norm(x)

    def _angles(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: KVCache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines ``(N, head_dim / 2)`` of where the tokens are."""
        if not self.config.paces:
            places = positions.reshape(-1)
            return self.cos[places], self.sin[places]
        reached = segment_positions(ids, self.paces, self.begins, cache.reached if cache is not None else None)
        if cache is not None:
            cache.reached = reached[:, -1:]
        angles = reached.reshape(-1, 1) / PARTS * rotary_frequencies(self.config).to(reached.device)
        return angles.cos(), angles.sin()

    @staticmethod
    def _visibility(
        ids: torch.Tensor, documents: torch.Tensor | None, past: int, cache: KVCache | None
    ) -> tuple[torch.Tensor | None, list[int] | None]:
        """A mask, or on a CPU, where its zeros would cost as much as its ones, the lengths of the documents."""
        if documents is not None:
            if cache is not None:
                raise ValueError("a cache holds one document a row: give no `documents` with it")
            if ids.device.type == "cpu" and not torch.compiler.is_compiling():
                return None, document_lengths(documents)
            return document_mask(documents), None
        if past and ids.shape[1] > 1:
            mask = torch.ones(ids.shape[1], past + ids.shape[1], dtype=torch.bool, device=ids.device).tril(past)
            return mask, None
        return None, None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)

    def extended(self, *modalities: Modality) -> GPT:
        """This network with more modalities: new rows of the embedding and the head, the old ones as they were."""
        config = self.config.model_copy(update={"vocabulary": self.config.vocabulary.extended(*modalities)})
        model = GPT(config).to(self.embedding.weight.device)
        old = self.config.vocabulary.size
        state = self.state_dict()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in ("embedding.weight", "head.weight"):
                    tensor[:old] = state[name]
                else:
                    tensor.copy_(state[name])
        return model.train(self.training)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


@torch.no_grad()
def hidden_states(gpt: GPT, prompt: Sequence[Segment], segment: Segment) -> torch.Tensor | None:
    """The hidden state ``(width, L)`` at each code of ``segment`` behind ``prompt``: what the transformer makes of that
    code, of all before it and of the prompt. None where together they are longer than it reads.
    """
    before = [gpt.config.vocabulary.segment_ids(part) for part in prompt]
    ids = np.concatenate([*before, gpt.config.vocabulary.segment_ids(segment)[:-1]])
    if len(ids) > gpt.config.max_positions:
        return None
    hidden = gpt(torch.from_numpy(ids)[None].to(gpt.embedding.weight.device))[0]
    return hidden[sum(map(len, before)) + 1 :].T


def rotary_frequencies(config: GPTConfig) -> torch.Tensor:
    """Angle per position of each pair of channels, ``(head_dim // 2,)`` (Su et al. 2021, arXiv 2104.09864)."""
    return config.rope_base ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)


def _paces(config: GPTConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each id: how far it lies from the token before it, ``(V,)`` in parts of a position, and whether it opens a
    segment.
    """
    vocabulary = config.vocabulary
    paces = torch.full((vocabulary.size,), PARTS)
    begins = torch.zeros(vocabulary.size, dtype=torch.bool)
    for modality in vocabulary.modalities:
        begins[vocabulary.begin(modality.name)] = True
        first = vocabulary.offset(modality.name)
        paces[first : first + modality.num_codes] = round(
            PARTS * config.paces.get(modality.shares or modality.name, 1.0)
        )
    return paces, begins


def segment_positions(
    ids: torch.Tensor, paces: torch.Tensor, begins: torch.Tensor, reached: torch.Tensor | None
) -> torch.Tensor:
    """Positions ``(B, T)`` of ids, in parts: 0 at each token that opens a segment, and onwards by each token's pace,
    from ``reached`` ``(B, 1)`` in a row that is continued. Integers, for sums that are the same in any order.
    """
    along = paces[ids].cumsum(1)
    opened = torch.where(begins[ids], along, -1).cummax(1).values
    return torch.where(opened >= 0, along - opened, along + (-PARTS if reached is None else reached))


def document_lengths(documents: torch.Tensor) -> list[int]:
    """How many tokens each document of packed rows ``(B, T)`` has, row after row; padding counts as one more."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    bounds = [*starts.flatten().nonzero()[:, 0].tolist(), documents.numel()]
    return [stop - start for start, stop in itertools.pairwise(bounds)]


def document_mask(documents: torch.Tensor) -> torch.Tensor:
    """``(B, 1, T, T)`` bool: true where row position i may attend to j, the same document and not later."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]
