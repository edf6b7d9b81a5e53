"""The quantizers of `weft.lowbit.vision` as modules: their values forward, the gradient passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from weft.errors import UsageError
from weft.graph import Array
from weft.lowbit import vision
from weft.torch.gradients import straight_through, to_numpy, to_torch


def _rounded(
    x: torch.Tensor, function: Callable[[Array], Array], inside: torch.Tensor | None = None
) -> torch.Tensor:
    values = np.asarray(function(to_numpy(x)), np.float64)
    return straight_through(x, to_torch(values, x), inside)


class TwinSoftmax(nn.Module):
    """PTQ4ViT's twin ranges for what follows a softmax."""

    def __init__(self, bits: int = 8, shift: int = 4) -> None:
        super().__init__()
        self.twin = vision.TwinSoftmax(bits, shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities as their codes stand for."""
        return _rounded(x, lambda a: self.twin.dequantize(*self.twin.quantize(a)))


class TwinGelu(nn.Module):
    """PTQ4ViT's twin ranges for what follows a GELU; the first batch chooses the positive step."""

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("step", torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations as their codes stand for."""
        if float(self.step) == 0:
            self.step.fill_(vision.twin_gelu(to_numpy(x), self.bits).positive)
        twin = vision.TwinGelu(float(self.step), self.bits)
        return _rounded(x, lambda a: twin.dequantize(twin.quantize(a)))


class PowerOfTwoFactors(nn.Module):
    """FQ-ViT's factor per channel (last axis), chosen by `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: vision.Factors | None = None

    def fit(self, x: torch.Tensor) -> None:
        """Chooses scale, zero point and factors from a batch."""
        self.factors = vision.power_of_two_factors(to_numpy(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations as their codes stand for. Raises UsageError before `fit`."""
        factors = self.factors
        if factors is None:
            raise UsageError("power-of-two factors are not chosen yet: call fit(batch) first")
        return _rounded(x, lambda a: factors.dequantize(factors.quantize(a)))


class LogSoftmax(nn.Module):
    """softmax along the last axis in 4-bit powers of two (FQ-ViT), with softmax's gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities 2**-code or 0 of the scores `x`."""
        values = vision.log_softmax_values(to_numpy(x))
        return straight_through(torch.softmax(x, -1), to_torch(values, x))
