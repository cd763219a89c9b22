"""The names of a decoder's settings, apart from what computes in it, so that commands need not wait for torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16", "int8"]
"""What the weights of a GPT that draws on a CPU are kept in; ``auto`` as `products.resolve` says."""

Compiled = Literal["auto", "yes", "no"]
"""Whether a step of int8 weights is compiled by the machine's C compiler; ``auto``: where there is one."""
