"""SmoothQuant behind norms: channels of what products read become equally large.

Norms leave some channels many times as large as the rest, and 8 bits with one scale for all of them
lose the small ones. A norm gives each channel another factor for nothing, and the weights that read
it take the inverse: x / s · (s · W), s_j = max|X_j|^a / max|W_j|^(1 − a) (Xiao et al., ICML 2023).
The residual stream stays as it is: it has int16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Graph, Node, Tensor
from weft.passes.placement import NORMS, accelerated
from weft.passes.ranges import largest_of
from weft.quantization import fold

STRENGTH = 0.5
LEAST = 1e-5
Factors = NDArray[np.float64]


def even_out(
    graph: Graph, batches: Iterable[Mapping[str, Array]], strength: float = STRENGTH
) -> Graph:
    """The same function, with factors moved from what norms give to products into their weights.

    `graph` has its copies (`weft.passes.stream.with_copies`) already.
    """
    names = [node.outputs[0] for node in graph if _movable(graph, node)]
    if not names:
        return graph
    largest = largest_of(graph, names, batches)
    for name in names:
        graph = _moved(graph, name, largest[name], strength)
    return graph.verify()


def _movable(graph: Graph, node: Node) -> bool:
    """Whether a node gives channels that nothing but Linear reads, and can give others."""
    if not accelerated(graph, node) or not _products(graph, node.outputs[0]):
        return False
    producer = graph.producers().get(node.inputs[0])
    copies = node.op == "Identity" and producer is not None and producer.op in NORMS
    return node.op in NORMS or copies


def _products(graph: Graph, name: str) -> list[Node]:
    """The Linear nodes that alone read a tensor, also behind moves of whole tokens; none if
    something else does.
    """
    if name in graph.outputs:
        return []
    found: list[Node] = []
    for node in graph.consumers().get(name, []):
        fits = accelerated(graph, node) and node.inputs[0] == name
        moved = _products(graph, node.outputs[0]) if fits and node.op == "Windows" else []
        if not moved and not (fits and node.op == "Linear"):
            return []
        found += moved or [node]
    return found


def _moved(graph: Graph, name: str, x: Factors, strength: float) -> Graph:
    node, readers = graph.producers()[name], _products(graph, name)
    weights = [np.abs(np.asarray(graph[r.inputs[1]].data)).max(1) for r in readers]
    w = np.max(weights, axis=0).astype(np.float64)
    alive = (x > 0) & (w > 0) & np.isfinite(x) & np.isfinite(w)
    x, w = np.where(alive, x, 1), np.where(alive, w, 1)
    factors = np.where(alive, np.maximum(x**strength / w ** (1 - strength), LEAST), 1)
    tensors = dict(graph.tensors)
    changed = {id(r): fold.scale_input(graph, tensors, r, 1, factors, 0) for r in readers}
    if node.op in NORMS:
        first = fold.scale_input(graph, tensors, node, 1, 1 / factors, 0)
        if len(node.inputs) > 2 and node.inputs[2]:
            first = fold.scale_input(graph, tensors, first, 2, 1 / factors, 0)
    else:
        scale = f"{name}/scale"
        while scale in tensors:
            scale += "'"
        data = (1 / factors).astype(np.float32)
        tensors[scale] = Tensor(scale, data.shape, "float32", data)
        first = replace(node, op="Mul", inputs=(node.inputs[0], scale))
    changed[id(node)] = first
    nodes = tuple(changed.get(id(n), n) for n in graph.nodes)
    return graph.replace(nodes=nodes, tensors=tensors)
