"""Positions of tokens: through the document, by paces side by side, or by a pointer into the text."""

from __future__ import annotations

import torch

PARTS = 4096
"""Parts of a position; paces are rounded to whole parts."""


def segment_positions(
    ids: torch.Tensor, paces: torch.Tensor, begins: torch.Tensor, reached: torch.Tensor | None
) -> torch.Tensor:
    """Return positions ``(B, T)`` of ids, in parts: 0 at each token that opens a segment, then onwards by each token's
    pace.

    A continued row starts from ``reached`` ``(B, 1)``. Positions are integers, so that sums do not depend on order.
    """
    along, opened = _along(ids, paces, begins)
    return torch.where(opened >= 0, along - opened, along + (-PARTS if reached is None else reached))


def text_pointers(
    ids: torch.Tensor, reads: torch.Tensor, begins: torch.Tensor, reached: torch.Tensor | None
) -> torch.Tensor:
    """Return for each of ids ``(B, T)`` the number of text pieces read since its segment began, itself included.

    So a code of a ``reading`` segment has the pointer of the last piece of its word, there and in the text before.
    ``reads`` ``(V,)`` is 1 for ids of text and 0 for others. A continued row starts from ``reached`` ``(B, 1)``.
    """
    along, opened = _along(ids, reads, begins)
    return torch.where(opened >= 0, along - opened, along if reached is None else along + reached)


def _along(ids: torch.Tensor, steps: torch.Tensor, begins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of steps up to each id, and what it was where the id's segment opened; -1 where none has."""
    along = steps[ids].cumsum(1)
    return along, torch.where(begins[ids], along, -1).cummax(1).values
