"""The compiled step (`step.c`): its structures, matrices as it takes them, and how it is called."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import torch

from triforce.models.blocks.fused import EPSILON
from triforce.models.blocks.int8 import LARGEST, to_int8
from triforce.models.decoding.weights import LayerWeights
from triforce.models.gpt import GPTConfig

BLOCK = 16
"""Outputs whose weights lie side by side, and what numbers of inputs are padded to, as in `step.c`."""
ALONE = 4
"""Tokens up to which one thread takes a step: two wait for each other longer than they save (1.5 ms against 4.5)."""
MOST_HELD = 1 << 22
"""Bytes of memory for a step that are kept for the next: enough for some hundred tokens. Assumed."""

_Pointer, _Number = ctypes.c_void_p, ctypes.c_int64


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("steps", _Pointer),
        ("scale", _Pointer),
        ("inputs", _Number),
        ("outputs", _Number),
        ("levels", ctypes.c_float),
    )


class _Layer(ctypes.Structure):
    _fields_ = (*((name, _Matrix) for name in ("qkv", "out", "gate_up", "down")), ("scale", _Pointer))


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, _Number) for name in ("num_ids", "num_layers", "width", "heads", "dim", "inner")),
        ("norm_epsilon", ctypes.c_float),
        ("head_epsilon", ctypes.c_float),
        *((name, _Pointer) for name in ("embedding", "norm", "layers")),
    )


class _Cache(ctypes.Structure):
    _fields_ = (
        ("store", _Pointer),
        *((name, _Number) for name in ("layer", "part", "row", "head", "slots", "visible")),
    )


class CompiledMatrix:
    """int8 weights, a scale for each output, and their product with rows that are rounded to int16 steps."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor) -> None:
        """Pack ``weight`` ``(out, in)`` float32."""
        self.library = library
        self.num_outputs, self.num_inputs = weight.shape
        steps, scale = to_int8(weight)
        rows, columns = (-(-size // BLOCK) * BLOCK for size in weight.shape)
        padded = torch.zeros(rows, columns, dtype=torch.int8)
        padded[: self.num_outputs, : self.num_inputs] = steps
        self.steps = padded.view(rows // BLOCK, BLOCK, columns // 2, 2).transpose(1, 2).contiguous()
        self.scale = torch.zeros(rows)
        self.scale[: self.num_outputs] = scale
        levels = min(32767, (2**31 - 1) // (LARGEST * columns))  # so that no sum of products leaves int32
        self.struct = _Matrix(self.steps.data_ptr(), self.scale.data_ptr(), columns, self.num_outputs, levels)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply rows ``(N, in)``; returns ``(N, out)`` float32."""
        rows = x.float().contiguous()
        found = torch.empty(len(rows), self.num_outputs)
        memory = torch.empty(len(rows) * (4 + 2 * self.struct.inputs), dtype=torch.uint8)
        self.library.product(
            ctypes.byref(self.struct),
            _Number(len(rows)),
            _Number(self.num_inputs),
            _Pointer(rows.data_ptr()),
            _Pointer(found.data_ptr()),
            _Pointer(memory.data_ptr()),
            _Number(torch.get_num_threads()),
        )
        return found


def _layer(layer: LayerWeights[CompiledMatrix]) -> ctypes.Structure:
    matrices = (layer.qkv, layer.out, layer.gate_up, layer.down)
    return _Layer(*(matrix.struct for matrix in matrices), layer.scale.data_ptr())


class CompiledStep:
    """All layers in one call. Several threads may call it, each with a cache of its own."""

    def __init__(
        self,
        config: GPTConfig,
        layers: Sequence[LayerWeights[CompiledMatrix]],
        embedding: torch.Tensor,
        norm: torch.Tensor,
    ) -> None:
        """Take the layers, the embedding ``(ids, width)`` and the last norm's scales ``(width,)``, both float32."""
        self.library = layers[0].qkv.library
        self.library.step.restype = self.library.step_bytes.restype = _Number
        self._held = (layers, embedding.contiguous(), norm.contiguous())
        self._layers = (_Layer * len(layers))(*map(_layer, layers))
        self.width = config.width
        self.struct = _Network(
            len(embedding),
            len(layers),
            config.width,
            config.num_heads,
            config.head_dim,
            config.mlp_width,
            config.width * EPSILON,
            config.head_dim * EPSILON,
            self._held[1].data_ptr(),
            self._held[2].data_ptr(),
            ctypes.addressof(self._layers),
        )
        self._memory = threading.local()

    def __call__(
        self, ids: torch.Tensor, slots: torch.Tensor, turn: torch.Tensor, store: torch.Tensor, visible: int
    ) -> torch.Tensor:
        """Return the last hidden states ``(B, T, width)`` of ids ``(B, T)``.

        Their keys and values go to ``slots`` ``(B, T)`` of a cache's bfloat16 ``store``, and each sees the slots up to
        its own, below ``visible``; ``turn`` ``(B * T, head_dim / 2)`` are their complex rotations. Raises IndexError
        for an id or a slot that there is not.
        """
        tokens = ids.numel()
        threads = 1 if tokens <= ALONE else torch.get_num_threads()
        ids, slots, turn = ids.contiguous(), slots.contiguous(), turn.contiguous()
        strides = store.stride()
        assert store.dtype == torch.bfloat16
        assert strides[4:] == (store.shape[5], 1)
        cache = _Cache(store.data_ptr(), *strides[:4], store.shape[4], visible)
        hidden, memory = torch.empty(*ids.shape, self.width), self._scratch(tokens, visible, threads)
        failed = self.library.step(
            ctypes.byref(self.struct),
            ctypes.byref(cache),
            _Number(tokens),
            _Number(ids.shape[1]),
            _Pointer(ids.data_ptr()),
            _Pointer(slots.data_ptr()),
            _Pointer(turn.data_ptr()),
            _Pointer(hidden.data_ptr()),
            _Pointer(memory.data_ptr()),
            _Number(threads),
        )
        if failed:
            raise IndexError(f"ids {ids.tolist()} or slots {slots.tolist()}: the network or the cache has fewer")
        return hidden

    def _scratch(self, tokens: int, visible: int, threads: int) -> torch.Tensor:
        """Return memory for this thread, of the size that such a step needs at least."""
        sizes = map(_Number, (tokens, visible, threads))
        needed = self.library.step_bytes(ctypes.byref(self.struct), *sizes)
        held: torch.Tensor | None = getattr(self._memory, "held", None)
        if held is None or len(held) < needed:
            held = torch.empty(needed, dtype=torch.uint8)
            if needed <= MOST_HELD:
                self._memory.held = held
        return held
