"""Scales per head of what a decoder keeps: each head of keys and values has its own range.

A scale per tensor is that of the largest head. The cache is written and read head by head, so each
may have codes of its own scale for nothing but parameters: what makes the codes multiplies with
another number, and scores and results of that head are requantized with it. The quantized graph
keeps the tensor's scale; attributes `key_scales` and `value_scales` of its Attention say what part
of it each head's scale is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from weft.graph import Array, Graph, Node
from weft.passes.ranges import largest_of

MOST = 127
LEAST = 2.0**-8  # heads of zeros


def with_head_scales(graph: Graph, batches: Iterable[Mapping[str, Array]]) -> Graph:
    """A quantized graph, with the scales of heads of attention with a cache, from typical inputs.

    A head that reaches beyond the tensor's range is cut off there, as the calibrator wants it.
    """
    cached = [node for node in graph if node.op == "Attention" and node.attrs.get("cache")]
    names = [name for node in cached for name in node.inputs[1:3] if graph[name].quant is not None]
    largest = largest_of(graph, names, batches) if names else {}
    made = {id(node): _scaled(graph, node, largest) for node in cached}
    return graph.replace(nodes=tuple(made.get(id(node), node) for node in graph.nodes))


def _scaled(graph: Graph, node: Node, largest: Mapping[str, Array]) -> Node:
    heads, attrs = int(node.attrs["kv_heads"]), {}
    for attribute, name in zip(("key_scales", "value_scales"), node.inputs[1:3], strict=True):
        quant = graph[name].quant
        if quant is None:
            continue
        reach = largest[name].reshape(heads, -1).max(1) / (MOST * float(quant.scale))
        attrs[attribute] = tuple(np.clip(reach, LEAST, 1).tolist())
    return node.with_attrs(**attrs)
