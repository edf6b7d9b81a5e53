"""Moves a positive factor per channel from one layer to the next; the function stays the same.

What lies between must let a factor through: f(s x) = s f(x). ReLU, leaky ReLU, pooling and
flattening do. Equalization, SmoothQuant and AWQ differ only in which factors they move.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from weft.graph import Array, Graph, Node, Tensor
from weft.passes.placement import accelerated, weight_axis
from weft.quantization.codec import Real

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
_ELEMENTS = {"Relu", "LeakyRelu"}
_POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Pair:
    """A layer and the one whose output channels it reads, and nobody else does.

    Each channel of the first is `repeat` inputs of the second, side by side: the positions of a
    map that was flattened.
    """

    first: Node
    second: Node
    channels: int
    repeat: int


def pairs(graph: Graph) -> Iterator[Pair]:
    """Every pair of layers between which factors can move, in the graph's order."""
    for node in graph:
        found = pair_before(graph, node)
        if found is not None:
            yield found


def pair_before(graph: Graph, node: Node) -> Pair | None:
    """The pair whose second layer is `node`; None if there is none."""
    if not _is_layer(graph, node) or not _takes_factors(graph, node):
        return None
    producers, readers = graph.producers(), graph.consumers()
    name, flattened = node.inputs[0], False
    while True:
        source = producers.get(name)
        if source is None or len(readers[name]) > 1 or name in graph.outputs:
            return None
        if not _homogeneous(source):
            return None
        if source.op == "BatchNormalization" or _is_layer(graph, source):
            return _pair(graph, source, node, flattened)
        if source.op == "Reshape" and not flattened and node.op == "Linear":
            before, after = graph[source.inputs[0]].shape, graph[name].shape
            if len(after) != 2 or len(before) < 2:
                return None
            flattened = True
        elif source.op not in _ELEMENTS and not _pools(source, node, flattened):
            return None
        name = source.inputs[0]


def _pools(source: Node, node: Node, flattened: bool) -> bool:
    return source.op in _POOLS and len(source.outputs) == 1 and (node.op == "Conv" or flattened)


def _homogeneous(node: Node) -> bool:
    activation = node.attrs.get("activation")
    return not activation or activation[0] in HOMOGENEOUS


def _is_layer(graph: Graph, node: Node) -> bool:
    if node.op not in ("Conv", "Linear") or not accelerated(graph, node):
        return False
    return all(graph[n].quant is None for n in (*node.inputs, *node.outputs) if n)


def _takes_factors(graph: Graph, node: Node) -> bool:
    """Grouped convolutions take them only where each group is one channel."""
    group = int(node.attrs.get("group", 1))
    return group == 1 or group == graph[node.inputs[1]].shape[0] == graph[node.inputs[0]].shape[1]


def _pair(graph: Graph, first: Node, second: Node, flattened: bool) -> Pair | None:
    shape = graph[first.outputs[0]].shape
    last = first.op == "Linear"
    channels = shape[-1 if last else 1] if len(shape) > 1 else 0
    if last and (flattened and len(shape) > 2):
        return None
    if not last and second.op == "Linear" and not flattened and len(shape) > 2:
        return None
    if last and second.op == "Conv":
        return None
    inputs = input_channels(graph, second)
    if not channels or inputs % channels or (inputs != channels and not flattened):
        return None
    return Pair(first, second, channels, inputs // channels)


def input_channels(graph: Graph, node: Node) -> int:
    """How many channels a layer reads."""
    w = graph[node.inputs[1]].shape
    return int(w[0]) if node.op == "Linear" else int(w[1]) * int(node.attrs.get("group", 1))


def move(graph: Graph, pair: Pair, factors: Real) -> Graph:
    """The graph whose first layer gives 1 / `factors` [channels] as much, its second taking that.

    Names stay; a constant with other readers is copied.
    """
    tensors = dict(graph.tensors)
    first = _scaled_first(graph, tensors, pair.first, 1 / factors)
    axis = 0 if pair.second.op == "Linear" or int(pair.second.attrs.get("group", 1)) > 1 else 1
    wide = np.repeat(factors, pair.repeat)
    second = scale_input(graph, tensors, pair.second, 1, wide, axis)
    changed = {id(pair.first): first, id(pair.second): second}
    nodes = tuple(changed.get(id(node), node) for node in graph.nodes)
    return graph.replace(nodes=nodes, tensors=tensors)


def _scaled_first(graph: Graph, tensors: dict[str, Tensor], node: Node, factors: Real) -> Node:
    if node.op == "BatchNormalization":
        for index in (1, 2):
            node = scale_input(graph, tensors, node, index, factors, 0)
        return node
    node = scale_input(graph, tensors, node, 1, factors, weight_axis(node))
    if len(node.inputs) > 2 and node.inputs[2]:
        node = scale_input(graph, tensors, node, 2, factors, -1)
    return node


def scale_input(
    graph: Graph, tensors: dict[str, Tensor], node: Node, index: int, factors: Real, axis: int
) -> Node:
    """`node` whose constant input number `index` is multiplied along `axis`."""
    data = graph[node.inputs[index]].data
    assert data is not None, "layers have constant weights"
    shape = [1] * data.ndim
    shape[axis] = -1
    scaled = (data.astype(np.float64) * factors.reshape(shape)).astype(np.float32)
    return put_constant(graph, tensors, node, index, scaled)


def put_constant(
    graph: Graph, tensors: dict[str, Tensor], node: Node, index: int, data: Array
) -> Node:
    """`node` with `data` as its input number `index`: under its name if nobody else reads it."""
    name = node.inputs[index]
    readers = graph.consumers().get(name, [])
    if sum(r.inputs.count(name) for r in readers) > 1 or name in graph.outputs:
        name = f"{name}/{node.outputs[0]}"
        while name in tensors:
            name += "'"
    tensors[name] = Tensor(name, data.shape, str(data.dtype), data)
    inputs = list(node.inputs)
    inputs[index] = name
    return replace(node, inputs=tuple(inputs))


def output_ranges(graph: Graph, node: Node) -> Real:
    """Largest |weight| per output channel of a layer; |scale| of a normalization."""
    data = graph[node.inputs[1]].data
    assert data is not None, "layers have constant weights"
    axis = weight_axis(node) if node.op in ("Conv", "Linear") else 0
    others = tuple(a for a in range(data.ndim) if a != axis)
    return np.asarray(np.abs(data).max(axis=others), np.float64)


def input_ranges(graph: Graph, pair: Pair) -> Real:
    """Largest |weight| of the second layer per channel of the first."""
    data = graph[pair.second.inputs[1]].data
    assert data is not None, "layers have constant weights"
    grouped = int(pair.second.attrs.get("group", 1)) > 1
    axis = 0 if pair.second.op == "Linear" or grouped else 1
    others = tuple(a for a in range(data.ndim) if a != axis)
    return per_channel(np.abs(data).max(axis=others), pair)


def per_channel(values: Array, pair: Pair) -> Real:
    """Largest of `values`, one per input of the second layer, for each channel of the first."""
    return np.asarray(values.reshape(pair.channels, pair.repeat).max(axis=1), np.float64)
