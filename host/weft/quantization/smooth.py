"""SmoothQuant: large channels of an activation become smaller, their weights larger.

Xiao et al. (ICML 2023): s_j = max|X_j|^a / max|W_j|^(1 - a) per input channel j; the layer before
gives X / s, the weights are W * s. a = 0.5 shares the difficulty equally, more of it goes to the
weights with a larger a.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from weft.errors import UsageError
from weft.graph import Array, Graph
from weft.quantization import fold, statistics

LEAST = 1e-5


def smooth(graph: Graph, batches: Iterable[Mapping[str, Array]], strength: float = 0.5) -> Graph:
    """The same function with smoother activations, wherever a factor can move between two layers.

    Raises UsageError for a strength outside 0..1.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"smoothing strength {strength} is outside 0..1")
    layers = [pair.second for pair in fold.pairs(graph)]
    found = statistics.observe(graph, batches, layers, moments=False)
    for name, seen in found.items():
        pair = fold.pair_before(graph, graph.producers()[name])
        assert pair is not None, "moving factors keeps the pairs"
        x, w = fold.per_channel(seen.largest, pair), fold.input_ranges(graph, pair)
        alive = (x > 0) & (w > 0)
        x, w = np.where(alive, x, 1), np.where(alive, w, 1)
        factors = np.maximum(x**strength / w ** (1 - strength), LEAST)
        graph = fold.move(graph, pair, np.where(alive, factors, 1))
    return graph
