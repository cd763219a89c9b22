"""Causal attention inside each document of packed rows: piece by piece, by a mask, or by one kernel for all lengths.

On a CPU a mask costs as much as what it hides, so documents are attended to one by one. On a GPU the kernel for
variable lengths of torch.nn.attention.varlen (Flash Attention, Dao 2023, arXiv 2307.08691) does all at once; where it
is missing, a mask does.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
from typing import Any, NamedTuple, cast

import torch
from torch.nn import functional as F

varlen_attn: Any = None
if torch.cuda.is_available():  # the import takes two seconds, and a CPU has no use for it
    with contextlib.suppress(ImportError):  # before torch 2.10
        from torch.nn.attention.varlen import varlen_attn

CAUSAL: dict[str, Any] = (
    {"window_size": (-1, 0)}
    if varlen_attn is not None and "window_size" in inspect.signature(varlen_attn).parameters
    else {"is_causal": True}
)
"""How this version of torch is asked for causal attention: as a window, or by name, as 2.10 is."""


NEAR = 0.02
"""Relative difference of two bfloat16 kernels at most: each result is rounded to 1 in 256."""
log = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """Where documents lie in packed rows that are laid end to end."""

    starts: torch.Tensor
    """First token of each document and then, as often as it takes to fill the tensor, the number of all tokens,
    ``(N + 1,)`` int32."""
    longest: int
    """Tokens of the longest document at most."""


def attend_each(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Apply causal attention inside each of the documents that lie end to end in ``(N, H, D)``."""
    parts = zip(*(tensor.transpose(0, 1)[None].split(lengths, dim=2) for tensor in (q, k, v)), strict=True)
    with torch.autocast("cpu", enabled=False):  # float32 is faster for short documents
        attended = [F.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return torch.cat(attended, dim=2)[0].transpose(0, 1)


def attend_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """Apply causal attention inside each of the documents that lie end to end in ``(N, H, D)`` of half precision."""
    starts, longest = bounds
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return cast(torch.Tensor, varlen_attn(q, k, v, starts, starts, longest, longest, **CAUSAL))


def has_varlen(device: torch.device, head_dim: int) -> bool:
    """Try the kernel, forward and backward, and compare it with plain attention; False where it fails or differs."""
    if device.type != "cuda" or varlen_attn is None:
        return False
    generator = torch.Generator(device).manual_seed(0)
    lengths = [5, 40, 19]
    qkv = torch.randn(3, sum(lengths), 2, head_dim, generator=generator, device=device).bfloat16()
    starts = torch.tensor([0, 5, 45, 64, 64, 64], dtype=torch.int32, device=device)
    found: list[torch.Tensor] = []
    try:
        with torch.autocast("cuda", enabled=False):
            for kernel in (False, True):
                leaf = qkv.clone().requires_grad_()
                q, k, v = leaf.unbind()
                whole = attend_varlen(q, k, v, Bounds(starts, 64)) if kernel else attend_each(q, k, v, lengths)
                (gradient,) = torch.autograd.grad(whole.float().square().sum(), leaf)
                found += [whole.float(), gradient.float()]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        log.warning("no attention by varlen_attn (%s): packed rows take a mask, which is slower", error)
        return False
    errors = [float((found[i] - found[i + 2]).norm() / found[i].norm()) for i in range(2)]
    if max(errors) > NEAR:
        log.warning("varlen_attn differs from plain attention by %s of it: packed rows take a mask instead", errors)
    return max(errors) <= NEAR


def document_lengths(documents: torch.Tensor) -> list[int]:
    """Return the number of tokens of each document of packed rows ``(B, T)``, row after row; padding counts as one."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    bounds = [*starts.flatten().nonzero()[:, 0].tolist(), documents.numel()]
    return [stop - start for start, stop in itertools.pairwise(bounds)]


def document_mask(documents: torch.Tensor) -> torch.Tensor:
    """Return ``(B, 1, T, T)`` bool: whether position i may attend to j, in the same document and not later."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]
