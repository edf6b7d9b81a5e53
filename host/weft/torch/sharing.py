"""Shared weights in training: only the centroids move (Han et al., Deep Compression, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from weft.pruning import share as clusters
from weft.torch.gradients import to_numpy
from weft.torch.pruning import LAYERS


class SharedWeight(nn.Module):
    """A weight made of centroids: each one's gradient is the sum of its weights'. Zeros stay."""

    indices: torch.Tensor

    def __init__(self, weight: torch.Tensor, bits: int) -> None:
        super().__init__()
        made = clusters.share(to_numpy(weight.detach()), bits)
        self.register_buffer("indices", torch.from_numpy(made.indices.astype("int64")))
        self.centroids = nn.Parameter(torch.from_numpy(made.codebook[1:]).to(weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The centroids in the places of the weights; `weight` itself counts no more."""
        book = torch.cat([self.centroids.new_zeros(1), self.centroids])
        return book[self.indices]


def share(module: nn.Module, bits: int = 4) -> list[nn.Parameter]:
    """Clusters the weights of each Conv1d, Conv2d and Linear of `module`, which is changed.

    Returns the centroids [2^bits - 1] of each layer, which the optimizer gets. `unshare` makes the
    weights plain again. Raises UsageError for bits outside 1..8, MissingDependency without scipy.
    """
    found = []
    for layer in list(module.modules()):
        if isinstance(layer, LAYERS) and not parametrize.is_parametrized(layer, "weight"):
            weight = layer.weight
            assert isinstance(weight, torch.Tensor), "layers have weights"
            shared = SharedWeight(weight, bits)
            parametrize.register_parametrization(layer, "weight", shared)
            found.append(shared.centroids)
    return found


def unshare(module: nn.Module) -> None:
    """Plain weights with the values that the centroids have now."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            held: Any = layer.parametrizations["weight"]
            if isinstance(held[0], SharedWeight):
                with torch.no_grad():
                    held.original.copy_(held[0](held.original))
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
