"""Tensors that one step of decoding writes to, made once for each shape, with all the views of them that it needs.

At batch 1 an operator takes about a microsecond, and so does a view; a step has a few hundred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from triforce.models.blocks.fused import EPSILON


@dataclass(frozen=True)
class Workspace:
    """Memory of a step with ``N = B * T`` tokens."""

    lengthened: torch.Tensor
    """The residual stream, ``(N, width + 1)`` float32; the last column, which never changes, holds what the epsilon of
    a norm adds to a row's length."""
    x: torch.Tensor
    """The residual stream without that column."""
    normed: torch.Tensor
    """Rows of length 1, ``(N, width)``, in the type of the products."""
    qkv: torch.Tensor
    """Queries, keys and values, ``(N, 3 * width)`` float32."""
    qk: torch.Tensor
    """The first two of them, ``(N, 2, H, head_dim)``."""
    pairs: torch.Tensor
    """The same as complex numbers, ``(N, 2, H, head_dim / 2)``."""
    casts: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Copies into the cache's type, each a target and its source."""
    q: torch.Tensor
    """Queries as attention takes them, ``(B, H, T, head_dim)`` in the cache's type."""
    kv: torch.Tensor
    """Keys and values, a row for each head: ``(N * 2 * H, head_dim)`` in the cache's type."""
    attended: torch.Tensor | None
    """What attention gave, ``(B, T, H, head_dim)`` in the products' type, where the cache has another."""
    places: torch.Tensor
    """Rows of the cache's memory that slot 0 of these rows, keys and values has in each layer, ``(L, B, 1, 2, H)``."""

    @classmethod
    def make(cls, batch: int, length: int, store: torch.Tensor, dtype: torch.dtype) -> Workspace:
        """Make one for ``length`` tokens in each row of a cache ``store``; products are of ``dtype``."""
        heads, dim = store.shape[3], store.shape[5]
        tokens, width = batch * length, heads * dim
        qkv = torch.empty(tokens, 3, heads, dim)
        qk = qkv[:, :2]
        source, casts = qkv, []
        if store.dtype != torch.float32 and tokens == 1:
            source = torch.empty(qkv.shape, dtype=store.dtype)
            casts.append((source, qkv))
        queries, kv = source[:, 0], source[:, 1:]
        if tokens > 1:
            kv = torch.empty(tokens, 2, heads, dim, dtype=store.dtype)
            casts.append((kv, source[:, 1:]))
            if store.dtype != torch.float32:
                queries = torch.empty(tokens, heads, dim, dtype=store.dtype)
                casts.append((queries, source[:, 0]))
        lengthened = torch.full((tokens, width + 1), math.sqrt(width * EPSILON))
        return cls(
            lengthened=lengthened,
            x=lengthened[:, :width],
            normed=torch.empty(tokens, width, dtype=dtype),
            qkv=qkv.view(tokens, 3 * width),
            qk=qk,
            pairs=torch.view_as_complex(qk.unflatten(-1, (dim // 2, 2))),
            casts=tuple(casts),
            q=queries.unflatten(0, (batch, length)).transpose(1, 2),
            kv=kv.reshape(tokens * 2 * heads, dim),
            attended=None if dtype == store.dtype else torch.empty(batch, length, heads, dim, dtype=dtype),
            places=_places(store),
        )


def rows_of(store: torch.Tensor) -> torch.Tensor:
    """View the memory of a cache ``(L, 2, B, H, capacity, head_dim)``, or of some rows of one, as vectors of a head:
    ``(R, head_dim)``.
    """
    dim = store.shape[5]
    last = sum((size - 1) * stride for size, stride in zip(store.shape, store.stride(), strict=True))
    return store.as_strided(((last + 1) // dim, dim), (dim, 1))


def _places(store: torch.Tensor) -> torch.Tensor:
    """Return the rows of `rows_of` that slot 0 has, ``(L, B, 1, 2, H)``."""
    dim = store.shape[5]
    layers, parts, batch, heads = (
        torch.arange(size) * (stride // dim) for size, stride in zip(store.shape[:4], store.stride()[:4], strict=True)
    )
    return (
        layers[:, None, None, None, None]
        + batch[None, :, None, None, None]
        + parts[None, None, None, :, None]
        + heads[None, None, None, None, :]
    )
