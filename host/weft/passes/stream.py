"""The residual stream of transformers: which activations are int16, and the int8 copies of them.

What residual additions add up and norms divide has outliers that 8 bits do not hold together with
the rest (Bondarenko et al., "Understanding and Overcoming the Challenges of Efficient Transformer
Quantization", EMNLP 2021, section 4). Products read int8, unless they are asked to read int16
(`weft.passes.wide_products`); where one reads the stream itself, an Identity stands between that
changes the codes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from weft import ops
from weft.activation import WIDE
from weft.graph import Graph, Node
from weft.passes.placement import NORMS, accelerated

MOVES = ("Reshape", "Transpose", "Identity")  # of codes as they are


def stream(graph: Graph) -> frozenset[str]:
    """Activations that shall be int16: what norms read, and what is added up to it."""
    nodes = [node for node in graph if accelerated(graph, node)]
    wide = {node.inputs[0] for node in nodes if node.op in NORMS}
    wide |= {name for name in graph.outputs if _from_norm(graph, name)}
    wide |= _of_decoder(graph, nodes)
    links = [_linked(graph, node) for node in nodes]
    before = -1
    while wide and len(wide) != before:
        before = len(wide)
        wide.update(name for link in links if wide & link for name in link)
    return frozenset(wide)


def _of_decoder(graph: Graph, nodes: list[Node]) -> set[str]:
    """What a decoder keeps in int16: what is rotated or goes to the cache, which makes int8 of it,
    and scores of words, whose differences decide.
    """
    cached = [node for node in nodes if node.op == "Attention" and node.attrs.get("cache")]
    wide = {node.inputs[0] for node in nodes if node.op == "Rope"}
    producers = graph.producers()
    for node in cached:
        made = {n: producers[n].op for n in node.inputs[1:3] if n in producers}
        wide |= {name for name, op in made.items() if op == "Linear"}
    last = {n for n in graph.outputs if n in producers and producers[n].op == "Linear"}
    return wide | last if cached else wide


def _from_norm(graph: Graph, name: str) -> bool:
    """Whether a tensor is what a norm gives, as it is or moved."""
    producers = graph.producers()
    while name in producers and producers[name].op in MOVES:
        name = producers[name].inputs[0]
    return name in producers and producers[name].op in NORMS


def _linked(graph: Graph, node: Node) -> set[str]:
    """Activations of a node that are all in the stream, or none."""
    names = {n for n in (*node.inputs, *node.outputs) if n and graph[n].data is None}
    if node.op in (*MOVES, "PatchMerge") and not node.attrs.get("activation"):
        return names
    if node.op != "Add" or node.attrs.get("activation"):
        return set()
    shape = graph[node.outputs[0]].shape
    return names if all(graph[n].shape == shape for n in node.inputs) else set()


def of_elements(node: Node) -> bool:
    """Whether a node is a function of single elements."""
    spec = ops.OPS.get(node.op)
    return "opset" not in node.attrs and spec is not None and spec.category == "elementwise"


def reads_wide(
    graph: Graph, node: Node, wide: Collection[str], products: Collection[str] | None = None
) -> bool:
    """Whether a node takes int16 where `wide` says so, and gives it.

    `products` are what layers may read, and what that is made of; None: all of `wide`.
    """
    products = wide if products is None else products
    moving = [n for n in (*node.inputs, *node.outputs) if n and graph[n].data is None]
    if node.op in NORMS:
        return node.inputs[0] in wide
    if node.op == "Rope":
        return node.inputs[0] in wide and node.outputs[0] not in wide
    if not wide or not set(moving) & set(wide):
        return True
    if node.op in ("Conv", "Linear"):
        x = node.inputs[0]
        return x not in wide or (node.op == "Linear" and x in products)
    if node.op == "Attention" and node.attrs.get("cache"):
        return not set(node.inputs) & set(wide)
    if copies(graph, node):
        return node.inputs[0] in wide
    joins = (of_elements(node) or node.op == "Mul") and set(moving) <= set(products)
    moves = node.op in (*MOVES, "Add", "PatchMerge")
    return (moves or joins) and all(name in wide for name in moving)


def copies(graph: Graph, node: Node) -> bool:
    """Whether a node may give int8 of int16: as they are, or times a factor per channel."""
    if node.op == "Identity":
        return True
    factor = graph[node.inputs[1]] if node.op == "Mul" and len(node.inputs) == 2 else None
    return factor is not None and factor.data is not None and factor.data.ndim == 1


def with_copies(
    graph: Graph, wide: Collection[str], products: Collection[str] = frozenset()
) -> Graph:
    """The graph with an int8 copy of each int16 activation that something else reads, too; layers
    read `products` as they are.
    """
    tensors, nodes = dict(graph.tensors), []
    copies: dict[str, str] = {}
    for node in graph:
        if accelerated(graph, node) and not reads_wide(graph, node, wide, products):
            inputs = []
            for name in node.inputs:
                if name in wide and name not in copies:
                    copy = f"{name}/int8"
                    while copy in tensors:
                        copy += "'"
                    copies[name] = copy
                    tensors[copy] = replace(tensors[name], name=copy)
                    nodes.append(Node("Identity", copy, (name,), (copy,)))
                inputs.append(copies.get(name, name))
            node = replace(node, inputs=tuple(inputs))
        nodes.append(node)
    return graph.replace(tensors=tensors, nodes=tuple(nodes)).verify()


def narrowed(graph: Graph) -> Graph:
    """The graph with int8 in place of int16, for hardware without a wide buffer."""
    tensors = dict(graph.tensors)
    for name, tensor in graph.tensors.items():
        if tensor.data is None and tensor.quant is not None and tensor.quant.format == WIDE:
            scale = (tensor.quant.scale * (32767 / 127)).astype("float32")
            tensors[name] = replace(tensor, quant=replace(tensor.quant, scale=scale, format="int8"))
    return graph.replace(tensors=tensors)
