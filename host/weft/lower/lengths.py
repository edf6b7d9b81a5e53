"""Numbers of tokens per sample: attention that sees only the first ones of them.

Where a program can be run with fewer tokens (`weft.tokens`), nothing masks keys: each sample runs
with as many as it has, and no padding is ever computed.
"""

from __future__ import annotations

from dataclasses import replace

from weft.graph import Graph
from weft.lower.attention import KEYS
from weft.lower.tokens import token_axes


def without_lengths(graph: Graph) -> tuple[Graph, str]:
    """The graph whose attention sees all tokens, and the input that holds how many there are.

    The graph itself and "" where there is no such input, or not all of the attention follows it, to
    the tokens of one input that may have fewer.
    """
    nodes = [node for node in graph if node.op == "Attention"]
    inputs = {node.inputs[KEYS] if len(node.inputs) > KEYS else "" for node in nodes}
    if len(inputs) != 1 or not (name := inputs.pop()) or name not in graph.inputs:
        return graph, ""
    readers = graph.consumers().get(name, [])
    if any(node.op != "Attention" or node.inputs.index(name) != KEYS for node in readers):
        return graph, ""
    bare = {id(n): replace(n, inputs=n.inputs[:KEYS]) for n in nodes}
    changed = graph.replace(nodes=tuple(bare.get(id(n), n) for n in graph.nodes))
    tokens = token_axes(changed)
    counted = {tokens.get(n) for node in nodes for n in node.inputs[:3]}
    return (changed, name) if len(counted) == 1 and None not in counted else (graph, "")


def windowed(graph: Graph) -> dict[str, bool]:
    """The note of a program whose attention is limited to neighbours, on either side."""
    nodes = [node for node in graph if node.op == "Attention"]
    limited = any(name in node.attrs for node in nodes for name in ("left", "right"))
    return {"window": True} if limited else {}
