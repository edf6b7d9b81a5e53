"""Bias and scale with which requantization puts every step of a staircase where it belongs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.units import requant

Int = NDArray[np.int64]
Real = NDArray[np.float64]
MODE = "single_round"
REACH = 48  # whole numbers on both sides of the estimated bias that are tried, at least


@dataclass(frozen=True)
class Staircase:
    """`steps` [channels, n]: the smallest sum that is past each step (last + 1: none is).

    `heights` [n]: what the scaled sum reaches there, in steps of the output; `first` and `last`
    [channels] bound the sums that occur; `low` is the level below all steps.
    """

    steps: Int
    heights: Real
    first: Int
    last: Int
    low: int = 0


def fit(stairs: Staircase, factor: int = 1) -> tuple[Int, Real] | None:
    """(bias, scale) per channel, for sums that are multiplied by `factor`; None if there is none.

    Requantization in mode single_round of (factor · sum + bias) · scale then passes every step
    exactly at the sum that `stairs` says, for every sum from first to last. The result is checked
    with `units.requant` itself.
    """
    estimate = _estimate(stairs, factor)
    candidates = estimate[:, None] + _order(max(REACH, 2 * factor))[None]
    low, high = _bounds(stairs, candidates, factor)
    # float32 keeps 2**-24: what is open by less can't be hit.
    width = 1 - low / np.where(high > 0, high, 1)
    good = (high > 0) & (width > 2.0**-21)
    if not good.any(axis=1).all():
        return None
    best = np.argmax(np.where(good, np.minimum(width, 0.5), -1), axis=1)
    rows = np.arange(len(best))
    bias = candidates[rows, best]
    lo, hi = low[rows, best], high[rows, best]
    scale = np.where(np.isinf(hi), np.maximum(2 * lo, 1), (lo + np.minimum(hi, 1e30)) / 2)
    if (np.abs(bias) >= 1 << 30).any() or (scale >= 1 << 20).any() or (scale < 2.0**-30).any():
        return None
    return (bias, scale) if holds(stairs, bias, scale, factor) else None


def _order(reach: int) -> Int:
    """0, 1, -1, 2, -2, ..."""
    n = np.arange(1, 2 * reach + 2)
    return np.asarray(np.where(n % 2, -(n // 2), n // 2))


def _estimate(stairs: Staircase, factor: int) -> Int:
    """The bias of the line through the middle of the steps that are there."""
    steps, heights = stairs.steps, stairs.heights
    found = (steps > stairs.first[:, None]) & (steps <= stairs.last[:, None])
    count = found.sum(axis=1)
    head = np.argmax(found, axis=1)
    tail = steps.shape[1] - 1 - np.argmax(found[:, ::-1], axis=1)
    rows = np.arange(len(steps))
    run = (steps[rows, tail] - steps[rows, head]) * factor
    rise = heights[tail] - heights[head]
    slope = np.where(run > 0, rise / np.maximum(run, 1), 2.0 * np.maximum(count, 1) / factor)
    # One step alone: so flat that its neighbours lie beyond the sums that occur.
    only = steps[rows, head]
    reach = np.maximum(np.maximum(stairs.last - only, only - stairs.first), 1) + 1
    slope = np.where(count == 1, 0.5 / (factor * reach), slope)
    centre = (steps[rows, head] + steps[rows, tail]) / 2.0 * factor - factor / 2
    bias = (heights[head] + heights[tail]) / 2 / slope - centre
    # A channel without steps: a small slope far from every height but the one it stands on.
    passed = (steps <= stairs.first[:, None]).sum(axis=1)
    middle = np.concatenate([heights[:1] - 0.5, heights + 0.5])[passed]
    size = factor * np.maximum(np.maximum(np.abs(stairs.first), np.abs(stairs.last)), 1)
    bias = np.where(count == 0, middle * 4 * size, bias)
    return np.asarray(np.rint(bias), np.int64)


def _bounds(stairs: Staircase, bias: Int, factor: int) -> tuple[Real, Real]:
    """Open interval of scales that satisfy every step, [channels, candidates]."""
    low = np.zeros(bias.shape)
    high = np.full(bias.shape, np.inf)
    first, last = stairs.first[:, None], stairs.last[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        for k, height in enumerate(stairs.heights):
            step = stairs.steps[:, k : k + 1]
            at = (np.minimum(np.maximum(step, first), last) * factor + bias).astype(np.float64)
            below = ((np.minimum(step, last + 1) - 1) * factor + bias).astype(np.float64)
            ratio, ratio_below = height / at, height / below
            # at · scale >= height, where the step is passed by some sum
            need = step <= last
            low = np.where(need & (at > 0), np.maximum(low, ratio), low)
            high = np.where(need & (at < 0), np.minimum(high, ratio), high)
            high = np.where(need & (at == 0) & (height > 0), -1, high)
            # below · scale < height, where some sum is below it
            need = step > first
            high = np.where(need & (below > 0), np.minimum(high, ratio_below), high)
            low = np.where(need & (below < 0), np.maximum(low, ratio_below), low)
            high = np.where(need & (below == 0) & (height < 0), -1, high)
    return low, high


def holds(stairs: Staircase, bias: Int, scale: Real, factor: int = 1, mode: str = MODE) -> bool:
    """Whether the hardware's arithmetic passes every step where it should."""
    q, s = requant.encode(scale.astype(np.float32), mode)
    first, last = stairs.first[:, None], stairs.last[:, None]
    wanted = np.ceil(stairs.heights)[None]  # past k - 0.5 is k
    at = np.clip(stairs.steps, first, last)
    below = np.clip(stairs.steps - 1, first, last)

    def level(sums: Int) -> Int:
        shifted = sums * factor + bias[:, None]
        if np.abs(shifted).max(initial=0) >= 1 << 31:
            return np.full(sums.shape, -(1 << 40))
        return requant.requantize(shifted, q[:, None], s[:, None], mode)

    past = np.where(stairs.steps <= last, level(at) >= wanted, True)
    before = np.where(stairs.steps > first, level(below) < wanted, True)
    return bool(past.all() and before.all())
