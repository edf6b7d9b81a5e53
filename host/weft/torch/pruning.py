"""Masks in training: weights that are pruned step by step, and stay 0 from then on.

Zhu & Gupta, "To Prune, or Not to Prune" (2017): the share of zeros grows as a cubic function of the
step, fast at first. Of the weights that are 0 the gradient is 0 too.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from weft.errors import UsageError, unknown
from weft.pruning import magnitude, masks
from weft.pruning.spec import DENSE, Sparsity, parse
from weft.torch.flattened import channels
from weft.torch.gradients import to_numpy

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class Masked(nn.Module):
    """Multiplies a weight by its mask, which is part of the state that is saved."""

    mask: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.sparsity = "dense"
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def prune(self, mask: torch.Tensor, sparsity: str) -> None:
        """Weights outside `mask` are 0 from now on."""
        self.mask, self.sparsity = mask, sparsity

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its zeros; they have no gradient."""
        return torch.where(self.mask, weight, torch.zeros_like(weight))


class Pruner:
    """Prunes as training goes on: call `step` behind each step of the optimizer.

    `reached` is the share of the final zeros that is in the masks by now, 0..1.
    """

    def __init__(
        self,
        module: nn.Module,
        chosen: Mapping[str, Sparsity],
        steps: int,
        begin: int,
        every: int,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        self.chosen, self.channels = dict(chosen), dict(channels or {})
        self.layers = {name: module.get_submodule(name) for name in chosen}
        self.steps, self.begin, self.every = steps, begin, every
        self.count, self.reached = 0, 0.0
        if steps == 0:
            self._update(1.0)

    def step(self) -> None:
        """One step of training is done."""
        self.count += 1
        done = self.count - self.begin
        if self.reached < 1 and done > 0 and (done % self.every == 0 or done >= self.steps):
            self._update(cubic(done / max(self.steps, 1)))

    def masks(self) -> dict[str, torch.Tensor]:
        """The mask of each layer's weight: True where it stays."""
        return {name: _holder(layer)[0].mask for name, layer in self.layers.items()}

    def finish(self) -> None:
        """The full pattern in all layers; layers that are float get plain weights with zeros."""
        if self.reached < 1:  # else training has gone on with these masks, and they stay
            self._update(1.0)
        for layer in self.layers.values():
            if isinstance(_holder(layer)[0], Masked):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        self.layers = {}

    def _update(self, reached: float) -> None:
        self.reached = reached
        for name, layer in self.layers.items():
            holder, raw = _holder(layer)
            own = self.chosen[name]
            holder.prune(gradual(raw, own, reached, self.channels.get(name)), str(own))


def cubic(progress: float) -> float:
    """Share of the final zeros at `progress` 0..1 of the schedule (Zhu & Gupta, section 3)."""
    return 1 - (1 - min(max(progress, 0.0), 1.0)) ** 3


def gradual(
    weight: torch.Tensor, sparsity: Sparsity, reached: float, channels: int | None = None
) -> torch.Tensor:
    """Mask of a weight [N, I, *taps] with the share `reached` of the zeros of the pattern.

    Of the weights that the full pattern prunes those with the smallest magnitude go first. Inputs
    that are a flattened map have so many `channels`, of which the groups are.
    """
    shape = (len(weight), channels or weight.shape[1], -1)
    canonical = to_numpy(weight.detach().reshape(shape).transpose(1, 2).contiguous())
    scores = magnitude.scores(canonical)
    kept = masks.select(scores, sparsity)
    if reached < 1:
        gone = (~kept).nonzero()
        order = scores[gone].argsort(kind="stable")[round(len(gone[0]) * reached) :]
        kept[tuple(axis[order] for axis in gone)] = True
    own = torch.from_numpy(kept).to(weight.device).transpose(1, 2)
    return own.reshape(weight.shape)


def _holder(layer: nn.Module) -> tuple[Any, torch.Tensor]:
    """What holds a layer's mask, and its weight without zeros."""
    found: Any = layer.parametrizations["weight"]
    return found[0], found.original.detach()


def prune(
    module: nn.Module,
    sparsity: str | Sparsity = "2:4",
    plan: Mapping[str, str | Sparsity] | None = None,
    *,
    steps: int = 0,
    begin: int = 0,
    every: int = 1,
    example: torch.Tensor | None = None,
) -> Pruner:
    """Masks on the weights of the Conv1d, Conv2d and Linear of `module`, which is changed.

    The masks are complete `steps` optimizer steps after `begin` and are renewed `every` so many
    until then; with 0 steps they are complete at once, by the magnitude of the weights as they
    are. `plan` names another sparsity for layers by their name or a pattern such as
    "blocks.*.fc1". Depthwise convolutions, and layers with fewer input channels than a group of
    N:M has, stay dense. A module of `weft.torch.prepare` keeps its masks, and `export` their zeros;
    a float module needs `finish` before it is prepared, exported or compiled.

    Behind a flattened map groups are of channels, as in the compiler. `example`, a batch of inputs,
    tells how many there are; without it those of the convolution that the map comes from.

    Raises UsageError for unknown names, for steps that are negative, and for a flattened map whose
    channels only an example can tell.
    """
    if min(steps, begin) < 0 or every < 1:
        raise UsageError(
            f"steps {steps}, begin {begin} and every {every}: 0 or more, 0 or more, 1 or more"
        )
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS)}
    chosen = dict.fromkeys(found, parse(sparsity))
    for pattern, text in (plan or {}).items():
        matched = [name for name in found if fnmatchcase(name, pattern)]
        if not matched:
            raise UsageError(unknown("layer", pattern, found))
        chosen |= dict.fromkeys(matched, parse(text))
    maps = channels(module, example) if any(s.structured for s in chosen.values()) else {}
    kept = {n: own for n, own in chosen.items() if _able(found[n], own, maps.get(n))}
    for name in kept:
        layer = found[name]
        weight = layer.weight
        assert isinstance(weight, torch.Tensor), "layers have weights"
        if not parametrize.is_parametrized(layer, "weight"):
            parametrize.register_parametrization(layer, "weight", Masked(weight))
    return Pruner(module, kept, steps, begin, every, maps)


def _able(layer: nn.Module, sparsity: Sparsity, channels: int | None) -> bool:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor), "layers have weights"
    groups = getattr(layer, "groups", 1)
    if sparsity == DENSE or (groups > 1 and weight.shape[1] == 1):
        return False
    return not (sparsity.structured and (channels or weight.shape[1]) < sparsity.m)
