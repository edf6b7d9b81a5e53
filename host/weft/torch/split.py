"""BinaryBERT's ternary weight splitting for torch layers."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from weft.lowbit import binary
from weft.torch.gradients import to_numpy


class Sum(nn.Module):
    """Two layers on the same input, added."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """first(x) + second(x)."""
        return cast(torch.Tensor, self.first(x) + self.second(x))


def split_layer(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Sum:
    """Two layers that add up to `layer`, and whose binary forms to its ternary one.

    The bias stays with the first. Prepare a model with weights="ternary", train it, take this
    layer by layer, and go on with weights="binary", method="mean" (Bai et al., ACL 2021).
    Raises InputError for weights of zero only.
    """
    first, second = copy.deepcopy(layer), copy.deepcopy(layer)
    parts = binary.split(to_numpy(layer.weight))
    for half, part in zip((first, second), parts, strict=True):
        half.weight = nn.Parameter(torch.from_numpy(part).to(layer.weight))
    second.bias = None
    return Sum(first, second)
