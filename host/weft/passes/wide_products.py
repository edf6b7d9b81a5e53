"""Inputs of a decoder's products in int16 (W8A16, W4A16), and what these are made of.

Which those are follows from the layers that ask for activations in int16: what a norm gives them,
what attention gives, and what stands between the layers of a feed-forward part: a function of a
layer's output, and its product with another layer's. All of that is int16 with zero point 0;
queries, keys and values of attention stay int8.
"""

from __future__ import annotations

from collections.abc import Mapping

from weft.activation import WIDE
from weft.errors import UsageError
from weft.graph import Graph, Node
from weft.passes.choices import Choice, layer_name, layers
from weft.passes.placement import NORMS
from weft.passes.stream import MOVES, of_elements


def wide_products(graph: Graph, chosen: Mapping[str, Choice]) -> frozenset[str]:
    """Activations that are int16 for the layers that ask for it, by `chosen`; none if none does.

    Raises UsageError for a graph that is no decoder, and for an input of a layer that can't be
    int16.
    """
    asking = [n for n in layers(graph) if chosen[n.outputs[0]].activations == WIDE]
    if not asking:
        return frozenset()
    if not any(node.attrs.get("cache") for node in graph if node.op == "Attention"):
        raise UsageError(
            f"activations int16 are for decoders, which graph {graph.name!r} is not: leave "
            "activations at int8"
        )
    return frozenset().union(*(_made_of(graph, node, node.inputs[0]) for node in asking))


def _made_of(graph: Graph, layer: Node, name: str) -> set[str]:
    """An input of a layer and what between it and other layers has to be int16, too."""
    node = graph.producers().get(name)
    if node is None or node.op in (*NORMS, "Attention", "Add"):
        return {name}
    inputs = [n for n in node.inputs if n and graph[n].data is None]
    plain = not node.attrs.get("activation")
    if node.op == "Linear" and plain:
        return {name}
    if plain and (node.op in MOVES or of_elements(node) or (node.op == "Mul" and len(inputs) == 2)):
        return {name}.union(*(_made_of(graph, layer, n) for n in inputs))
    kind = node.op if plain else f"{node.op} with {node.attrs['activation'][0]}"
    raise UsageError(
        f"layer {layer_name(layer)!r} reads {name!r}, of {kind} {node.name!r}, which gives no "
        "int16: leave activations at int8"
    )
