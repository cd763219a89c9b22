"""A GPT for drawing tokens on a CPU: the same function as `GPT.forward`, as few operators and bytes as it takes.

Per layer: norms are a division (`weights.py`), queries and keys are turned as complex numbers, one write puts both key
and value into the cache, and all memory is there before (`workspace.py`). The rotary angles are looked up once a token.
Without autograd and without modules a token of 8 layers takes 681 operators, those inside others counted, where the
GPT's own step takes 1839.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from triforce.models.blocks.fused import EPSILON
from triforce.models.blocks.kv_cache import KVCache, SlotCache
from triforce.models.decoding.precision import Precision
from triforce.models.decoding.products import Product, activations, pack, resolve
from triforce.models.decoding.weights import LayerWeights, layer_weights
from triforce.models.decoding.workspace import Workspace, rows_of
from triforce.models.gpt import GPT

MANY_TOKENS = 256
"""Tokens of a step beyond which its memory is not kept for the next. Assumed: longer ones are prompts."""
NUM_WORKSPACES = 64
"""Shapes of steps whose memory is kept. Assumed: a server knows some numbers of rows and lengths of a word."""
ROUND = 32
"""Slots that rows of different lengths look at, in multiples of this, for kernels that take some at once."""


@dataclass(frozen=True)
class _Step:
    """What the layers of one step share."""

    batch: int
    length: int
    memory: Workspace
    turn: torch.Tensor
    """Rotation ``(N, 1, 1, head_dim / 2)`` complex of each token."""
    rows: torch.Tensor
    """The cache as `rows_of` sees it."""
    slots: tuple[torch.Tensor, ...]
    """Rows to write keys and values to, ``(N * 2 * H,)`` for each layer."""
    seen: tuple[torch.Tensor, ...]
    """Visible keys of each layer, then its values, ``(B, H, S, head_dim)``: 2 L of them."""
    mask: torch.Tensor | None
    """0 where a token sees a slot and minus infinity elsewhere, ``(B, 1, T, S)``."""
    causal: bool


class PackedNetwork:
    """The GPT with packed weights on a CPU. A cache that it writes is its own: the GPT would misread it, and the
    reverse. Several threads may call it, each with a cache of its own.
    """

    def __init__(self, gpt: GPT, precision: Precision = "auto") -> None:
        self.gpt, self.config = gpt, gpt.config
        self.precision = resolve(precision)
        self.dtype = activations(self.precision)
        self.cache_dtype = self.dtype
        self._memory = threading.local()
        with torch.inference_mode():
            self._embedding = gpt.embedding.weight.float()
            self.layers: list[LayerWeights] = [layer_weights(block, self.precision) for block in gpt.blocks]
            self._norm = gpt.norm.weight.float() * gpt.config.width**0.5
            self._rotation = torch.complex(gpt.cos.float(), gpt.sin.float())
            self._numbers = torch.arange(gpt.config.max_positions + ROUND)
            self._smallest = torch.tensor(math.sqrt(gpt.config.head_dim * EPSILON))
            self._heads: dict[bytes, Product] = {}

    def head(self, ids: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Pack the head's rows of ``ids`` ``(V,)``, once for the same ids; returns a function from hidden states
        ``(N, width)`` to float32 scores ``(N, V)``.
        """
        key = ids.numpy().tobytes()
        if (product := self._heads.get(key)) is None:
            with torch.inference_mode():
                product = self._heads[key] = pack(self.gpt.head.weight[ids].float(), self.precision)
        return lambda hidden: product(hidden.to(self.dtype)).float()

    def __call__(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        pointers: torch.Tensor | None = None,
        cache: KVCache | SlotCache,
    ) -> torch.Tensor:
        """Return the last hidden states ``(B, T, width)`` float32 of ids ``(B, T)``, as `GPT.forward` does."""
        with torch.inference_mode():
            step = self._begin(ids, positions, pointers, cache)
            memory = step.memory
            memory.x.copy_(self._embedding.index_select(0, ids.reshape(-1)))
            for number, layer in enumerate(self.layers):
                self._attend(layer, number, step)
                self._feed_forward(layer, memory)
            if isinstance(cache, KVCache):
                cache.length += step.length
            length = torch.linalg.vector_norm(memory.lengthened, 2, -1, True)
            return torch.div(memory.x, length).mul_(self._norm).view(step.batch, step.length, -1)

    def _attend(self, layer: LayerWeights, number: int, step: _Step) -> None:
        memory = step.memory
        length = torch.linalg.vector_norm(memory.lengthened, 2, -1, True)
        memory.qkv.copy_(layer.qkv(torch.div(memory.x, length, out=memory.normed)))
        qk = memory.qk
        qk.div_(torch.linalg.vector_norm(qk, 2, -1, True).hypot_(self._smallest)).mul_(layer.scale)
        memory.pairs.mul_(step.turn)
        for target, source in memory.casts:
            target.copy_(source)
        step.rows.index_copy_(0, step.slots[number], memory.kv)
        keys, values = step.seen[2 * number], step.seen[2 * number + 1]
        attended = F.scaled_dot_product_attention(
            memory.q, keys, values, attn_mask=step.mask, is_causal=step.causal
        ).transpose(1, 2)
        if memory.attended is not None:
            attended = memory.attended.copy_(attended)
        memory.x.add_(layer.out(attended.reshape(memory.x.shape)))

    def _feed_forward(self, layer: LayerWeights, memory: Workspace) -> None:
        length = torch.linalg.vector_norm(memory.lengthened, 2, -1, True)
        gate, up = layer.gate_up(torch.div(memory.x, length, out=memory.normed)).chunk(2, -1)
        memory.x.add_(layer.down(F.silu(gate) * up))

    def _begin(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        pointers: torch.Tensor | None,
        cache: KVCache | SlotCache,
    ) -> _Step:
        """Look up what the layers share."""
        batch, length = ids.shape
        past = cache.length if isinstance(cache, KVCache) else 0
        if past + length > self.config.max_positions:
            raise ValueError(
                f"{past + length} tokens: this model reads {self.config.max_positions} at most; "
                "shorten the text or prompt"
            )
        counted = self._numbers[past : past + length].expand(ids.shape)
        if positions is None:
            positions = counted
        memory = self._workspace(batch, length, cache.store)
        if isinstance(cache, KVCache):
            cache.require(past + length)
            slots, reach = counted, past + length
            causal, masked = past == 0 and length > 1, past > 0 and length > 1
        else:  # rows that have ended may lie behind what is visible
            slots, reach = cache.slots, min(cache.visible, int(cache.slots.max()) + 1)
            causal, masked = False, batch > 1 or length > 1
            if masked:
                reach = min(cache.store.shape[4], -(-reach // ROUND) * ROUND)
        return _Step(
            batch,
            length,
            memory,
            self._turn(ids, positions, pointers, cache)[:, None, None],
            rows_of(cache.store),
            (memory.places + slots[:, :, None, None]).flatten(1).unbind(),
            cache.store[..., :reach, :].flatten(0, 1).unbind(),
            self._mask(slots, reach, cache.store.dtype) if masked else None,
            causal,
        )

    def _mask(self, slots: torch.Tensor, reach: int, dtype: torch.dtype) -> torch.Tensor:
        """Return ``(B, 1, T, reach)`` for attention: a token sees the slots up to its own."""
        hidden = self._numbers[:reach] > slots[:, :, None]
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)[:, None]

    def _turn(
        self, ids: torch.Tensor, positions: torch.Tensor, pointers: torch.Tensor | None, cache: KVCache | SlotCache
    ) -> torch.Tensor:
        """Return the rotation ``(N, head_dim / 2)`` complex of each token."""
        config = self.config
        if config.paces or (config.pointer and pointers is None):
            return torch.complex(*self.gpt.angles(ids, positions, pointers, cache))
        turn = self._rotation[positions.reshape(-1)]
        if config.pointer and pointers is not None:
            turn = torch.where(self.gpt.pointed, self._rotation[pointers.reshape(-1)], turn)
            if isinstance(cache, KVCache):
                cache.reached = pointers[:, -1:]
        return turn

    def _workspace(self, batch: int, length: int, store: torch.Tensor) -> Workspace:
        """Return the memory of a step of this shape."""
        if batch * length > MANY_TOKENS:
            return Workspace.make(batch, length, store, self.dtype)
        known: dict[tuple, Workspace] = self._memory.__dict__.setdefault("known", {})
        key = (batch, length, store.shape, store.stride(), store.dtype)
        if key not in known:
            if len(known) >= NUM_WORKSPACES:
                known.pop(next(iter(known)))
            known[key] = Workspace.make(batch, length, store, self.dtype)
        return known[key]


class PlainNetwork:
    """The GPT itself behind the same interface: on a GPU, and where its weights still change."""

    def __init__(self, gpt: GPT) -> None:
        self.gpt, self.config = gpt, gpt.config
        self.cache_dtype = gpt.embedding.weight.dtype

    def head(self, ids: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a function from hidden states ``(N, width)`` to scores ``(N, V)`` of ``ids`` ``(V,)``."""
        weight = self.gpt.head.weight[ids].T.contiguous()
        return lambda hidden: hidden @ weight

    def __call__(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        pointers: torch.Tensor | None = None,
        cache: KVCache | SlotCache,
    ) -> torch.Tensor:
        """Return the last hidden states ``(B, T, width)`` of ids ``(B, T)``."""
        return self.gpt(ids, positions=positions, pointers=pointers, cache=cache)


DecodeNetwork = PackedNetwork | PlainNetwork


def for_sampling(gpt: GPT, precision: Precision = "auto") -> DecodeNetwork:
    """Return a GPT's network for drawing tokens: packed on a CPU, as it is elsewhere. Later changes of the GPT's
    weights do not reach a packed one.
    """
    return PackedNetwork(gpt, precision) if gpt.embedding.weight.device.type == "cpu" else PlainNetwork(gpt)
