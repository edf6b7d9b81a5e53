"""Matrices for tests of sparse formats: of any density, and made to fit each format's pattern."""

from __future__ import annotations

from typing import Any

import numpy as np

Options = dict[str, Any]


def random(seed: int, shape: tuple[int, int], density: float, dtype: Any = np.int8) -> np.ndarray:
    """Integers of the whole range, extremes among them, with a share of non-zeros."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
    values[values == 0] = 1
    values[rng.random(shape) < 0.05] = info.min
    return np.where(rng.random(shape) < density, values, 0).astype(dtype)


def as_nm(matrix: np.ndarray, n: int = 2, m: int = 4) -> np.ndarray:
    """The first n non-zeros of each group of m columns; the rest is 0."""
    made = matrix.copy()
    for row in made:
        for first in range(0, len(row), m):
            group = row[first : first + m]
            group[np.flatnonzero(group)[n:]] = 0
    return made


def as_venom(matrix: np.ndarray, v: int = 32, m: int = 8) -> np.ndarray:
    """Up to four columns of each block, spread over it, and two non-zeros of a row in them."""
    made = matrix.copy()
    rng = np.random.default_rng(matrix.size)
    for top in range(0, len(made), v):
        for left in range(0, made.shape[1], m):
            block = made[top : top + v, left : left + m]
            kept = np.sort(rng.permutation(block.shape[1])[:4])
            block[:, np.setdiff1d(np.arange(block.shape[1]), kept)] = 0
            for row in block:
                row[np.flatnonzero(row)[2:]] = 0
    return made


def as_eie(matrix: np.ndarray) -> np.ndarray:
    """Values of 15 different non-zeros at most, int16."""
    few = (matrix.astype(np.int16) % 15 + 1) * 1000 - 8000
    return np.where(matrix != 0, np.where(few == 0, 7001, few), 0).astype(np.int16)


def fitting(name: str, matrix: np.ndarray, options: Options) -> np.ndarray:
    """The matrix, changed as far as the format of that name asks for."""
    if name in ("nm", "2:4"):
        return as_nm(matrix, **options)
    if name == "venom":
        return as_venom(matrix, **options)
    return as_eie(matrix) if name == "eie" else matrix


OPTIONS: dict[str, list[Options]] = {
    "nm": [{}, {"n": 1, "m": 2}, {"n": 3, "m": 5}, {"n": 4, "m": 8}, {"n": 7, "m": 16}],
    "venom": [{}, {"v": 1, "m": 5}, {"v": 3, "m": 7}, {"v": 64, "m": 16}],
    "eie": [{}, {"pes": 1}, {"pes": 3}, {"pes": 4}],
    "eie8": [{}, {"pes": 1}, {"pes": 3, "index_bits": 4}, {"pes": 4, "index_bits": 1}],
}
