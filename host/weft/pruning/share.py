"""Weight sharing: weights that were not pruned take one of a few values (k-means).

Han et al., "Deep Compression" (ICLR 2016), section 3: centroids start equally spaced between the
smallest and the largest non-zero weight, which keeps the few large ones; they are trained with the
summed gradient of their weights. Index 0 is the value 0, so of 2^b codes 2^b - 1 are centroids.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import MissingDependency, UsageError
from weft.graph import Array

BITS = (1, 8)
ROUNDS = 30


@dataclass(frozen=True)
class Shared:
    """Indices (uint8, shape of the weights) into a codebook [2^b] whose first value is 0."""

    indices: NDArray[np.uint8]
    codebook: NDArray[np.float32]

    @property
    def weights(self) -> NDArray[np.float32]:
        """What the indices stand for."""
        return self.codebook[self.indices]

    def gradient(self, gradient: Array) -> NDArray[np.float64]:
        """Of each codebook value: the sum over its weights of `gradient`; that of 0 is 0."""
        size = len(self.codebook)
        flat = np.asarray(gradient, np.float64).reshape(-1)
        summed = np.bincount(self.indices.reshape(-1), flat, size)
        summed[0] = 0  # pruned weights stay pruned
        return np.asarray(summed)

    def stepped(self, gradient: Array, rate: float) -> Shared:
        """One step of gradient descent on the centroids, for the weights' `gradient`."""
        moved = self.codebook - rate * self.gradient(gradient)
        return Shared(self.indices, moved.astype(np.float32))


def share(weights: Array, bits: int = 4) -> Shared:
    """Clusters the non-zero `weights` into 2^bits - 1 values; zeros stay 0.

    Raises UsageError for bits outside 1..8, MissingDependency without scipy.
    """
    if not BITS[0] <= bits <= BITS[1]:
        raise UsageError(f"{bits} bits of sharing: {BITS[0]} to {BITS[1]} are possible")
    try:
        from scipy.cluster.vq import kmeans2
    except ImportError:
        raise MissingDependency("weight sharing needs scipy: pip install 'weft[compile]'") from None
    real = np.asarray(weights, np.float32)
    alive, count = real != 0, (1 << bits) - 1
    book = np.zeros(1 << bits, np.float32)
    indices = np.zeros(real.shape, np.uint8)
    values = real[alive].astype(np.float64)
    if len(np.unique(values)) <= count:  # each has a value of its own
        own, places = np.unique(real[alive], return_inverse=True)
        book[1 : 1 + len(own)] = own
        indices[alive] = places.reshape(-1) + 1
        return Shared(indices, book)
    start = np.linspace(values.min(), values.max(), count)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster keeps its value: no harm
        centroids, labels = kmeans2(values[:, None], start, iter=ROUNDS, minit="matrix")
    book[1:] = centroids[:, 0]
    indices[alive] = labels + 1
    return Shared(indices, book)
