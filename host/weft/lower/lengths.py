"""Numbers of tokens per sample: attention that sees only the first ones of them.

Where a program can be run with fewer tokens (`weft.tokens`), nothing masks keys: each sample runs
with as many as it has, and no padding is ever computed.
"""

from __future__ import annotations

from dataclasses import replace

from weft.graph import Graph, Node
from weft.lower.attention import KEYS
from weft.lower.tokens import token_axes


def without_lengths(graph: Graph) -> tuple[Graph, str]:
    """The graph whose attention sees all tokens, and the input that holds how many there are.

    The graph itself and "" where there is no such input, or not all of the attention follows it, to
    the tokens of one input that may have fewer.
    """
    nodes = [node for node in graph if node.op == "Attention"]
    counts = [node for node in graph if node.op == "FirstTokens"]
    source = {node.outputs[0]: node.inputs[0] for node in counts}
    keys = {node.inputs[KEYS] if len(node.inputs) > KEYS else "" for node in nodes}
    inputs = {source.get(name, name) for name in keys}
    if len(inputs) != 1 or not (name := inputs.pop()) or name not in graph.inputs:
        return graph, ""
    readers = [node for key in {name, *keys} for node in graph.consumers().get(key, [])]
    if any(not _counts(node, {name, *keys}) for node in readers):
        return graph, ""
    bare = {id(n): replace(n, inputs=_trimmed(n)) for n in nodes}
    left = (n for n in graph.nodes if n.op != "FirstTokens")
    changed = graph.replace(nodes=tuple(bare.get(id(n), n) for n in left))
    tokens = token_axes(changed)
    counted = {tokens.get(n) for node in nodes for n in node.inputs[:3]}
    return (changed, name) if len(counted) == 1 and None not in counted else (graph, "")


def _counts(node: Node, names: set[str]) -> bool:
    """Whether a node reads any of `names` only as a number of tokens, or counts them."""
    places = [i for i, name in enumerate(node.inputs) if name in names]
    return node.op == "FirstTokens" or (node.op == "Attention" and places == [KEYS])


def _trimmed(node: Node) -> tuple[str, ...]:
    inputs = node.inputs[:KEYS]
    return inputs if inputs[-1] else inputs[:-1]


def windowed(graph: Graph) -> dict[str, bool]:
    """The note of a program whose attention is limited to neighbours, on either side."""
    nodes = [node for node in graph if node.op == "Attention"]
    limited = any(name in node.attrs for node in nodes for name in ("left", "right"))
    return {"window": True} if limited else {}
