"""RMSNorm, and QK-norm with rotary angles, with hand-written backward passes.

Eager PyTorch makes a pass over memory for each multiplication, and on a CPU these take a third of a training step.
Written by hand, forward and backward need about half as many. Elsewhere (half precision, GPU, inference) the plain
formulas run, which a compiler fuses better.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

EPSILON = 1e-6
"""Added to the mean square under the root."""


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scale ``x`` ``(..., C)`` to a root mean square of 1, times ``weight`` ``(C,)``."""
    if _uses_own_backward(x):
        return _RMSNorm.apply(x, weight)
    return torch.nn.functional.rms_norm(x, weight.shape, weight, eps=EPSILON)


def qk_norm_rotate(
    qkv: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised queries and keys ``(N, 2, H, D)``, turned by their position's angles, and values ``(N, H, D)``.

    ``qkv`` is ``(N, 3, H, D)``, ``weight`` ``(2, D)`` the scale of the two norms, ``cos`` and ``sin`` ``(N, D / 2)``.
    The pairs that are turned are (i, i + D / 2) (Su et al. 2021, arXiv 2104.09864).
    """
    if qkv.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        qkv = qkv.float()  # only matrix products are faster in half precision there
    if _uses_own_backward(qkv):
        return _QKNormRotate.apply(qkv, weight, cos, sin)
    qk = qkv[:, :2]
    scale = torch.rsqrt(qk.float().square().mean(-1, keepdim=True) + EPSILON)
    scaled = qk * scale * weight[:, None]
    first, second = scaled.chunk(2, dim=-1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(qkv.dtype), qkv[:, 2]


def _uses_own_backward(x: torch.Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32
    return plain and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _inverse_rms(x: torch.Tensor) -> torch.Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        scale = _inverse_rms(x)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, scale, weight = ctx.saved_tensors
        product = (grad * normed).flatten(0, -2)
        along = torch.mv(product, weight).div_(weight.numel()).view(scale.shape)
        grad_x = (grad * weight).addcmul_(normed, along, value=-1).mul_(scale)
        return grad_x, product.sum(0)


class _QKNormRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, weight, cos, sin):
        half = cos.shape[-1]
        qk = qkv[:, :2]
        scale = _inverse_rms(qk)
        normed = qk * scale
        cos, sin = cos[:, None, None], sin[:, None, None]
        w1, w2 = weight[None, :, None, :half], weight[None, :, None, half:]
        turned = normed * torch.cat([w1 * cos, w2 * cos], dim=-1)
        turned[..., :half].addcmul_(normed[..., half:], w2 * sin, value=-1)
        turned[..., half:].addcmul_(normed[..., :half], w1 * sin)
        ctx.save_for_backward(normed, scale, weight, cos, sin)
        return turned, qkv[:, 2].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_v):
        normed, scale, weight, cos, sin = ctx.saved_tensors
        half = cos.shape[-1]
        back = grad * torch.cat([cos, cos], dim=-1)
        back[..., :half].addcmul_(grad[..., half:], sin)
        back[..., half:].addcmul_(grad[..., :half], sin, value=-1)
        product = back * normed
        per_head = weight[:, None]
        along = (product * per_head).sum(-1, keepdim=True).div_(weight.shape[-1])
        grad_qkv = torch.empty(back.shape[0], 3, *back.shape[2:], dtype=back.dtype)
        back.mul_(per_head).addcmul_(normed, along, value=-1)
        torch.mul(back, scale, out=grad_qkv[:, :2])
        grad_qkv[:, 2] = grad_v
        return grad_qkv, product.sum((0, 2)), None, None
