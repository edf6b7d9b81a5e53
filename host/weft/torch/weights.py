"""Weights during training: every number format, ternary and binary rules, the integer bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from weft import formats
from weft.errors import UsageError, unknown
from weft.format import SMALLEST_SCALE, Format
from weft.graph import Array, Quant
from weft.lowbit import binary, ternary
from weft.passes.attach import LARGEST_SUM, Weights
from weft.torch.activations import ActivationQuant
from weft.torch.gradients import learned_step, straight_through, to_numpy, to_torch

# name → codes and scale of weights [N, ...] per channel, and the formats that can hold them
RULES: dict[str, tuple[Callable[[Array], tuple[Array, Array]], tuple[str, ...]]] = {
    "twn": (lambda w: ternary.twn(w, True), ("ternary", "ternary2")),
    "lat": (lambda w: ternary.lat(w, per_channel=True), ("ternary", "ternary2")),
    "bitnet": (lambda w: ternary.bitnet(w, True), ("ternary", "ternary2")),
    "mean": (lambda w: binary.binarize(w, True), ("binary",)),
    "bit": (lambda w: binary.binarize(w, True, centred=True), ("binary",)),
}
METHODS = ("lsq", "refit", *RULES)
HUGE = np.float32(2.0**40)  # of a scale: beyond the last value of every format


class WeightQuant(nn.Module):
    """Rounds weights [N, I, *taps] to a number format; `forward` is differentiable.

    The values are those of the format's `quantize` in numpy, equal in every bit. `method`:

    - "lsq": the scale per output channel starts at the format's least squared error and is
      learned through `factor`, which multiplies it. Formats whose groups carry bytes, and
      asymmetric ones, take "refit" instead.
    - "refit": the format's `fit` on every call, from the largest magnitude.
    - "twn", "lat", "bitnet" (ternary), "mean", "bit" (binary): `weft.lowbit`, on every call.

    Raises UsageError for unknown formats and methods and for a method its format can't hold.
    """

    def __init__(self, weight: torch.Tensor, kind: str = "int4", method: str = "lsq") -> None:
        super().__init__()
        self.format: Format = formats.parse(kind)
        if method not in METHODS:
            raise UsageError(unknown("training method", method, METHODS))
        if method in RULES and self.format.name not in RULES[method][1]:
            raise UsageError(
                f"method {method!r} gives weights for {' or '.join(RULES[method][1])}, not for "
                f"{kind!r}"
            )
        # Scales that are no number per channel, or always 1, can't be learned.
        grouped = self.format.group or self.format.asymmetric or self.format.name == "bf16"
        self.kind, self.method = kind, "refit" if method == "lsq" and grouped else method
        channels = weight.shape[0]
        self.factor = nn.Parameter(torch.ones(channels), requires_grad=self.method == "lsq")
        self.register_buffer("base", torch.ones(channels))
        self.mask: torch.Tensor | None
        self.register_buffer("mask", None)
        self.sparsity = "dense"
        self._start: Quant | None = None
        self._ends: tuple[float, float] | None = None
        if self.method == "lsq":
            self.refit(weight)

    def refit(self, weight: torch.Tensor) -> None:
        """Starts the learned scales (and a codebook) anew from `weight`."""
        quant = self.format.fit(to_numpy(_canonical(weight)), 0, method="mse")
        self._start = quant
        channels = self.factor.numel()
        self.base.copy_(torch.from_numpy(np.broadcast_to(quant.scale, (channels,)).copy()))
        with torch.no_grad():
            self.factor.fill_(1.0)

    def prune(self, mask: torch.Tensor, sparsity: str) -> None:
        """Weights outside `mask` [N, I, *taps] are 0 from now on. Raises UsageError without a 0."""
        if self.format.grid is not None and not np.any(self.format.grid == 0):
            raise UsageError(f"{self.format.name} has no 0 for pruned weights: leave them dense")
        self.mask, self.sparsity = mask, sparsity

    def _pruned(self, weight: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            return weight
        return torch.where(self.mask, weight, torch.zeros_like(weight))

    def scale(self) -> torch.Tensor:
        """Learned scales (N,), float32, at least weft's smallest."""
        return (self.base * self.factor.float()).clamp_min(SMALLEST_SCALE)

    def quantized(self, weight: torch.Tensor) -> Weights:
        """Operands [N, taps, I] and quant of `weight`: what the array multiplies with."""
        x = to_numpy(_canonical(self._pruned(weight)))
        if self.method in RULES:
            codes, scale = RULES[self.method][0](x)
            scale = np.maximum(scale, np.float32(SMALLEST_SCALE))
            return Weights(codes, Quant(scale, axis=0, format=self.format.name))
        quant = self._quant(x)
        operands = self.format.quantize(x, quant)
        if self.method == "refit" and operands.dtype.kind != "f":
            operands, quant = self._bounded(x, operands, quant)
        return Weights(operands, quant)

    def _bounded(self, x: Array, operands: Array, quant: Quant) -> tuple[Array, Quant]:
        """With larger scales where sums of products with int8 codes could leave int32."""
        while True:
            wide = np.abs(operands.astype(np.int64)).sum(axis=(1, 2)) > LARGEST_SUM
            if not wide.any():
                return operands, quant
            scale = np.where(wide, quant.scale * np.float32(1.5), quant.scale)
            quant = replace(quant, scale=scale)
            operands = self.format.quantize(x, quant)

    def _quant(self, x: Array) -> Quant:
        if self.method == "refit":
            return self.format.fit(x, 0, method="max")
        assert self._start is not None, "refit sets it"
        return replace(self._start, scale=to_numpy(self.scale()), axis=0)

    def scales(self, weight: torch.Tensor) -> Array:
        """Scales of `weight`, (N,) or ()."""
        if self.method == "lsq":
            return to_numpy(self.scale())
        return self.quantized(weight).quant.scale

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` as its operands stand for: scale times operand, float32."""
        weight = self._pruned(weight)  # pruned weights have no gradient
        x = _canonical(weight)
        found = self.quantized(weight)
        v = to_torch(found.operands, x)
        if self.method == "lsq":
            low, high = (torch.tensor(end, device=x.device) for end in self._limits(found))
            result = learned_step(x, self.scale(), v, low, high)
        else:
            values = to_torch(found.quant.dequantize(found.operands), x)
            result = straight_through(x, values, self._inside(x, found))
        return _torch_order(result, weight.shape)

    def _limits(self, found: Weights) -> tuple[float, float]:
        """Smallest and largest operand of the format."""
        if self._ends is None:
            shape = np.ones_like(found.operands, np.float32)
            scale = found.quant.scale.reshape(-1, *[1] * (shape.ndim - 1))
            ends = [self.format.quantize(s * HUGE * shape * scale, found.quant) for s in (-1, 1)]
            self._ends = float(ends[0].min()), float(ends[1].max())
        return self._ends

    def _inside(self, x: torch.Tensor, found: Weights) -> torch.Tensor | None:
        """Where `refit` did not saturate; the rules of RULES let every gradient pass."""
        if self.method in RULES:
            return None
        quant = found.quant
        wide = quant.scale.reshape(-1, *[1] * (x.dim() - 1)) if quant.scale.ndim else quant.scale
        huge = np.broadcast_to(np.maximum(wide, np.abs(to_numpy(x)).max()) * HUGE, x.shape)
        high, low = (
            quant.dequantize(self.format.quantize(np.ascontiguousarray(s * huge), quant))
            for s in (np.float32(1), np.float32(-1))
        )
        return (x <= to_torch(high, x)) & (x >= to_torch(low, x))

    def get_extra_state(self) -> dict[str, object]:
        """What `load_state_dict` needs besides the scales: a codebook."""
        book = self._start.codebook if self._start is not None else None
        return {"codebook": None if book is None else torch.from_numpy(book.copy())}

    def set_extra_state(self, state: dict[str, torch.Tensor | None]) -> None:
        """Takes over a saved codebook."""
        book = state["codebook"]
        if book is not None and self._start is not None:
            self._start = replace(self._start, codebook=book.numpy())

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"{self.kind}, {self.method}"


class BiasQuant(nn.Module):
    """Rounds a bias as the accumulator holds it: int32 units of input scale times weight scale."""

    def __init__(self, layer: nn.Module, source: ActivationQuant) -> None:
        super().__init__()
        # In tuples, so that neither becomes a submodule of this one a second time.
        self._layer, self._source = (layer,), (source,)

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """`bias` in whole units; as it is while ranges are observed."""
        source = self._source[0]
        if source.observing or not source.ready:
            return bias
        weight: Any = self._layer[0].parametrizations["weight"]
        scale = to_numpy(source.scale()) * weight[0].scales(weight.original)
        unit = to_torch(np.asarray(scale, np.float32).astype(np.float64), bias)
        values = torch.round(bias.detach().double() / unit) * unit
        return straight_through(bias, values.to(bias.dtype))


def _canonical(weight: torch.Tensor) -> torch.Tensor:
    """[N, I, *taps] → [N, taps, I]."""
    return weight.reshape(*weight.shape[:2], -1).transpose(1, 2)


def _torch_order(canonical: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    # A copy: else convolutions answer in another memory order, and x.view(...) fails.
    plain = canonical.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return plain.reshape(shape)
