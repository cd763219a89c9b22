"""The GPT: a causal transformer over one vocabulary, with RoPE, pre-norm RMSNorm, QK-norm, SwiGLU and SDPA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from triforce.models.blocks.fused import qk_norm_rotate, rms_norm
from triforce.models.blocks.kv_cache import KVCache, SlotCache
from triforce.models.blocks.packed_attention import (
    Bounds,
    attend_each,
    attend_varlen,
    document_lengths,
    document_mask,
)
from triforce.models.blocks.positions import PARTS, segment_positions, text_pointers
from triforce.models.vocabulary import Modality, ReadingUnits, Segment, Vocabulary


class GPTShape(BaseModel):
    """Shape of the GPT, whatever its vocabulary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int = Field(6, ge=1, le=200, description="Number of transformer blocks.")
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
        description="Positions from one token of a modality to the next, 1 for modalities not named. If any is given, "
        "each segment begins at position 0, so that parallel media get matching positions: with {text: 1.9}, where a "
        "piece of text takes 1.9 codes of speech, a piece and its codes have about the same positions. Empty: "
        "positions are counted through the document.",
    )
    pointer: bool = Field(
        False,
        description="Turn every other pair of a head's channels by a pointer in place of the position: the number of "
        "text pieces read since the segment began. In a `reading` segment a code then points at its word in the text "
        "before. Not with `paces`.",
    )
    reading_units: ReadingUnits = Field(
        "words",
        description="What a `reading` segment goes on to by decision: whole words, or each of their pieces (phonemes, "
        "letters) before its own codes.",
    )

    @model_validator(mode="after")
    def _check(self) -> GPTShape:
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width}: must be a multiple of twice num_heads, {2 * self.num_heads}")
        if self.pointer and self.paces:
            raise ValueError(f"pointer with paces {self.paces}: both say where text and speech meet; leave one out")
        for name, pace in self.paces.items():
            if not 1 / PARTS <= pace <= 1000:
                raise ValueError(f"paces: {name} {pace}: must be at least 1/{PARTS} and at most 1000")
        return self

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.width // self.num_heads

    @property
    def mlp_width(self) -> int:
        """Inner width of the SwiGLU layer."""
        return math.ceil(self.width * self.mlp_ratio / 32) * 32


class GPTConfig(GPTShape):
    """Shape of the transformer and the vocabulary that it speaks of."""

    vocabulary: Vocabulary

    @model_validator(mode="after")
    def _check_paces(self) -> GPTConfig:
        names = [modality.name for modality in self.vocabulary.modalities if not modality.shares]
        if self.pointer and "text" not in names:
            raise ValueError(f"pointer: it counts pieces of text, and this vocabulary has {', '.join(names)}")
        for name in self.paces:
            if name not in names:
                raise ValueError(f"paces: modality {name!r}: codes of this vocabulary are of {', '.join(names)}")
        return self


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight)


class Context(NamedTuple):
    """Tensors that the blocks of one forward pass share."""

    cos: torch.Tensor
    """Cosines of the rotary angles of all tokens, ``(N, head_dim / 2)``."""
    sin: torch.Tensor
    """Sines of the rotary angles of all tokens, ``(N, head_dim / 2)``."""
    mask: torch.Tensor | None
    """Keys that a query may see, ``(B, 1, T, S)`` bool; None for all or, among several queries, the earlier ones."""
    lengths: list[int] | None
    """Lengths of the documents, where each is attended to by itself."""
    bounds: Bounds | None
    """Where the documents lie, where one kernel attends to all of them."""
    cache: KVCache | SlotCache | None
    """Keys and values of the tokens before, or None."""


class Attention(nn.Module):
    """Causal self-attention with QK-norm and rotary positions."""

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
        if context.bounds is not None:
            attended = attend_varlen(qk[:, 0], qk[:, 1], v, context.bounds)
            return self.out(attended.reshape(batch, length, width))
        q, k, v = (
            part.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2) for part in (qk[:, 0], qk[:, 1], v)
        )
        causal = context.mask is None and length > 1
        if context.cache is not None:
            k, v = context.cache.extend(layer, k, v)
            k, v = k.to(q.dtype), v.to(q.dtype)
            causal = causal and k.shape[2] == length
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask, is_causal=causal)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One transformer block: attention and MLP, each after its norm."""

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
    """The causal transformer."""

    cos: torch.Tensor
    sin: torch.Tensor
    paces: torch.Tensor
    begins: torch.Tensor
    reads: torch.Tensor
    pointed: torch.Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary.size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary.size, bias=False)
        self.checkpoint_activations = False
        """Whether to recompute each block in the backward pass instead of keeping its activations."""
        self.masks_documents = False
        """Whether documents of a packed row are told apart by a mask on a CPU too, where each is attended to by itself
        otherwise: a compiled block would be compiled anew for all their lengths."""
        angles = torch.arange(config.max_positions)[:, None] * rotary_frequencies(config)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        if config.paces:
            paces, begins = _paces(config)
            self.register_buffer("paces", paces, persistent=False)
            self.register_buffer("begins", begins, persistent=False)
        if config.pointer:
            reads, begins = _reads(config.vocabulary)
            self.register_buffer("reads", reads, persistent=False)
            self.register_buffer("begins", begins, persistent=False)
            self.register_buffer("pointed", torch.arange(config.head_dim // 2) % 2 == 1, persistent=False)
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
        bounds: Bounds | None = None,
        pointers: torch.Tensor | None = None,
        cache: KVCache | SlotCache | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states ``(B, T, width)`` of ids ``(B, T)``; `logits` turns them into scores.

        ``positions`` ``(B, T)`` count by default from 0 or from the cache's end; with ``paces`` they follow from the
        ids. ``documents`` ``(B, T)`` numbers the documents of a packed row: a token attends to its own document alone.
        ``bounds`` says the same for the kernel of `attend_varlen`, in half precision. With a ``cache``, ids continue
        what it holds; with a `SlotCache`, ``positions`` and, where the GPT has them, ``pointers`` are given.
        """
        past = cache.length if isinstance(cache, KVCache) else 0
        if positions is None:
            positions = torch.arange(past, past + ids.shape[1], device=ids.device).expand(ids.shape)
        if ids.shape[1] + past > self.config.max_positions and documents is None and bounds is None:
            raise ValueError(
                f"{ids.shape[1] + past} tokens: this model reads {self.config.max_positions} at most; "
                "shorten the text or prompt"
            )
        cos, sin = self.angles(ids, positions, pointers, cache)
        mask, lengths = (None, None) if bounds is not None else self._visibility(ids, documents, past, cache)
        context = Context(cos, sin, mask, lengths, bounds, cache)
        x = self.dropout(self.embedding(ids))
        for number, block in enumerate(self.blocks):
            layer = number if cache is not None else 0  # so that blocks compiled one by one share their code
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, context, layer, use_reentrant=False)
            else:
                x = block(x, context, layer)
        if isinstance(cache, KVCache):
            cache.length += ids.shape[1]
        return self.norm(x)

    def angles(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        pointers: torch.Tensor | None,
        cache: KVCache | SlotCache | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines ``(N, head_dim / 2)`` of the tokens' rotary angles."""
        places = positions.reshape(-1)
        if not self.config.paces and not self.config.pointer:
            return self.cos[places], self.sin[places]
        if isinstance(cache, SlotCache) and pointers is None:
            raise ValueError("a SlotCache knows no pointers: give them, or draw with a KVCache")
        before = cache.reached if isinstance(cache, KVCache) else None
        if self.config.pointer:
            reached = text_pointers(ids, self.reads, self.begins, before) if pointers is None else pointers
            pointed = reached.reshape(-1)
            cos = torch.where(self.pointed, self.cos[pointed], self.cos[places])
            sin = torch.where(self.pointed, self.sin[pointed], self.sin[places])
        else:
            reached = segment_positions(ids, self.paces, self.begins, before)
            angles = reached.reshape(-1, 1) / PARTS * rotary_frequencies(self.config).to(reached.device)
            cos, sin = angles.cos(), angles.sin()
        if isinstance(cache, KVCache):
            cache.reached = reached[:, -1:]
        return cos, sin

    def _visibility(
        self, ids: torch.Tensor, documents: torch.Tensor | None, past: int, cache: KVCache | SlotCache | None
    ) -> tuple[torch.Tensor | None, list[int] | None]:
        """Return a mask or, on a CPU, where masked entries would cost as much as others, the documents' lengths."""
        if documents is not None:
            if cache is not None:
                raise ValueError("a cache holds one document a row: give no `documents` with it")
            if ids.device.type == "cpu" and not self.masks_documents and not torch.compiler.is_compiling():
                return None, document_lengths(documents)
            return document_mask(documents), None
        if isinstance(cache, SlotCache):
            return cache.mask(), None
        if past and ids.shape[1] > 1:
            mask = torch.ones(ids.shape[1], past + ids.shape[1], dtype=torch.bool, device=ids.device).tril(past)
            return mask, None
        return None, None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return scores ``(..., vocabulary)`` of hidden states ``(..., width)``."""
        return self.head(hidden)

    def extended(self, *modalities: Modality) -> GPT:
        """Return a copy with more modalities: embedding and head get new rows, all other weights stay."""
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
        """Return the number of weights."""
        return sum(p.numel() for p in self.parameters())


@torch.no_grad()
def gpt_latents(gpt: GPT, prompt: Sequence[Segment], segment: Segment) -> torch.Tensor | None:
    """Return the GPT's latents ``(width, L)``: its last hidden state at each code of ``segment`` after ``prompt``.

    A code's latent depends on the prompt, on all codes before it and on itself. Returns None where prompt and segment
    together are longer than the GPT reads.
    """
    before = [gpt.config.vocabulary.segment_ids(part) for part in prompt]
    ids = np.concatenate([*before, gpt.config.vocabulary.segment_ids(segment)[:-1]])
    if len(ids) > gpt.config.max_positions:
        return None
    hidden = gpt(torch.from_numpy(ids)[None].to(gpt.embedding.weight.device))[0]
    return hidden[sum(map(len, before)) + 1 :].T


def rotary_frequencies(config: GPTConfig) -> torch.Tensor:
    """Return rotary angles per position of each pair of channels, ``(head_dim // 2,)`` (Su et al. 2021)."""
    return config.rope_base ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)


def _paces(config: GPTConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each id, its distance from the token before it, ``(V,)`` in parts of a position, and whether it
    opens a segment, ``(V,)`` bool.
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


def _reads(vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each id, whether it is a piece of text, ``(V,)`` 1 or 0, and whether it opens a segment, ``(V,)``."""
    reads = torch.zeros(vocabulary.size, dtype=torch.int64)
    first = vocabulary.offset("text")
    reads[first : first + vocabulary.modality("text").num_codes] = 1
    begins = torch.zeros(vocabulary.size, dtype=torch.bool)
    for modality in vocabulary.modalities:
        begins[vocabulary.begin(modality.name)] = True
    return reads, begins
