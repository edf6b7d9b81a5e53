"""Channel permutation: input channels change places, so that N:M groups lose less magnitude.

Pool & Yu, "Channel Permutations for N:M Sparsity" (NeurIPS 2021): greedy swaps of two channels, the
best first; where none helps, a bounded number of random swaps to escape. The layer before gives
its output channels in the new order, so the function of the network stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Graph, Node
from weft.pruning import channels as channels_of
from weft.pruning.spec import Sparsity
from weft.quantization import codec

ESCAPES = 4  # random swaps before the search ends
LEAST = 1e-6  # gain of a swap, as a share of the retained magnitude
ROWS = 1 << 11  # rows of the weights that the search looks at

Real = NDArray[np.float32]


def permuted(graph: Graph, chosen: Mapping[str, Sparsity]) -> Graph:
    """The same function with channels ordered for the N:M layers of `chosen` (by output name).

    Layers whose channels come from a join, an input or a layer that others read too stay.
    """
    names = [n.outputs[0] for n in graph if n.op in ("Conv", "Linear")]
    for name in names:
        node = graph.producers()[name]
        if graph[node.inputs[1]].data is None:
            continue
        path = channels_of.follow(graph, node)
        if path.reason or len(path.readers) != 1:
            continue
        reader, repeat = path.readers[0]
        sparsity = chosen.get(reader.outputs[0])
        if sparsity is None or sparsity.kind != "nm" or repeat > 1:
            continue
        order = search(_matrix(graph, reader), sparsity.n, sparsity.m)
        if not np.array_equal(order, np.arange(len(order))):
            graph = channels_of.take(graph, path, order)
    return graph


def _matrix(graph: Graph, node: Node) -> Real:
    """Magnitudes [rows, input channels]."""
    weights = codec.canonical(graph[node.inputs[1]].real(), node.op)
    rows = np.abs(weights).reshape(-1, weights.shape[2]).astype(np.float32)
    return rows[:: -(-len(rows) // ROWS)]


def retained(matrix: Array, n: int, m: int) -> float:
    """Sum of the `n` largest of each `m` columns of magnitudes [rows, channels]."""
    groups = matrix.reshape(len(matrix), -1, m)
    return float(np.sort(groups, axis=2)[:, :, m - n :].sum(dtype=np.float64))


def search(matrix: Array, n: int, m: int) -> NDArray[np.intp]:
    """The order of columns of magnitudes [rows, channels] that retains most; as they are if none.

    Columns must be whole groups, else their order is kept.
    """
    count = matrix.shape[1]
    order = np.arange(count)
    if count % m or count == m:
        return order
    state = _Swaps(matrix, n, m)
    best, kept = retained(matrix, n, m), order.copy()
    rng = np.random.default_rng(0)
    for _ in range(ESCAPES + 1):
        state.climb()
        now = retained(matrix[:, state.order], n, m)
        if now > best * (1 + LEAST):
            best, kept = now, state.order.copy()
        first, second = (int(i) for i in rng.choice(count, 2, replace=False))
        state.swap(first, second)
    return kept


class _Swaps:
    """What each swap of two places gains, kept up to date.

    With the group's other columns sorted, a column x that joins them is worth the N - 1 largest of
    them plus the larger of x and the Nth: that needs no sorting for each x.
    """

    def __init__(self, matrix: Array, n: int, m: int) -> None:
        self._columns, self._n, self._m = matrix, n, m
        count = matrix.shape[1]
        self.order = np.arange(count)
        self._group = np.arange(count) // m
        self._joined = np.zeros((count, count))  # worth of place i's group with column x in i
        for group in range(count // m):
            self._update(group)

    def _update(self, group: int) -> None:
        places = range(group * self._m, (group + 1) * self._m)
        for place in places:
            others = self._columns[:, self.order[[p for p in places if p != place]]]
            ranked = np.sort(others, axis=1)[:, ::-1]
            base = ranked[:, : self._n - 1].sum(dtype=np.float64)
            last = ranked[:, self._n - 1 : self._n]
            worth = np.maximum(self._columns, last).sum(axis=0, dtype=np.float64)
            self._joined[place] = base + worth

    def swap(self, first: int, second: int) -> None:
        """Exchanges two places."""
        self.order[[first, second]] = self.order[[second, first]]
        for group in {int(self._group[first]), int(self._group[second])}:
            self._update(group)

    def climb(self) -> None:
        """Swaps the best pair until none gains."""
        for _ in range(4 * len(self.order)):
            worth = self._joined[:, self.order]
            own = np.diagonal(worth)
            gain = worth + worth.T - own[:, None] - own[None, :]
            gain[self._group[:, None] == self._group[None, :]] = 0
            first, second = np.unravel_index(int(gain.argmax()), gain.shape)
            if gain[first, second] <= LEAST * max(float(own.max()), 1e-30):
                return
            self.swap(int(first), int(second))
