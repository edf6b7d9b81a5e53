"""Heads of whole words, in float: channels of zeros behind those of each head of a decoder.

Weights are padded before they are rounded, so that every number format has its groups within a
head. `weft.lower.heads` does the same to int8 weights of attention without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from weft.graph import Array, Graph, Node, Tensor

MOVES = ("Rope", "Identity")  # and norms of heads, which leave zeros zeros


def whole_heads(graph: Graph, lanes: int) -> Graph:
    """The same function, heads of attention a power of two times `lanes` wide.

    Attention whose operands are not the outputs of layers for it alone stays as it is.
    """
    for key in [n.outputs[0] for n in graph if n.op == "Attention"]:
        graph = _widened(graph, graph.producers()[key], lanes)
    return graph.verify()


def _widened(graph: Graph, node: Node, lanes: int) -> Graph:
    heads, shared = int(node.attrs["heads"]), int(node.attrs["kv_heads"])
    counts = (heads, shared, shared)
    widths = [graph[n].shape[-1] // c for n, c in zip(node.inputs[:3], counts, strict=True)]
    wide = [_words(w, lanes) for w in widths]
    chains = [_chain(graph, name) for name in node.inputs[:3]]
    readers = graph.consumers().get(node.outputs[0], [])
    if widths == wide or not all(chains) or len(readers) != 1 or readers[0].op != "Linear":
        return graph
    tensors, made = dict(graph.tensors), dict[str, Node]()
    for chain, count, width, new in zip(chains, counts, widths, wide, strict=True):
        for each in chain:
            made[each.outputs[0]] = _padded(tensors, each, count, width, new)
    (out,) = readers
    rows = _spread(tensors, out, 1, heads, widths[2], wide[2], 0)
    true = (widths[2], wide[2])
    made[out.outputs[0]] = _with(out, 1, rows).with_attrs(true=true)
    name = node.outputs[0]
    tensors[name] = replace(tensors[name], shape=(*tensors[name].shape[:-1], heads * wide[2]))
    own = {"true_width": widths[0], "true_value_width": widths[2]}
    made[name] = node.with_attrs(**own)
    nodes = tuple(made.get(n.outputs[0], n) for n in graph.nodes)
    return graph.replace(tensors=tensors, nodes=nodes)


def _words(width: int, lanes: int) -> int:
    """Channels of a head of a power of two words."""
    return lanes << max(-(-width // lanes) - 1, 0).bit_length()


def _chain(graph: Graph, name: str) -> list[Node]:
    """The layer that gives a tensor to attention alone, and what rotates it on the way."""
    found: list[Node] = []
    while True:
        node = graph.producers().get(name)
        if node is None or len(graph.consumers()[name]) != 1 or name in graph.outputs:
            return []
        found.append(node)
        if node.op == "Linear":
            return [] if node.attrs.get("activation") else found
        if node.op not in MOVES and not (node.op == "RMSNorm" and "heads" in node.attrs):
            return []
        name = node.inputs[0]


def _padded(tensors: dict[str, Tensor], node: Node, count: int, width: int, wide: int) -> Node:
    """A Linear with more columns, a Rope with more frequencies (of 0)."""
    name = node.outputs[0]
    tensors[name] = replace(tensors[name], shape=(*tensors[name].shape[:-1], count * wide))
    if node.op == "Rope":
        return _with(node, 1, _spread(tensors, node, 1, 1, width // 2, wide // 2, 0))
    if node.op != "Linear":
        return node
    made = _with(node, 1, _spread(tensors, node, 1, count, width, wide, 1))
    if len(node.inputs) > 2 and node.inputs[2]:
        made = _with(made, 2, _spread(tensors, node, 2, count, width, wide, 0))
    return made.with_attrs(true=(width, wide))


def _with(node: Node, index: int, name: str) -> Node:
    inputs = list(node.inputs)
    inputs[index] = name
    return replace(node, inputs=tuple(inputs))


def _spread(
    tensors: dict[str, Tensor], node: Node, index: int, count: int, width: int, wide: int, axis: int
) -> str:
    """The name of constant input `index` with zeros behind each `width` entries of an axis."""
    old = tensors[node.inputs[index]]
    assert old.data is not None, "layers have constants"
    name = f"{old.name}/{wide}"
    if name not in tensors:
        data = _zeros_behind(old.data, count, width, wide, axis)
        tensors[name] = Tensor(name, data.shape, old.dtype, data)
    return name


def _zeros_behind(data: Array, count: int, width: int, wide: int, axis: int) -> Array:
    moved = np.moveaxis(data, axis, -1)
    whole = np.zeros((*moved.shape[:-1], count, wide), data.dtype)
    whole[..., :width] = moved.reshape(*moved.shape[:-1], count, width)
    return np.ascontiguousarray(np.moveaxis(whole.reshape(*moved.shape[:-1], -1), -1, axis))


def with_tokens(graph: Graph, tokens: int) -> Graph:
    """A graph of a decoder for another number of tokens at a time."""
    before = graph[graph.inputs[0]].shape[1]
    tensors = {
        name: replace(t, shape=(1, tokens, *t.shape[2:]))
        if t.data is None and len(t.shape) == 3 and t.shape[:2] == (1, before)
        else t
        for name, t in graph.tensors.items()
    }
    return graph.replace(tensors=tensors).verify()


__all__: Sequence[str] = ("whole_heads", "with_tokens")
