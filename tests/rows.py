"""Rows that the tests of softmax and of the norms share: random, extreme, degenerate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from weft.units.softmax import MASKED

LENGTHS = (1, 2, 7, 32, 33, 64, 197, 384, 1024)
Rows = NDArray[np.int64]


def scores(n: int, seed: int = 0) -> Iterator[tuple[str, Rows]]:
    """Named softmax rows [rows, n] in Q5.10."""
    rng = np.random.default_rng((seed, n))
    for sigma in (0.5, 1, 4, 16):
        x = rng.normal(0, sigma * 1024, (12, n))
        yield f"sigma {sigma}", np.clip(x, -32767, 32767).astype(np.int64)
    yield "any code", rng.integers(-32768, 32768, (12, n))
    yield "extremes", rng.choice(np.array([-32768, -32767, 0, 32767]), (12, n))
    yield "equal", np.repeat(np.array([[-32767], [0], [123], [32767]]), n, 1)
    yield "one-hot", _with_one(n, 10000, np.array([-20000, 9000, 0]))
    # Many small ones: each e is rounded, the sum of what is lost is what counts.
    yield "tails", _with_one(n, 0, -np.arange(512, 16 << 10, 509))
    masked = np.clip(rng.normal(0, 2048, (12, n)), -32767, 32767).astype(np.int64)
    masked[:, n // 2 + 1 :] = MASKED
    yield "masked", masked
    yield "masked below low scores", np.where(masked == MASKED, MASKED, masked // 8 - 30000)
    yield "all masked", np.full((2, n), MASKED)
    yield "close", close(rng, n)


def close(rng: np.random.Generator, n: int, count: int = 64) -> Rows:
    """Rows whose two largest scores differ by 1 to 64 codes."""
    x = np.clip(rng.normal(0, 2048, (count, n)), -20000, 20000).astype(np.int64)
    top = x.max(-1) + 1
    x[:, 0] = top
    if n > 1:
        x[:, 1] = top - 1 - np.arange(count) % 64
    return x


def _with_one(n: int, top: int, others: Rows) -> Rows:
    x = np.repeat(others[:, None], n, 1)
    x[:, n // 2] = top
    return x


def elements(n: int, seed: int = 0) -> Iterator[tuple[str, Rows]]:
    """Named rows [rows, n] of int16 for the norms."""
    rng = np.random.default_rng((seed, n))
    for sigma in (1, 3, 20, 100, 1000, 8000):
        for mean in (0, 5000):
            x = rng.normal(mean, sigma, (6, n))
            yield f"sigma {sigma} mean {mean}", np.clip(x, -32768, 32767).astype(np.int64)
    yield "any code", rng.integers(-32768, 32768, (6, n))
    yield "extremes", rng.choice(np.array([-32768, 32767]), (6, n))
    yield "equal", np.repeat(np.array([[-32768], [0], [77], [32767]]), n, 1)
    yield "one-hot", _with_one(n, 32767, np.array([-32768, 0, 32766]))
