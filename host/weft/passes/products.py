"""SmoothQuant where two activations multiply: factors that cancel, or move through the product.

In a decoder with a cache, keys and values are int8 with one scale for all channels, and so is the
product of a gated feed-forward part. Three pairs of layers take factors for nothing:

- q · kᵀ: a channel of keys is divided by what the same channel of queries is multiplied with (both
  channels of a rotated pair by the same factor, which rotations let through);
- a · v: a channel of values is divided by what the rows of the output projection take;
- silu(gate) · up: a channel of `up` is divided by what the rows of the layer behind take.

The factors are those of Xiao et al., SmoothQuant, ICML 2023, equation 4, with weights or the other
operand in the place of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Graph, Node
from weft.passes.ranges import largest_of
from weft.quantization import fold

STRENGTH = 0.5
LEAST = 1e-5
Factors = NDArray[np.float64]


def even_products(
    graph: Graph, batches: Iterable[Mapping[str, Array]], strength: float = STRENGTH
) -> Graph:
    """The same function, its attention with a cache and its gates easier to round."""
    cached = [n for n in graph if n.op == "Attention"]
    if not any(node.attrs.get("cache") for node in cached):
        return graph
    gates = [node for node in graph if _is_gate(graph, node)]
    names = [n for node in cached for n in node.inputs[:3]] + [n.outputs[0] for n in gates]
    largest = largest_of(graph, names, batches)
    for key in [node.outputs[0] for node in cached]:
        graph = _scores(graph, graph.producers()[key], largest, strength)
        graph = _values(graph, graph.producers()[key], largest, strength)
    for key in [node.outputs[0] for node in gates]:
        graph = _gate(graph, graph.producers()[key], largest[key], strength)
    return graph.verify()


def _layer(graph: Graph, name: str) -> Node | None:
    """The Linear that gives a tensor to one reader alone."""
    node = graph.producers().get(name)
    alone = len(graph.consumers().get(name, [])) == 1 and name not in graph.outputs
    fits = node is not None and node.op == "Linear" and not node.attrs.get("activation")
    return node if fits and alone else None


def _is_gate(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies with a layer's output, for layers."""
    readers = graph.consumers().get(node.outputs[0], [])
    if node.op != "Mul" or not readers or node.outputs[0] in graph.outputs:
        return False
    shapes = {graph[n].shape for n in (*node.inputs, *node.outputs)}
    linear = all(r.op == "Linear" and r.inputs[0] == node.outputs[0] for r in readers)
    return linear and len(shapes) == 1 and _layer(graph, node.inputs[1]) is not None


def _factors(x: Factors, other: Factors, strength: float) -> Factors:
    """x^a / other^(1 − a), 1 where either is 0 or not finite."""
    alive = (x > 0) & (other > 0) & np.isfinite(x) & np.isfinite(other)
    x, other = np.where(alive, x, 1), np.where(alive, other, 1)
    return np.where(alive, np.maximum(x**strength / other ** (1 - strength), LEAST), 1)


def _scaled(graph: Graph, changes: Iterable[tuple[Node, Factors, int]]) -> Graph:
    """The graph with weights of layers multiplied along an axis; with their columns, biases too."""
    tensors, made = dict(graph.tensors), dict[int, Node]()
    for node, factors, axis in changes:
        new = fold.scale_input(graph, tensors, made.get(id(node), node), 1, factors, axis)
        if axis == 1 and len(node.inputs) > 2 and node.inputs[2]:
            new = fold.scale_input(graph, tensors, new, 2, factors, -1)
        made[id(node)] = new
    nodes = tuple(made.get(id(node), node) for node in graph.nodes)
    return graph.replace(nodes=nodes, tensors=tensors)


def _scores(graph: Graph, node: Node, largest: Mapping[str, Factors], strength: float) -> Graph:
    """Factors between queries and keys."""
    heads, shared = int(node.attrs["heads"]), int(node.attrs["kv_heads"])
    layers, pair = [], 1
    for name in node.inputs[:2]:
        before = graph.producers().get(name)
        if before is not None and before.op == "Rope":
            name, pair = before.inputs[0], 2
        layers.append(_layer(graph, name) or _head_norm(graph, name))
    q, k = layers
    if q is None or k is None:
        return graph
    of_q, of_k = (largest[name] for name in node.inputs[:2])
    if q.op == "RMSNorm" or k.op == "RMSNorm":
        return _norms(graph, (q, k), (of_q, of_k), (heads, shared, pair), strength)
    of_q = of_q.reshape(shared, heads // shared, -1, pair).max((1, 3))
    of_k = of_k.reshape(shared, -1, pair).max(2)
    factors = np.repeat(_factors(of_k, of_q, strength), pair, axis=1)
    for_q = np.repeat(factors[:, None], heads // shared, axis=1)
    return _scaled(graph, [(k, 1 / factors.reshape(-1), 1), (q, for_q.reshape(-1), 1)])


def _head_norm(graph: Graph, name: str) -> Node | None:
    """The norm of heads that gives a tensor to one reader alone."""
    node = graph.producers().get(name)
    alone = len(graph.consumers().get(name, [])) == 1 and name not in graph.outputs
    return (
        node
        if node is not None and alone and node.op == "RMSNorm" and "heads" in node.attrs
        else None
    )


def _norms(
    graph: Graph,
    norms: tuple[Node, Node],
    largest: tuple[Factors, Factors],
    sizes: tuple[int, int, int],
    strength: float,
) -> Graph:
    """Factors between queries and keys that are normalized: one for a channel of all heads."""
    q, k = norms
    if q.op != k.op:
        return graph
    heads, shared, pair = sizes
    of_q, of_k = (
        x.reshape(count, -1, pair).max((0, 2))
        for x, count in zip(largest, (heads, shared), strict=True)
    )
    factors = np.repeat(_factors(of_k, of_q, strength), pair)
    factors = factors[: graph[q.inputs[1]].size]
    return _scaled(graph, [(k, 1 / factors, 0), (q, factors, 0)])


def _values(graph: Graph, node: Node, largest: Mapping[str, Factors], strength: float) -> Graph:
    """Factors between values and the output projection."""
    heads, shared = int(node.attrs["heads"]), int(node.attrs["kv_heads"])
    v, readers = _layer(graph, node.inputs[2]), graph.consumers().get(node.outputs[0], [])
    if v is None or len(readers) != 1 or readers[0].op != "Linear":
        return graph
    (out,) = readers
    rows = np.abs(np.asarray(graph[out.inputs[1]].data)).max(1).astype(np.float64)
    rows = rows.reshape(shared, heads // shared, -1).max(1)
    factors = _factors(largest[node.inputs[2]].reshape(shared, -1), rows, strength)
    for_out = np.repeat(factors[:, None], heads // shared, axis=1)
    return _scaled(graph, [(v, 1 / factors.reshape(-1), 1), (out, for_out.reshape(-1), 0)])


def _gate(graph: Graph, node: Node, x: Factors, strength: float) -> Graph:
    """Factors between the second operand of a gate and the layers that read the product."""
    up, readers = _layer(graph, node.inputs[1]), graph.consumers()[node.outputs[0]]
    assert up is not None, "it is a gate"
    rows = [np.abs(np.asarray(graph[r.inputs[1]].data)).max(1) for r in readers]
    factors = _factors(x, np.max(rows, axis=0).astype(np.float64), strength)
    return _scaled(graph, [(up, 1 / factors, 1), *((r, factors, 0) for r in readers)])
