"""Variations of images, of which a teacher says what they show: no labels have to survive them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

SMALLEST_BOX, LARGEST_BOX = 0.25, 0.75  # of the sides, of what CutMix exchanges


@dataclass(frozen=True)
class Augment:
    """Shifted, mirrored and mixed samples [n, ...]; only images [n, c, h, w] are moved.

    `shift`: share of the sides by which images move at most, borders reflected; `flip`: whether
    half of them are mirrored. A batch is blended with itself in another order with the probability
    `mix` (Zhang et al., mixup, ICLR 2018), else gets boxes of it with the probability `cut` (Yun et
    al., CutMix, ICCV 2019).
    """

    shift: float = 0.125
    flip: bool = True
    mix: float = 0.5
    cut: float = 0.25

    def __call__(self, samples: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A variation of each sample; the same one for the same state of `generator`."""
        images = samples.dim() == 4
        if images and self.shift:
            samples = shifted(samples, self.shift, generator)
        if images and self.flip:
            mirrored = torch.rand(len(samples), generator=generator) < 0.5
            samples = torch.where(mirrored[:, None, None, None], samples.flip(3), samples)
        drawn = float(torch.rand((), generator=generator))
        other = samples[torch.randperm(len(samples), generator=generator)]
        if drawn < self.mix:
            share = torch.rand(len(samples), generator=generator) / 2
            share = share.reshape(-1, *[1] * (samples.dim() - 1))
            return samples * (1 - share) + other * share
        if images and drawn < self.mix + self.cut:
            return exchanged(samples, other, generator)
        return samples


def shifted(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Images moved by up to `share` of their sides in any direction, borders reflected."""
    height, width = images.shape[2:]
    y, x = (min(round(share * side), side - 1) for side in (height, width))
    padded = functional.pad(images, (x, x, y, y), mode="reflect")
    rows = torch.randint(2 * y + 1, (len(images),), generator=generator).tolist()
    cols = torch.randint(2 * x + 1, (len(images),), generator=generator).tolist()
    moved = [
        image[:, i : i + height, j : j + width]
        for image, i, j in zip(padded, rows, cols, strict=True)
    ]
    return torch.stack(moved)


def exchanged(
    images: torch.Tensor, other: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """`images` with one box, in the same place of all, of `other`."""
    part = SMALLEST_BOX + float(torch.rand((), generator=generator)) * (LARGEST_BOX - SMALLEST_BOX)
    found = images.clone()
    begins, ends = [], []
    for side in images.shape[2:]:
        size = max(1, round(part * side))
        begins.append(int(torch.randint(side - size + 1, (), generator=generator)))
        ends.append(begins[-1] + size)
    box = (..., slice(begins[0], ends[0]), slice(begins[1], ends[1]))
    found[box] = other[box]
    return found
