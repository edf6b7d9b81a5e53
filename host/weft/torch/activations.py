"""Activations during training: codes of 1 to 8 bits with a learned step, and BiT's binarization."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from weft import activation
from weft.errors import UsageError
from weft.format import SMALLEST_SCALE
from weft.graph import Array, Quant
from weft.lowbit import binary
from weft.lower.activations import intermediate
from weft.torch.gradients import learned_step, lsq_gain, straight_through, to_numpy, to_torch

EMA = 0.9  # of the range so far; the rest is the new batch
CANDIDATES = 40  # ranges that are tried for the least squared error
SAMPLED = 1 << 16  # elements of a batch that they are tried on
NO_RANGE = "an activation has no range yet: call weft.torch.calibrate first"


class ActivationQuant(nn.Module):
    """Rounds to codes per tensor, real = scale (q - zero_point), in a format of `weft.activation`.

    intN and uintN are affine; the values of flint4, pot4, ternary, binary and their like are codes
    themselves, with zero point 0, and are found in two steps as on the accelerator. The range is
    an exponential moving average of what is observed (Jacob et al., CVPR 2018), for fewer than 8
    bits the part of it with the least squared error. After that `factor`, which multiplies the
    scale, is learned by LSQ: being relative, it fits the weights' learning rate in Adam. Raises
    UsageError for an unknown format.
    """

    base: torch.Tensor
    zero_point: torch.Tensor
    span: torch.Tensor

    def __init__(self, kind: str = "int8") -> None:
        super().__init__()
        self.kind = activation.check(kind)
        self.low, self.high = activation.limits(kind)
        self.observing = False
        self.factor = nn.Parameter(torch.ones(()))
        self.register_buffer("base", torch.zeros(()))  # 0: no range yet
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_buffer("span", torch.zeros(2))

    def scale(self) -> torch.Tensor:
        """The step, float32, at least weft's smallest."""
        return (self.base * self.factor.float()).clamp_min(SMALLEST_SCALE)

    @property
    def ready(self) -> bool:
        """Whether a range has been observed."""
        return bool(self.base > 0)

    def observe(self, x: torch.Tensor) -> None:
        """Takes a batch into the moving average, and sets scale and zero point from it."""
        seen = torch.stack((x.detach().min().clamp_max(0), x.detach().max().clamp_min(0))).float()
        self.span.copy_(EMA * self.span + (1 - EMA) * seen if self.ready else seen)
        low, high = (float(v) for v in self.span)
        quant = activation.affine(low, high, self.kind)
        if self.kind != "int8":
            quant = self._least_error(to_numpy(x).reshape(-1)[:SAMPLED], low, high)
        self.base.fill_(float(quant.scale))
        self.zero_point.fill_(quant.zero_point)
        with torch.no_grad():
            self.factor.fill_(1.0)

    def _least_error(self, x: Array, low: float, high: float) -> Quant:
        """Few codes don't pay for outliers: the shrunk range with the least squared error."""
        tried = [
            activation.affine(low * part, high * part, self.kind)
            for part in np.arange(CANDIDATES, 0, -1) / CANDIDATES
        ]
        errors = [float(np.square(x - q.dequantize(q.quantize(x))).mean()) for q in tried]
        return tried[int(np.argmin(errors))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as its codes stand for; unrounded while ranges are observed."""
        if self.observing:
            self.observe(x)
            return x
        if not self.ready:
            if not self.training:
                raise UsageError(NO_RANGE)
            self.observe(x)
        scale, zero = self.scale(), self.zero_point.float()
        low, high = self.low - zero, self.high - zero
        if self.kind in activation.INTEGERS:  # in float32, as Quant.quantize does
            v = torch.clamp(torch.round(x.detach().float() / scale.detach()), low, high)
        else:
            v = to_torch(self._looked_up(to_numpy(x)), x)
        return learned_step(x, scale, v, low, high, lsq_gain(x[0].numel(), float(high)))

    def _looked_up(self, x: Array) -> Array:
        """Values of a grid as the accelerator finds them: int8 codes of a finer scale, a table."""
        fine, table = intermediate(self.quant())
        assert table is not None, "formats that are not uniform have one"
        return table[fine.quantize(x).astype(np.int16) + 128]

    def quant(self) -> Quant:
        """Scale, zero point and format for the quantized graph."""
        if not self.ready:
            raise UsageError(NO_RANGE)
        scale = to_numpy(self.scale()).reshape(())
        return Quant(scale, int(self.zero_point), format=self.kind)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return self.kind


class ElasticBinary(nn.Module):
    """BiT's binary activations with learned alpha and beta (Liu et al., NeurIPS 2022).

    sign(x - beta) alpha, or with `unit` clip(round((x - beta) / alpha), 0, 1) alpha. The forms
    that run on the accelerator are `prepare(activations="binary")` and "binary01". sign(0) is
    +1. Values are those of `weft.lowbit.binary.elastic`; gradients pass within alpha of beta.
    """

    def __init__(self, unit: bool = False, alpha: float = 1.0, beta: float = 0.0) -> None:
        super().__init__()
        self.unit = unit
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.beta = nn.Parameter(torch.tensor(float(beta)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` binarized."""
        alpha = self.alpha.clamp_min(SMALLEST_SCALE)
        moved = x - self.beta
        ratio = (moved / alpha).detach()
        steps = float(alpha.detach()), float(self.beta.detach())
        found = binary.elastic(to_numpy(x), *steps, self.unit)
        signs = to_torch(np.rint(found / steps[0]).astype(np.int8), x)
        low = torch.zeros((), device=x.device) if self.unit else -torch.ones((), device=x.device)
        one = torch.ones((), device=x.device)
        if self.unit:
            return learned_step(moved, alpha, signs, low, one, 1 / x[0].numel() ** 0.5)
        return straight_through(moved / alpha, signs, ratio.abs() <= 1) * alpha
