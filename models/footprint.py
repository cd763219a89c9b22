"""Memory and work that a GPT of a given shape will take, computed before one is made."""

from __future__ import annotations

from typing import NamedTuple

from triforce.models.gpt import GPTConfig

BYTES_PER_PARAMETER = 20
"""Bytes per parameter: float32 weight, gradient, two moments of AdamW, moving average."""
ACTIVATIONS_PER_BLOCK = 14
"""Tensors of ``width`` that a block keeps for its backward pass, besides 3 of the MLP's width: inputs and outputs of
norms, q, k, v twice, attention. Counted in `models.gpt`."""

HALF_SHARE = 0.8
"""What is kept for the backward pass over what it is in float32 where matrix products alone are in half precision. GPT
`medium` on an H100 with 16 rows of 2048 tokens took 31.7 GB (train/README.md), and by the count here keeps 35.4
GB in float32."""


class Footprint(NamedTuple):
    """Size, memory and work of a GPT in training."""

    parameters: int
    """Number of weights."""
    state_bytes: int
    """Bytes of weights, gradients, optimizer state and averages of one worker."""
    activation_bytes: int
    """Bytes kept for the backward pass of one part of a batch, in float32; scores of the vocabulary are not kept
    (`models.blocks.chunked_loss`)."""
    flops_per_token: int
    """Floating-point operations for each token, forward and backward, with attention over half of the context on
    average (Kaplan et al. 2020, table 1)."""

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.state_bytes / 2**30:.2f} GiB of state and about "
            f"{self.activation_bytes / 2**30:.2f} GiB of activations a worker, "
            f"{self.flops_per_token / 1e6:.0f} MFLOP a token"
        )


def num_parameters(config: GPTConfig) -> int:
    """Return ``GPT(config).num_parameters()`` without making the network."""
    width, size = config.width, config.vocabulary.size
    block = 4 * width**2 + 3 * width * config.mlp_width + 2 * config.head_dim + 2 * width
    return config.num_layers * block + width + size * width * (1 if config.tie_embeddings else 2)


def footprint(config: GPTConfig, context: int, rows: int, *, shards: int = 1, recompute: bool = False) -> Footprint:
    """Compute the footprint of training on ``rows`` of ``context`` tokens at a time.

    ``shards`` workers share the state; with ``recompute`` only the inputs of blocks are kept for the backward pass.
    """
    parameters = num_parameters(config)
    matrices = config.num_layers * (4 * config.width**2 + 3 * config.width * config.mlp_width)
    head = config.width * config.vocabulary.size
    attention = config.num_layers * config.width * context  # both products, over half of the context on average
    block = ACTIVATIONS_PER_BLOCK * config.width + 3 * config.mlp_width
    kept = config.num_layers * config.width + block if recompute else config.num_layers * block
    return Footprint(
        parameters,
        BYTES_PER_PARAMETER * parameters // shards,
        4 * rows * context * kept,
        6 * (matrices + head + attention) + (2 * (matrices + attention) if recompute else 0),
    )
