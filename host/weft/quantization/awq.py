"""AWQ: channels that carry large activations get a finer step, and ranges are clipped.

Lin et al., "AWQ: Activation-aware Weight Quantization" (MLSys 2024). Input channel j of the weights
is multiplied by s_j = mean|x_j|^r before it is rounded, the layer before divides by it; r is the
one of 20 with the least output error. Then each output channel's scale is shrunk in steps as far as
that makes the error smaller.
"""

from __future__ import annotations

import numpy as np

from weft.format import Format
from weft.graph import Array, Graph, Node, Quant
from weft.quantization import codec, fold
from weft.quantization.codec import Real
from weft.quantization.statistics import Statistics

STEPS = 20
CLIP_STEPS, CLIP_LEAST = 10, 0.5


def scale_layer(graph: Graph, node: Node, fmt: Format, seen: Statistics) -> Graph:
    """The same function, `node`'s weights multiplied by the best factors.

    The graph itself where no layer before can take them.
    """
    pair = fold.pair_before(graph, node)
    if pair is None or len(seen.gram) > 1:
        return graph
    magnitude = fold.per_channel(seen.magnitude, pair)
    magnitude = np.where(magnitude > 0, magnitude, magnitude[magnitude > 0].min(initial=1.0))
    data = graph[node.inputs[1]].data
    assert data is not None, "layers have constant weights"
    weights = codec.canonical(np.asarray(data, np.float32), node.op)
    best, factors = np.inf, np.ones(pair.channels)
    for step in range(STEPS):
        s = magnitude ** (step / STEPS)
        s = s / np.sqrt(s.max() * s.min())
        error = _error(weights, np.repeat(s, pair.repeat), fmt, seen)
        if error < best:
            best, factors = error, s
    return fold.move(graph, pair, factors)


def _error(weights: Array, s: Real, fmt: Format, seen: Statistics) -> float:
    scaled = (weights * s).astype(np.float32)
    quant = fmt.fit(scaled, 0)
    kept = codec.real(fmt.quantize(scaled, quant), quant) / s
    return float(seen.loss(weights - kept).sum())


def clip(weights: Array, quant: Quant, fmt: Format, seen: Statistics) -> Quant:
    """`quant` whose scales are shrunk per output channel, down to half, for the least error.

    Scales that are bound to a rule (microscaling's) stay.
    """
    if fmt.record in ("e8m0", "e4m3") or fmt.codebook:
        return quant
    scale = codec.scales(quant, len(weights))
    least = np.full(len(weights), np.inf)
    found = scale.copy()
    for step in range(CLIP_STEPS + 1):
        tried = scale * np.float32(1 - step * (1 - CLIP_LEAST) / CLIP_STEPS)
        candidate = codec.with_scale(quant, tried)
        kept = codec.real(fmt.quantize(weights, candidate), candidate)
        error = seen.loss(weights - kept)
        better = error < least
        least, found = np.where(better, error, least), np.where(better, tried, found)
    return codec.with_scale(quant, found)
