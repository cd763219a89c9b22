"""Keys and values of the tokens read so far, for drawing one token after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class CacheShape(Protocol):
    """What of a GPT's config a cache needs."""

    num_layers: int
    num_heads: int

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""


@dataclass
class KVCache:
    """Keys and values of rows of one length, in memory allocated once."""

    store: torch.Tensor
    """Keys and values ``(num_layers, 2, B, num_heads, capacity, head_dim)``."""
    length: int = 0
    """Number of tokens read so far."""
    reached: torch.Tensor | None = None
    """Position ``(B, 1)`` of the last token, in parts, where segments have positions of their own; its pointer, where
    the GPT has pointers."""

    @classmethod
    def empty(cls, config: CacheShape, batch_size: int, capacity: int, like: torch.Tensor) -> KVCache:
        """Make a cache for ``capacity`` tokens on the device and in the type of ``like``."""
        shape = (config.num_layers, 2, batch_size, config.num_heads, capacity, config.head_dim)
        return cls(torch.empty(shape, device=like.device, dtype=like.dtype))

    def fan_out(self, num_copies: int) -> KVCache:
        """Copy the past of this cache, which holds one row, for ``num_copies`` continuations."""
        store = torch.empty(
            (*self.store.shape[:2], num_copies, *self.store.shape[3:]), device=self.store.device, dtype=self.store.dtype
        )
        store[..., : self.length, :] = self.store[..., : self.length, :]
        reached = None if self.reached is None else self.reached.expand(num_copies, 1)
        return KVCache(store, self.length, reached)

    def require(self, num_tokens: int) -> None:
        """Raise ValueError where this cache does not hold so many tokens."""
        if num_tokens > self.store.shape[4]:
            raise ValueError(
                f"{num_tokens} tokens: this cache holds {self.store.shape[4]}; make it with a larger capacity"
            )

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append ``(B, H, T, head_dim)`` and return all keys and values so far; the caller advances ``length``."""
        end = self.length + k.shape[2]
        self.require(end)
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]


@dataclass
class SlotCache:
    """Keys and values of rows of different lengths: each row writes to slots of its own, so shapes never change."""

    store: torch.Tensor
    """Keys and values ``(num_layers, 2, B, num_heads, capacity, head_dim)``; never written slots hold 0."""
    slots: torch.Tensor
    """Slots ``(B, T)`` int64 that the next tokens are written to; a token sees the slots up to its own."""
    visible: int
    """Slots that are looked at; no token's slot may lie behind them."""
    rows: torch.Tensor
    """Numbers of the rows, ``(B, 1)`` int64."""

    @classmethod
    def empty(
        cls, config: CacheShape, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> SlotCache:
        """Make a cache of ``capacity`` slots a row."""
        shape = (config.num_layers, 2, batch_size, config.num_heads, capacity, config.head_dim)
        slots = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
        rows = torch.arange(batch_size, device=device)[:, None]
        return cls(torch.zeros(shape, device=device, dtype=dtype), slots, capacity, rows)

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write ``(B, H, T, head_dim)`` into the slots and return the keys and values of the visible ones."""
        keys, values = self.store[layer, 0], self.store[layer, 1]
        keys[self.rows, :, self.slots] = k.transpose(1, 2).to(keys.dtype)
        values[self.rows, :, self.slots] = v.transpose(1, 2).to(values.dtype)
        return keys[:, :, : self.visible], values[:, :, : self.visible]

    def mask(self) -> torch.Tensor:
        """Return ``(B, 1, T, visible)`` bool: the slots that each token sees."""
        places = torch.arange(self.visible, device=self.slots.device)
        return (places <= self.slots[:, :, None])[:, None]
