"""A GPT for drawing tokens on a CPU: the same function as `GPT.forward`, as few operators and bytes as it takes.

In int8, where the machine has a C compiler, all layers are one call of `step.c`. Elsewhere norms are a division
(`weights.py`), queries and keys are turned as complex numbers, one write a layer puts both key and value into the
cache, and all memory is there before (`workspace.py`). The rotary angles are looked up once a token. Without autograd
and without modules a token of 8 layers takes 681 operators then, those inside others counted, where the GPT's own step
takes 1839.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from triforce.models.blocks.fused import EPSILON
from triforce.models.blocks.kv_cache import KVCache, SlotCache
from triforce.models.decoding.compiled import CompiledMatrix, CompiledStep
from triforce.models.decoding.compiler import CannotCompileError, library
from triforce.models.decoding.precision import Compiled, Precision
from triforce.models.decoding.products import Product, activations, pack, resolve
from triforce.models.decoding.weights import LayerWeights, layer_weights
from triforce.models.decoding.workspace import Workspace, rows_of
from triforce.models.gpt import GPT

logger = logging.getLogger(__name__)

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

    def __init__(self, gpt: GPT, precision: Precision = "auto", compiled: Compiled = "auto") -> None:
        """Pack the weights. Raises ValueError for ``compiled="yes"`` where the step cannot be compiled."""
        self.gpt, self.config = gpt, gpt.config
        self.precision = resolve(precision)
        self.dtype = activations(self.precision)
        self._library = compiled_library(self.precision, compiled)
        self.cache_dtype = self.dtype
        self._memory = threading.local()
        with torch.inference_mode():
            self._embedding = gpt.embedding.weight.float()
            self._norm = gpt.norm.weight.float() * gpt.config.width**0.5
            self.layers: list[LayerWeights[Product]] = []
            self._step: CompiledStep | None = None
            if self._library is None:
                self.layers = [layer_weights(block, partial(pack, precision=self.precision)) for block in gpt.blocks]
            else:
                matrices = [layer_weights(block, partial(CompiledMatrix, self._library)) for block in gpt.blocks]
                self._step = CompiledStep(self.config, matrices, self._embedding, self._norm)
            self._rotation = torch.complex(gpt.cos.float(), gpt.sin.float())
            self._numbers = torch.arange(gpt.config.max_positions + ROUND)
            self._smallest = torch.tensor(math.sqrt(gpt.config.head_dim * EPSILON))
            self._heads: dict[bytes, Product] = {}

    @property
    def compiled(self) -> bool:
        """Whether it computes by the compiled step."""
        return self._step is not None

    def head(self, ids: torch.Tensor) -> Product:
        """Pack the head's rows of ``ids`` ``(V,)``, once for the same ids; returns a function from hidden states
        ``(N, width)`` to float32 scores ``(N, V)``.
        """
        key = ids.numpy().tobytes()
        if key not in self._heads:
            with torch.inference_mode():
                self._heads[key] = self._packed_head(self.gpt.head.weight[ids].float())
        return self._heads[key]

    def _packed_head(self, weight: torch.Tensor) -> Product:
        if self._library is not None:
            return CompiledMatrix(self._library, weight)
        product = pack(weight, self.precision)
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
            positions, slots = self._places(ids, positions, cache)
            if self._step is not None:
                return self._compiled(self._step, ids, positions, pointers, slots, cache)
            step = self._begin(ids, positions, pointers, slots, cache)
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

    def _compiled(
        self,
        step: CompiledStep,
        ids: torch.Tensor,
        positions: torch.Tensor,
        pointers: torch.Tensor | None,
        slots: torch.Tensor,
        cache: KVCache | SlotCache,
    ) -> torch.Tensor:
        turn = self._turn(ids, positions, pointers, cache)
        if isinstance(cache, SlotCache):
            return step(ids, slots, turn, cache.store, cache.visible)
        hidden = step(ids, slots, turn, cache.store, cache.length + ids.shape[1])
        cache.length += ids.shape[1]
        return hidden

    def _places(
        self, ids: torch.Tensor, positions: torch.Tensor | None, cache: KVCache | SlotCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the positions of ids ``(B, T)`` and the slots of the cache that they are written to, both so."""
        past, length = cache.length if isinstance(cache, KVCache) else 0, ids.shape[1]
        if past + length > self.config.max_positions:
            raise ValueError(
                f"{past + length} tokens: this model reads {self.config.max_positions} at most; "
                "shorten the text or prompt"
            )
        counted = self._numbers[past : past + length].expand(ids.shape)
        positions = counted if positions is None else positions
        if isinstance(cache, SlotCache):
            return positions, cache.slots
        cache.require(past + length)
        return positions, counted

    def _begin(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        pointers: torch.Tensor | None,
        slots: torch.Tensor,
        cache: KVCache | SlotCache,
    ) -> _Step:
        """Look up what the layers share."""
        batch, length = ids.shape
        memory = self._workspace(batch, length, cache.store)
        if isinstance(cache, KVCache):
            past = cache.length
            reach = past + length
            causal, masked = past == 0 and length > 1, past > 0 and length > 1
        else:  # rows that have ended may lie behind what is visible
            reach = min(cache.visible, int(slots.max()) + 1)
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


def for_sampling(gpt: GPT, precision: Precision = "auto", compiled: Compiled = "auto") -> DecodeNetwork:
    """Return a GPT's network for drawing tokens: packed on a CPU, as it is elsewhere. Later changes of the GPT's
    weights do not reach a packed one.
    """
    return PackedNetwork(gpt, precision, compiled) if gpt.embedding.weight.device.type == "cpu" else PlainNetwork(gpt)


def compiled_library(precision: Precision, compiled: Compiled) -> ctypes.CDLL | None:
    """Return the compiled step; None where there is to be none and, for auto, where there cannot be one: ValueError
    where there has to be.
    """
    precision = resolve(precision)
    if compiled == "no" or (precision != "int8" and compiled == "auto"):
        return None
    if precision != "int8":
        raise ValueError(f"compiled yes with precision {precision}: the compiled step is of int8; use precision int8")
    try:
        return library()
    except CannotCompileError as error:
        if compiled == "yes":
            raise ValueError(f"compiled yes: {error}; or use compiled auto, which does without") from error
        logger.info("drawing without a compiled step, which takes longer: %s", error)
        return None
