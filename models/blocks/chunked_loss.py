"""Cross-entropy over a large vocabulary without ever holding the scores of all tokens at once.

Of ``N`` tokens and ``V`` entries, scores, their logarithms and their gradient are three or four matrices ``(N, V)``:
over a gigabyte each for 32 768 tokens and 9000 entries. Here they are made for some tokens at a time, and the gradients
of hidden states and head are computed right away, in the forward pass: nothing ``(N, V)`` is kept, and nothing is
computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Scores that are held at once, by kind of device. On one core 2^22, 16 MB in float32, were the fastest of 2^20 to
2^26; on a GPU assumed: 256 MB, enough for products of full speed."""


def chunk_logits(device: torch.device) -> int:
    """Scores, of tokens times vocabulary, that are held at once: up to so many are made in one piece."""
    return CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"])


def summed_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, *, chunk: int | None = None
) -> torch.Tensor:
    """Return the sum of the weighted cross-entropies, nats, a float32 scalar.

    ``hidden`` ``(N, width)``, ``head`` ``(V, width)``, ``targets`` ``(N,)`` int64 and ``weights`` ``(N,)``, through
    which no gradient goes. Products are in autocast's precision where it is on; losses, and the sum of the head's
    gradient over chunks, are in float32. ``chunk`` tokens are worked through at once, by default `chunk_logits` scores.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    rows = chunk or max(1, chunk_logits(hidden.device) // len(head))
    total: torch.Tensor = _SummedCrossEntropy.apply(hidden, head, targets, weights, rows, dtype)
    return total


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        rows: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        of_hidden, of_head = torch.empty_like(hidden), torch.zeros_like(head, dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = head.to(dtype)
            for first in range(0, len(hidden), rows):
                part = slice(first, first + rows)
                of_part, of_head_part, loss = _part(hidden[part].to(dtype), matrix, targets[part], weights[part])
                of_hidden[part] = of_part.to(hidden.dtype)
                of_head += of_head_part
                total = total + loss
        ctx.save_for_backward(of_hidden, of_head.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, outward: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_head = ctx.saved_tensors  # `outward` has no dimension: it widens neither
        return of_hidden * outward, of_head * outward, None, None, None, None


def _part(
    hidden: torch.Tensor, matrix: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of hidden states and head, and the weighted sum of losses, of one chunk of tokens."""
    weights = weights.float()
    logs = F.log_softmax((hidden @ matrix.T).float(), dim=-1)
    loss = -(logs.gather(1, targets[:, None])[:, 0] * weights).sum()
    slope = logs.exp_() * weights[:, None]  # of softmax and cross-entropy together: probabilities, less 1 at the target
    slope.scatter_add_(1, targets[:, None], -weights[:, None])
    slope = slope.to(hidden.dtype)
    return slope @ matrix, slope.T @ hidden, loss
