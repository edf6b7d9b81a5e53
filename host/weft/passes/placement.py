"""Which nodes the accelerator can run once they are quantized, and which tensors share scales."""

from __future__ import annotations

import math

from weft import ops
from weft.graph import Graph, Node

NORMS = ("LayerNorm", "RMSNorm")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu")
COMPUTES = {
    "Conv",
    "Linear",
    "AveragePool",
    "GlobalAveragePool",
    "Add",
    "Sub",
    "Mul",
    "PRelu",
    "Attention",
    "Rope",
    *NORMS,
}
# What these move or select keeps its codes: the output has the input's scale.
FOLLOWS = {
    "Reshape",
    "Transpose",
    "Slice",
    "Resize",
    "DepthToSpace",
    "MaxPool",
    "GlobalMaxPool",
    "Pad",
    "Windows",
    "PatchMerge",
}
_NOT_FUNCTIONS = {"BatchNormalization", "Cast", "QuantizeLinear", "DequantizeLinear", "Where"}


def weight_axis(node: Node) -> int:
    """Axis of the output channels of a Conv's or Linear's weights."""
    return 0 if node.op == "Conv" else 1


def coded(graph: Graph, node: Node) -> list[str]:
    """The activations of a node that become codes: not the number of keys of an Attention."""
    inputs = node.inputs[:4] if node.op == "Attention" else node.inputs
    return [n for n in (*inputs, *node.outputs) if n and graph[n].data is None]


def accelerated(graph: Graph, node: Node) -> bool:
    """Whether the accelerator has a form of the node, if its activations are int8.

    The compiler has the last word: a node may still run on the host for its sizes or layout.
    """
    activations = coded(graph, node)
    plain = all(graph[n].dtype == "float32" and graph[n].shape[:1] == (1,) for n in activations)
    single = sum(1 for name in node.outputs if name) == 1
    if "opset" in node.attrs or not plain or not single or len(activations) < 2:
        return False
    activation = node.attrs.get("activation")
    if activation and activation[0] not in ACTIVATIONS:
        return False
    if node.op in ("Conv", "Linear"):
        return _constant_weights(graph, node)
    if node.op in NORMS:
        return all(graph[n].data is not None for n in node.inputs[1:] if n)
    if node.op == "Attention":
        return len(activations) == 4 and all(n in activations for n in node.inputs[:3])
    if node.op == "Pad":
        return bool(node.attrs.get("mode", "constant") == "constant")
    if node.op == "PRelu":
        return graph[node.inputs[1]].data is not None
    return (
        node.op in COMPUTES or node.op in FOLLOWS or node.op == "Concat" or _function(graph, node)
    )


def _constant_weights(graph: Graph, node: Node) -> bool:
    constants = [graph[name] for name in node.inputs[1:] if name]
    if any(t.data is None or t.data.dtype.kind != "f" for t in constants):
        return False
    weights = constants[0]
    if len(constants) > 1 and constants[1].size != weights.shape[weight_axis(node)]:
        return False
    return len(weights.shape) == 2 if node.op == "Linear" else len(weights.shape) in (3, 4)


def _function(graph: Graph, node: Node) -> bool:
    """Whether the node is a function of single elements: one activation, numbers otherwise."""
    spec = ops.OPS.get(node.op)
    if spec is None or node.op in _NOT_FUNCTIONS or spec.category not in ("elementwise", "binary"):
        return False
    constants = [graph[n] for n in node.inputs if n and graph[n].data is not None]
    alone = len([n for n in node.inputs if n]) - len(constants) == 1
    return alone and all(t.size == 1 for t in constants)


def follows(graph: Graph, node: Node) -> bool:
    """Whether the node's output has its input's codes, so that both share a scale."""
    if node.op not in FOLLOWS or node.attrs.get("activation"):
        return False
    value = float(node.attrs.get("value", 0)) if node.op == "Pad" else 0.0
    return value == 0 or not math.isfinite(value)


def quantized_roots(graph: Graph) -> dict[str, str]:
    """Activation that shall be int8 → the activation whose range its scale comes from.

    Nodes that only move values become int8 where a node that computes is next to them: between
    operators of the host they would lose precision for nothing.
    """
    nodes = [node for node in graph if accelerated(graph, node)]
    root: dict[str, str] = {}
    for node in nodes:
        if follows(graph, node):
            root[node.outputs[0]] = root.get(node.inputs[0], node.inputs[0])
    groups = []
    marked: set[str] = set()
    for node in nodes:
        group = {root.get(name, name) for name in coded(graph, node)}
        groups.append(group)
        if not follows(graph, node) and node.op not in ("Concat", "Pad"):
            marked |= group
    before = -1
    while len(marked) != before:
        before = len(marked)
        for group in groups:
            if group & marked:
                marked |= group
    followers = {name: base for name, base in root.items() if base in marked}
    return {**{name: name for name in marked}, **followers}
