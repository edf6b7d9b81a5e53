"""Whole filters and kernels: pruning that makes the network smaller, or its kernels 0.

Filters go by the L1 norm of their weights (Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017), or by the gain of the BatchNormalization behind them (Liu et al., Network Slimming, ICCV
2017). The graph loses the channels, and the layers that read them their inputs: no hardware is
needed. 2-D kernels, one per (output, input) pair, go by the same norm and leave zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from weft.errors import UsageError, unknown
from weft.graph import Array, Graph, Node
from weft.passes.choices import layer_name
from weft.passes.placement import weight_axis
from weft.pruning import channels
from weft.quantization import codec
from weft.quantization.codec import Real
from weft.quantization.fold import put_constant

CRITERIA = {
    "l1": "filters with the smallest sum of |w| go",
    "gain": "those with the smallest |gain| of the BatchNormalization behind them go",
}


@dataclass(frozen=True)
class Shrunk:
    """The smaller graph, how many channels each layer kept of how many, and why others stayed."""

    graph: Graph
    kept: Mapping[str, tuple[int, int]]
    reasons: Mapping[str, str]


def filters(
    graph: Graph,
    fraction: float,
    *,
    criterion: str = "l1",
    layers: Mapping[str, float] | None = None,
) -> Shrunk:
    """`graph` without the share `fraction` of the output channels of its Conv and Linear layers.

    `layers` gives other shares by a layer's name. Every layer keeps one channel. Layers whose
    channels are joined with others' (residuals, Concat), leave the graph or pass what mixes them
    are kept, with the reason. Where a layer has no BatchNormalization behind it, "gain" falls back
    to nothing: the layer stays, with that reason.

    What is removed counts as 0 behind the activation, so biases and norms of such channels go too.

    Raises UsageError for fractions outside 0 <= f < 1, unknown criteria and layers.
    """
    if criterion not in CRITERIA:
        raise UsageError(unknown("criterion of filters", criterion, CRITERIA))
    names = {n.outputs[0]: layer_name(n) for n in graph if _is_layer(graph, n)}
    own = dict(layers or {})
    for name in own:
        if name not in names.values():
            message = unknown("layer with weights", name, names.values())
            raise UsageError(f"model {graph.name!r}: {message}")
    for share in (fraction, *own.values()):
        check(share)
    kept, reasons = {}, {}
    for output, name in names.items():
        path = channels.follow(graph, graph.producers()[output])
        norms = norms_of(graph, path, criterion)
        if path.reason or norms is None:
            reasons[name] = path.reason or "no BatchNormalization behind it"
            continue
        count = max(1, path.channels - math.floor(path.channels * own.get(name, fraction) + 1e-9))
        chosen = np.sort(np.argsort(-norms, kind="stable")[:count])
        kept[name] = (count, path.channels)
        if count < path.channels:
            graph = channels.take(graph, path, chosen)
    return Shrunk(graph, kept, reasons)


def check(fraction: float) -> float:
    """The share itself. Raises UsageError outside 0 <= f < 1."""
    if not 0 <= fraction < 1:
        raise UsageError(f"a share of {fraction} can't be pruned: 0 <= f < 1")
    return fraction


def norms_of(graph: Graph, path: channels.Path, criterion: str) -> Real | None:
    """The criterion's value per output channel; None where the graph has none."""
    if criterion == "gain":
        norms = [n for n in path.passing if n.op == "BatchNormalization"]
        return np.abs(_data(graph, norms[0], 1)).astype(np.float64) if norms else None
    weights = graph[path.first.inputs[1]].real()
    axis = weight_axis(path.first)
    others = tuple(a for a in range(weights.ndim) if a != axis)
    return np.asarray(np.abs(weights).sum(axis=others, dtype=np.float64))


def kernels(weights: Array, fraction: float) -> Array:
    """Mask [N, I] of the 2-D kernels of canonical `weights` [N, T, I] that stay, by L1 norm."""
    norms = np.abs(weights).sum(axis=1, dtype=np.float64)
    count = norms.size - math.floor(norms.size * check(fraction) + 1e-9)
    mask = np.zeros(norms.size, bool)
    mask[np.argsort(-norms.reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(norms.shape)


def prune_kernels(graph: Graph, fraction: float) -> Graph:
    """`graph` whose float convolutions of more than one tap have the share of their kernels 0."""
    check(fraction)
    tensors, nodes = dict(graph.tensors), []
    for node in graph:
        if node.op == "Conv" and _is_layer(graph, node) and graph[node.inputs[1]].quant is None:
            weights = codec.canonical(_data(graph, node, 1), node.op)
            if weights.shape[1] > 1:
                zeroed = weights * kernels(weights, fraction)[:, None, :]
                shape = graph[node.inputs[1]].shape
                data = codec.restored(zeroed.astype(weights.dtype), node.op, shape)
                node = put_constant(graph, tensors, node, 1, data)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), tensors=tensors).pruned().verify()


def _is_layer(graph: Graph, node: Node) -> bool:
    return node.op in ("Conv", "Linear") and graph[node.inputs[1]].data is not None


def _data(graph: Graph, node: Node, index: int) -> Array:
    data = graph[node.inputs[index]].data
    assert data is not None, "layers have constant weights"
    return data
