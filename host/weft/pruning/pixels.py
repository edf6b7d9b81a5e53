"""A Linear behind a flattened map: its inputs by pixel, channels side by side, as hardware does.

Groups of N:M are of channels that a clock reads together. Flattened [C, H, W] counts pixels
fastest, so consecutive inputs are pixels of one channel; such a layer is pruned as the convolution
that covers the map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from weft.graph import Array, Graph, Node
from weft.quantization import codec
from weft.quantization.statistics import Statistics


@dataclass(frozen=True)
class Pixels:
    """C channels of P pixels, flattened: input c · P + p."""

    channels: int
    pixels: int

    def split(self, weights: Array) -> Array:
        """Weights [N, P, C] of a Linear's canonical weights [N, 1, C · P]."""
        apart = weights.reshape(len(weights), self.channels, self.pixels)
        return np.ascontiguousarray(apart.transpose(0, 2, 1))

    def joined(self, weights: Array) -> Array:
        """The inverse of `split`."""
        return np.ascontiguousarray(weights.transpose(0, 2, 1)).reshape(len(weights), 1, -1)

    def moments(self, seen: Statistics) -> Statistics:
        """Statistics of the inputs in the order of `split`."""
        order = np.arange(self.channels * self.pixels).reshape(self.channels, -1).T.reshape(-1)
        return replace(seen, gram=seen.gram[:, order][:, :, order], mean=seen.mean[:, order])


def pixels(graph: Graph, node: Node) -> Pixels | None:
    """How the input of a Linear was flattened; None for other layers, for single pixels, and for
    inputs of the network, which the host lays out as their reader wants them.
    """
    if node.op != "Linear":
        return None
    name = graph.reshaped_from(node.inputs[0])
    shape, inputs = graph[name].shape, graph[node.inputs[1]].shape[0]
    if (
        name in graph.inputs
        or len(shape) < 3
        or inputs == shape[1]
        or int(np.prod(shape[1:])) != inputs
    ):
        return None
    return Pixels(int(shape[1]), inputs // int(shape[1]))


def grouped(graph: Graph, node: Node) -> Array:
    """Canonical weights [N, T, I] of a layer as N:M sees them: I channels of a tap or pixel."""
    data = graph[node.inputs[1]].data
    assert data is not None, "layers have constant weights"
    weights, flat = codec.canonical(np.asarray(data), node.op), pixels(graph, node)
    return weights if flat is None else flat.split(weights)
