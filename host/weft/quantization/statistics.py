"""What a layer's input looks like on calibration data: second moments, means, magnitudes.

The squared error of a layer's outputs is a quadratic form of the weights' errors, with the Gram
matrix of the inputs: sum ||x (w - q)||^2 = (w - q)^T X^T X (w - q). All methods that weigh errors
need no more than this matrix, so the data is read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from weft import ops, reference
from weft.graph import Array, Graph, Node
from weft.quantization.codec import Real

ROWS = 1 << 12  # positions of a convolution that are taken from a batch: enough for its moments


@dataclass
class Statistics:
    """Of the rows that a layer multiplies with: groups G, K = taps * channels of a group.

    `gram` [G, K, K] is the mean of x x^T, `mean` [G, K] that of x; `largest` and `magnitude`
    [channels] are the maximum and the mean of |x| per input channel.
    """

    gram: Real
    mean: Real
    largest: Real
    magnitude: Real
    rows: int = 0
    _samples: int = field(default=0, repr=False)

    @classmethod
    def empty(cls, groups: int, depth: int, channels: int, moments: bool = True) -> Statistics:
        """Before any data."""
        gram = np.zeros((groups, depth, depth) if moments else (groups, 0, 0))
        zeros = np.zeros(channels)
        return cls(gram, np.zeros((groups, depth)), zeros, zeros.copy())

    def add(self, rows: Array, channels: Array, moments: bool = True) -> None:
        """Adds rows [n, G, K] and the values [m, channels] that they are made of.

        Without `moments` the Gram matrix is left out.
        """
        wide = np.asarray(rows, np.float32).transpose(1, 0, 2)
        n, m = wide.shape[1], len(channels)
        kept = self.rows / (self.rows + n)
        if moments:
            added = np.matmul(wide.transpose(0, 2, 1), wide)
            self.gram = self.gram * kept + added * ((1 - kept) / n)
        self.mean = self.mean * kept + wide.mean(axis=1, dtype=np.float64) * (1 - kept)
        magnitudes = np.abs(channels)
        self.largest = np.maximum(self.largest, magnitudes.max(axis=0))
        old = self._samples / (self._samples + m)
        self.magnitude = self.magnitude * old + magnitudes.mean(axis=0) * (1 - old)
        self.rows, self._samples = self.rows + n, self._samples + m

    def loss(self, errors: Array) -> Real:
        """Mean squared output error [N] that weight errors [N, ...] cause, per output channel."""
        groups = len(self.gram)
        e = np.asarray(errors, np.float64).reshape(groups, len(errors) // groups, -1)
        return np.asarray(np.einsum("gnk,gnk->gn", e @ self.gram, e).reshape(-1))


def layer_rows(node: Node, x: Array, weights: Array) -> tuple[Array, Array]:
    """What a Conv or Linear multiplies its weights with, for inputs `x`.

    Rows [n, G, K] in the order of canonical columns (tap, then channel), and the values
    [m, channels] of the input.
    """
    if node.op == "Linear":
        rows = x.reshape(-1, x.shape[-1])
        return rows[:, None, :], rows
    a = node.attrs
    values = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    padded = np.pad(x, reference.spatial_pads(a["pads"]))
    windows = reference.taken_windows(padded, weights.shape[2:], a["strides"], a["dilations"])
    rank = weights.ndim - 2
    picked = _some(windows.reshape(-1, *windows.shape[1 + rank :]) if rank else windows)
    taps = math.prod(weights.shape[2:])
    ordered = picked.reshape(len(picked), a["group"], weights.shape[1], taps).swapaxes(2, 3)
    return ordered.reshape(len(picked), a["group"], -1), values


def _some(windows: Array) -> Array:
    """At most ROWS of the windows, at equal distances."""
    return windows[:: -(-len(windows) // ROWS)]


def observe(
    graph: Graph,
    batches: Iterable[Mapping[str, Array]],
    nodes: Iterable[Node],
    rounded: bool = False,
    moments: bool = True,
) -> dict[str, Statistics]:
    """Statistics of the inputs of layers, by the name of each layer's output.

    Layers that are steps of a recurrence ("roles") have those of all steps. With `rounded`
    activations that have scales are rounded to their codes first; without `moments` there are no
    Gram matrices.
    """
    layers = list(nodes)
    names = list(dict.fromkeys(node.inputs[0] for node in layers))
    found: dict[object, Statistics] = {}
    keys = {n.outputs[0]: n.attrs.get("roles", n.outputs[0]) for n in layers}
    for part in batches:
        with np.errstate(all="ignore"):
            values = ops.evaluate(graph, part, keep=names, fake_quant=rounded)
        for node in layers:
            weights = graph[node.inputs[1]]
            assert weights.data is not None, "layers have constant weights"
            rows, channels = layer_rows(node, values[node.inputs[0]], weights.data)
            key = keys[node.outputs[0]]
            if key not in found:
                _, groups, depth = rows.shape
                found[key] = Statistics.empty(groups, depth, channels.shape[1], moments)
            found[key].add(rows, channels, moments)
    return {name: found[key] for name, key in keys.items() if key in found}
