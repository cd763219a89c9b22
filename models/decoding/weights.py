"""Weights of a GPT for decoding: norms folded into the matrices behind them, channels in the order of the rotation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch

from triforce.models.gpt import Block

Packed_co = TypeVar("Packed_co", covariant=True)


class LayerWeights(NamedTuple, Generic[Packed_co]):
    """What a layer computes with."""

    qkv: Packed_co
    """From a row of length 1 to queries, keys and values, ``3 * width``."""
    scale: torch.Tensor
    """Scales ``(2, 1, head_dim)`` float32 of queries and keys of length 1."""
    out: Packed_co
    gate_up: Packed_co
    down: Packed_co


def layer_weights(block: Block, pack: Callable[[torch.Tensor], Packed_co]) -> LayerWeights[Packed_co]:
    """Fold the weights of a layer, and pack each matrix ``(out, in)`` float32.

    A norm divides by the root of the mean square and multiplies by its weights; here a row is divided by its length,
    and the rest goes into the matrix behind it, or into ``scale``.
    """
    attention, mlp = block.attention, block.mlp
    width, heads, dim = attention.qkv.in_features, attention.num_heads, attention.head_dim
    pairs = paired(dim)
    qkv = attention.qkv.weight.float() * (block.attention_norm.weight.float() * math.sqrt(width))
    qkv = qkv.view(3, heads, dim, width)
    turned = torch.cat([qkv[:2, :, pairs], qkv[2:]]).reshape(3 * width, width)
    norms = torch.stack([attention.q_norm.weight, attention.k_norm.weight]).float()
    gate_up = mlp.gate_up.weight.float() * (block.mlp_norm.weight.float() * math.sqrt(width))
    return LayerWeights(
        pack(turned),
        (norms[:, pairs] * math.sqrt(dim))[:, None].contiguous(),
        pack(attention.out.weight.float()),
        pack(gate_up),
        pack(mlp.down.weight.float()),
    )


def paired(dim: int) -> torch.Tensor:
    """Return the order of a head's channels in which those that are turned together, (i, i + dim / 2), lie side by
    side: a complex number each. Scores of queries with keys do not change with the order.
    """
    return torch.arange(dim).view(2, dim // 2).T.reshape(-1)
