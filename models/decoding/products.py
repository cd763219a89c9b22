"""Matrix products of few rows: weights packed once, in float32, bfloat16 or int8.

Drawing a token reads every weight once and uses it for a row or a few, so its time is that of reading them. int8 halves
the bytes of bfloat16: a scale for each output channel, activations in bfloat16, as `torch` computes it
(`aten::_weight_int8pack_mm`). Its kernel converts the weights again for every few rows; beyond `FEW_ROWS` the matrix
units of a CPU that has them are faster with the same matrix in bfloat16, packed as oneDNN likes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from triforce.models.decoding.precision import Precision

Product = Callable[[torch.Tensor], torch.Tensor]
"""Inputs ``(N, in)`` to outputs ``(N, out)``, both in the type of `activations`."""

FEW_ROWS = 4
"""Rows up to which int8 is faster than bfloat16 in matrix units. Measured: 0.9, 1.2 and 1.9 ms against 1.9, 2.0 and 5.5
at 1, 2 and 4 rows, 12.4 against 10.5 at 8, for 14 M weights on one busy core of a Xeon with AMX."""
INT8_STEP = 32
"""Inputs that the kernel of int8 takes at once: it reads past the end of a row of another length."""


def has_bfloat16_units() -> bool:
    """Return whether this CPU multiplies bfloat16 itself (AMX or AVX512-BF16); without, it is emulated slowly."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def has_int8() -> bool:
    """Return whether this torch has the product of int8 weights."""
    return hasattr(torch, "_weight_int8pack_mm")


def resolve(precision: Precision) -> Literal["float32", "bfloat16", "int8"]:
    """Return what ``auto`` stands for on this machine: int8 where torch has its product, which needs no unit of its
    own; else bfloat16 where the CPU has units for it; else float32.

    The choice rests on what the CPU can do and not on a timing, which other work would disturb: the same seed has to
    draw the same tomorrow. Raises ValueError for a precision that this machine has not.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision {precision!r}: unknown; use one of {', '.join(get_args(Precision))}")
    if precision == "auto":
        return "int8" if has_int8() else "bfloat16" if has_bfloat16_units() else "float32"
    if precision == "int8" and not has_int8():
        raise ValueError(f"precision int8: torch {torch.__version__} has no product of int8 weights; use float32")
    return precision


def activations(precision: Precision) -> torch.dtype:
    """Return the type of a product's inputs and outputs."""
    return torch.float32 if resolve(precision) == "float32" else torch.bfloat16


def pack(weight: torch.Tensor, precision: Precision) -> Product:
    """Pack ``weight`` ``(out, in)`` float32 and return its product, ``x @ weight.T``."""
    chosen = resolve(precision)
    if chosen == "float32":
        kept = weight.float().contiguous()
        return lambda x: F.linear(x, kept)
    if chosen == "bfloat16" or weight.shape[1] % INT8_STEP:
        return _pack_bfloat16(weight)
    few = _pack_int8(weight)
    if not has_bfloat16_units():
        return few
    many = _pack_bfloat16(weight)
    return lambda x: few(x) if x.shape[0] <= FEW_ROWS else many(x)


def _pack_bfloat16(weight: torch.Tensor) -> Product:
    rounded = weight.bfloat16().contiguous()
    if not has_bfloat16_units():  # oneDNN may refuse then
        return lambda x: F.linear(x, rounded)
    packed = torch.ops.mkldnn._reorder_linear_weight(rounded)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, None, "none", [], "")


def _pack_int8(weight: torch.Tensor) -> Product:
    """Round each output channel to 255 steps around 0."""
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
    steps = (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8).contiguous()
    multiply = torch._weight_int8pack_mm
    return lambda x: multiply(x, steps, scale)
