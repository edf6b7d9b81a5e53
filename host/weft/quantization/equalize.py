"""Cross-layer equalization: the channels of a layer get ranges alike.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (ICCV
2019): between two layers with ranges r1 and r2 of a channel's weights the factor s = sqrt(r1 / r2)
moves, after which both ranges are sqrt(r1 r2). Needs no data.
"""

from __future__ import annotations

import numpy as np

from weft.graph import Graph
from weft.quantization import fold

ROUNDS = 20
CLOSE = 1e-3  # a largest |log s| of a round at which all pairs are equal enough


def equalize(graph: Graph) -> Graph:
    """The same function with equalized weights; pairs are visited until nothing moves."""
    for _ in range(ROUNDS):
        furthest = 0.0
        for name in [pair.second.outputs[0] for pair in fold.pairs(graph)]:
            pair = fold.pair_before(graph, graph.producers()[name])
            assert pair is not None, "moving factors keeps the pairs"
            if pair.first.op == "BatchNormalization":
                continue
            before, behind = fold.output_ranges(graph, pair.first), fold.input_ranges(graph, pair)
            alive = (before > 0) & (behind > 0) & np.isfinite(before) & np.isfinite(behind)
            ratio = np.where(alive, before, 1) / np.where(alive, behind, 1)
            factors = np.sqrt(ratio)
            furthest = max(furthest, float(np.abs(np.log(factors)).max(initial=0)))
            graph = fold.move(graph, pair, factors)
        if furthest < CLOSE:
            break
    return graph
