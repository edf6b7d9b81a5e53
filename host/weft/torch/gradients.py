"""Differentiable roundings: straight-through estimators and LSQ's gradient of the step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from weft.graph import Array


class _Straight(torch.autograd.Function):
    """`values` forward; backward the gradient passes where `inside`."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, values: torch.Tensor, inside: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.inside = inside
        return values.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        grad = grads[0]
        return grad if ctx.inside is None else grad * ctx.inside, None, None


def straight_through(
    x: torch.Tensor, values: torch.Tensor, inside: torch.Tensor | None = None
) -> torch.Tensor:
    """`values` with the gradient of `x`; 0 where `inside` is false (Bengio et al., 2013)."""
    result: torch.Tensor = _Straight.apply(x, values, inside)
    return result


class _Step(torch.autograd.Function):
    """scale * v forward; the gradients of LSQ backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        v: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        gain: float,
    ) -> torch.Tensor:
        # As Quant.dequantize: a float32 product, whatever the dtype of the model.
        wide = scale.float().reshape(scale.shape + (1,) * (x.dim() - scale.dim()))
        ctx.save_for_backward(x, wide, v, low, high)
        ctx.gain, ctx.scale = gain, scale
        return (v.float() * wide).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, wide, v, low, high = ctx.saved_tensors
        grad = grads[0]
        ratio = x / wide
        inside = (ratio >= low) & (ratio <= high)
        slope = torch.where(inside, v - ratio, v.to(ratio.dtype)) * grad
        kept = tuple(range(ctx.scale.dim(), x.dim()))
        of_scale = (slope.sum(kept) if kept else slope) * ctx.gain
        return grad * inside, of_scale.to(ctx.scale.dtype), None, None, None, None


def learned_step(
    x: torch.Tensor,
    scale: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    gain: float | None = None,
) -> torch.Tensor:
    """scale * v, where v is what x / scale was rounded to in low..high.

    The gradient of `x` passes inside low..high. That of `scale` (shape () or the first axis of
    `x`) is v - x/scale inside and v outside, times `gain`; LSQ's 1 / sqrt(N high) if None, with N
    elements of `x` per scale (Esser et al., Learned Step Size Quantization, ICLR 2020, section 3).
    """
    if gain is None:
        gain = lsq_gain(x.numel() // max(1, scale.numel()), float(high.max()))
    result: torch.Tensor = _Step.apply(x, scale, v, low, high, gain)
    return result


def lsq_gain(elements: int, largest: float) -> float:
    """1 / sqrt(N Qp): as much as weights and scales differ in the size of their gradients."""
    return 1 / math.sqrt(max(1.0, elements * largest))


def lsq_start(x: torch.Tensor, largest: float) -> torch.Tensor:
    """LSQ's first step, 2 mean |x| / sqrt(Qp)."""
    return 2 * x.detach().abs().mean() / math.sqrt(largest)


def to_numpy(x: torch.Tensor) -> Array:
    """float32 values on the host, without gradient."""
    return x.detach().to("cpu", torch.float32).numpy()


def to_torch(values: Array, like: torch.Tensor) -> torch.Tensor:
    """An array on the device of `like`, int16 and floats as they are."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
