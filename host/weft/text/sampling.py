"""The next token, from scores of all."""

from __future__ import annotations

import math

import numpy as np

from weft.errors import UsageError
from weft.graph import Array


class Sampler:
    """The best token (temperature 0), or one drawn from the nucleus of probability `top_p`
    (Holtzman et al., The Curious Case of Neural Text Degeneration, ICLR 2020).

    Raises UsageError for a temperature below 0 and a top_p outside 0..1.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature = {temperature}: a number from 0 on")
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p = {top_p}: a probability above 0, up to 1")
        if seed is not None and seed < 0:
            raise UsageError(f"seed = {seed}: a number from 0 on")
        self._temperature, self._top_p = temperature, top_p
        self._random = np.random.default_rng(seed)

    def choose(self, logits: Array) -> int:
        """A token, from logits [V]."""
        if self._temperature == 0:
            return int(logits.argmax())
        scaled = np.asarray(logits, np.float64) / self._temperature
        p = np.exp(scaled - scaled.max())
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        kept = order[before < self._top_p]
        chances = p[kept] / p[kept].sum()
        return int(self._random.choice(kept, p=chances))
