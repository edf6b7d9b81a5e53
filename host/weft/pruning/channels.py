"""Output channels of a layer through the graph: to order them anew, or to take some of them only.

From the layer on, its channels go through activations, pooling, BatchNormalization, depthwise
convolutions and flattening to the layers that read them. All of these have constants per channel,
which follow. Where channels of several layers are joined, or leave the graph, they must stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from weft import ops
from weft.graph import Array, Graph, Node, Tensor
from weft.passes.placement import weight_axis
from weft.passes.weights import is_depthwise

ELEMENTS = {"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu",
            "Gelu", "Erf", "Softplus", "Identity", "Abs", "Exp", "Sqrt", "Neg"}  # fmt: skip
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}


@dataclass
class Path:
    """What the channels of a layer go through, and the layers that read them.

    `passing` nodes have a constant per channel or none; a reader's inputs are `repeat` side by side
    per channel (a flattened map). `reason`: why the channels must stay as they are; "" if not.
    """

    first: Node
    channels: int
    passing: list[Node] = field(default_factory=list)
    readers: list[tuple[Node, int]] = field(default_factory=list)
    reason: str = ""


def follow(graph: Graph, first: Node) -> Path:
    """The path of the output channels of the Conv or Linear `first`."""
    path = Path(first, graph[first.inputs[1]].shape[weight_axis(first)])
    readers = graph.consumers()
    if first.op == "Conv" and int(first.attrs.get("group", 1)) > 1:
        path.reason = "a convolution in groups"
    elif first.op == "Linear" and len(graph[first.outputs[0]].shape) != 2:
        path.reason = "a Linear of more than one row"
    waiting = [(first.outputs[0], 1)]
    while waiting and not path.reason:
        name, repeat = waiting.pop()
        if name in graph.outputs:
            path.reason = f"its channels are the model's output {name!r}"
        for node in readers.get(name, []):
            path.reason = path.reason or _step(graph, node, name, repeat, path, waiting)
    return path


def _step(
    graph: Graph, node: Node, name: str, repeat: int, path: Path, waiting: list[tuple[str, int]]
) -> str:
    """Takes `node`, which reads channels, into the path; or why it can't be."""
    group = int(node.attrs.get("group", 1))
    constant = node.op in ("Conv", "Linear") and graph[node.inputs[1]].data is not None
    if constant and name == node.inputs[0] and (node.op == "Linear" or group == 1):
        path.readers.append((node, repeat))
        return ""
    if constant and repeat == 1 and is_depthwise(graph, node):
        if graph[node.inputs[1]].shape[0] != path.channels:
            return f"{node.op} {node.name!r} has several outputs per channel"
    elif node.op == "Reshape":
        before, after = graph[name].shape, graph[node.outputs[0]].shape
        if len(after) != 2 or before[:1] != after[:1] or before[1] != path.channels * repeat:
            return f"Reshape {node.name!r} does more than flatten"
        repeat *= after[1] // before[1]
    elif not _passes(graph, node, repeat):
        return f"{node.op} {node.name!r} reads them, which joins or mixes channels"
    path.passing.append(node)
    waiting.append((node.outputs[0], repeat))
    return ""


def _passes(graph: Graph, node: Node, repeat: int) -> bool:
    if len([n for n in node.outputs if n]) != 1:
        return False
    if node.op in ELEMENTS or (node.op in POOLS and repeat == 1):
        return True
    norm = node.op == "BatchNormalization" and repeat == 1
    return norm and all(graph[n].data is not None for n in node.inputs[1:])


def take(graph: Graph, path: Path, kept: Array) -> Graph:
    """The graph with the channels `kept` (indices, in their new order) of `path.first` only.

    A permutation leaves the function as it is; where channels are missing, it is that of the graph
    in which they are 0 behind the path.
    """
    assert not path.reason, path.reason
    tensors = dict(graph.tensors)
    changed: dict[int, Node] = {id(path.first): _layer(graph, tensors, path.first, kept)}
    for node in path.passing:
        changed[id(node)] = _passing(graph, tensors, node, kept)
    for node, repeat in path.readers:
        wide = (np.asarray(kept)[:, None] * repeat + np.arange(repeat)).reshape(-1)
        axis = 0 if node.op == "Linear" else 1
        changed[id(node)] = _put(graph, tensors, changed.get(id(node), node), 1, wide, axis)
    nodes = []
    for node in graph:
        own = changed.get(id(node), node)
        if id(node) in changed:
            own = _reshaped(own, tensors)
            for tensor in ops.describe_outputs(own, tensors):
                old = tensors[tensor.name]
                tensors[tensor.name] = replace(old, shape=tensor.shape)
        nodes.append(own)
    return graph.replace(nodes=tuple(nodes), tensors=tensors).pruned().verify()


def _reshaped(node: Node, tensors: dict[str, Tensor]) -> Node:
    if node.op != "Reshape":
        return node
    return node.with_attrs(shape=(1, tensors[node.inputs[0]].size))


def _layer(graph: Graph, tensors: dict[str, Tensor], node: Node, kept: Array) -> Node:
    """A layer with other output channels: weights, bias, slopes of a fused activation."""
    made = _put(graph, tensors, node, 1, kept, weight_axis(node))
    if len(node.inputs) > 2 and node.inputs[2]:
        made = _put(graph, tensors, made, 2, kept, -1)
    activation = node.attrs.get("activation")
    if activation and activation[0] == "PRelu":
        slopes = tuple(activation[1][c] for c in kept)
        made = made.with_attrs(activation=(activation[0], slopes))
    return made


def _passing(graph: Graph, tensors: dict[str, Tensor], node: Node, kept: Array) -> Node:
    if node.op == "Conv":
        return _layer(graph, tensors, node, kept).with_attrs(group=len(kept))
    if node.op == "BatchNormalization":
        for index in range(1, 5):
            node = _put(graph, tensors, node, index, kept, 0)
    return node


def _put(
    graph: Graph, tensors: dict[str, Tensor], node: Node, index: int, kept: Array, axis: int
) -> Node:
    """`node` whose constant input number `index` has the entries `kept` of `axis` only.

    Under a new name where others read the constant.
    """
    name = node.inputs[index]
    old = tensors[name]
    assert old.data is not None, "layers have constant weights"
    data = np.ascontiguousarray(np.take(old.data, kept, axis=axis))
    quant = old.quant
    if quant is not None and quant.axis is not None and quant.axis == axis % old.data.ndim:
        quant = replace(quant, scale=np.take(quant.scale, kept)) if quant.scale.ndim else quant
    if sum(n.inputs.count(name) for n in graph) > 1 or name in graph.outputs:
        name = f"{name}/{node.outputs[0]}.{index}"
        while name in tensors:
            name += "'"
    tensors[name] = Tensor(name, data.shape, old.dtype, data, quant)
    inputs = list(node.inputs)
    inputs[index] = name
    return replace(node, inputs=tuple(inputs))
