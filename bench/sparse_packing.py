"""Packing speed of sparse formats: int8 matrices to packed arrays, against scipy and plain numpy.

Both sides give the same arrays, which is looked at before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from weft.sparse import SPARSE
from weft.sparse.eie import load
from weft.sparse.nonzeros import sorted_by_column

from .row import Row, absent, at_most, interleaved

SIZE, DENSITY, EIE_DENSITY, PES = 4096, 0.10, 0.09, 64
LEAST = 3  # times as fast as the peer
EIE_MS = 500


def random(density: float, largest: int) -> np.ndarray:
    """Values 1..largest in random places."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, largest + 1, (SIZE, SIZE))
    return np.where(rng.random((SIZE, SIZE)) < density, values, 0).astype(np.int8)


def two_of_four() -> np.ndarray:
    """Two values of 1..127 in random places of each group of four columns."""
    rng = np.random.default_rng(0)
    groups = rng.integers(1, 128, (SIZE, SIZE // 4, 4)).astype(np.int8)
    places = np.argsort(rng.random(groups.shape), axis=2)[..., :2]
    np.put_along_axis(groups, places, 0, axis=2)
    return groups.reshape(SIZE, SIZE)


def by_argpartition(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and metadata of 2:4 in a few lines of numpy on the whole matrix."""
    groups = matrix.reshape(-1, 4)
    places = np.argpartition(-np.abs(groups), 1, axis=1)[:, :2]
    places.sort(axis=1)
    values = np.take_along_axis(groups, places, axis=1).reshape(SIZE, -1)
    nibbles = (places[:, 0] | places[:, 1] << 2).reshape(SIZE, -1, 8)
    words = (nibbles << np.arange(0, 32, 4)).sum(axis=2)
    return values, words.astype(np.uint32).view(np.int32)


def by_masking(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and bits of a bitmask in two lines of numpy."""
    return matrix[matrix != 0], np.packbits(matrix != 0, axis=1, bitorder="little")


def compared(metric: str, ours: Callable, peer: Callable, target: int | None = None) -> Row:
    """Milliseconds of both; `target`: times as fast as the peer."""
    mine, theirs = (1e3 * s for s in interleaved(ours, peer))
    title = f"{metric}, {theirs / mine:.1f} times as fast"
    words = "" if target is None else f"≥ {target} times as fast"
    met = None if target is None else theirs / mine >= target
    return Row(title, round(mine, 1), round(theirs, 1), "ms", words, met)


def scipy_rows(matrix: np.ndarray) -> list[Row]:
    """CSC and CSR from a dense matrix, scipy's constructors the peers."""
    try:
        from scipy import sparse
    except ImportError:
        return [absent("dense to CSC", "scipy is not installed", "ms")]
    made = []
    for name, minor, peer, target in (
        ("csc", "rows", sparse.csc_matrix, LEAST),
        ("csr", "columns", sparse.csr_matrix, None),
    ):
        found, theirs = SPARSE[name].pack(matrix), peer(matrix)
        np.testing.assert_array_equal(found.values, theirs.data)
        np.testing.assert_array_equal(found.arrays[minor], theirs.indices)
        title = f"dense to {name}, {SIZE}x{SIZE}, {DENSITY:.0%} (peer: scipy)"
        pack = SPARSE[name].pack
        made.append(compared(title, lambda p=pack: p(matrix), lambda p=peer: p(matrix), target))
    title = f"dense to csc without a compiler, {SIZE}x{SIZE}, {DENSITY:.0%} (peer: scipy)"
    plain = compared(title, lambda: sorted_by_column(matrix), lambda: sparse.csc_matrix(matrix))
    return [*made, plain]


def eie_row(matrix: np.ndarray) -> Row:
    """EIE's entries for 64 PEs; what padding and balance they have."""
    pack = SPARSE["eie"].pack
    facts = load(pack(matrix, pes=PES))
    (seconds,) = interleaved(lambda: pack(matrix, pes=PES))
    title = f"dense to eie, {SIZE}x{SIZE}, {EIE_DENSITY:.0%}, {PES} PEs"
    facts_said = f"{facts.padding:.2f} entries per non-zero, balance {facts.balance:.3f}"
    return at_most(f"{title}; {facts_said}", round(1e3 * seconds, 1), EIE_MS, "ms")


def rows(folder, data) -> list[Row]:
    """One row per format that has a peer or a target."""
    matrix, half = random(DENSITY, 127), two_of_four()
    found = SPARSE["2:4"].pack(half)
    values, words = by_argpartition(half)
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.arrays["metadata"], words)
    masked = SPARSE["bitmask"].pack(matrix)
    for one, other in zip((masked.values, masked.arrays["mask"]), by_masking(matrix), strict=True):
        np.testing.assert_array_equal(one, other)
    size = f"{SIZE}x{SIZE}"
    return [
        *scipy_rows(matrix),
        compared(
            f"dense to 2:4, {size} (peer: numpy argpartition)",
            lambda: SPARSE["2:4"].pack(half), lambda: by_argpartition(half), LEAST,
        ),
        compared(
            f"dense to bitmask, {size}, {DENSITY:.0%} (peer: numpy masks)",
            lambda: SPARSE["bitmask"].pack(matrix), lambda: by_masking(matrix),
        ),
        eie_row(random(EIE_DENSITY, 15)),
    ]  # fmt: skip
