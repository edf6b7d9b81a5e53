"""A float graph, from whatever file it came, as a PyTorch module that can be trained on."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from weft.errors import UnsupportedError
from weft.graph import Array, Graph, Node

Maker = Callable[["_Writer", Node], Any]
BINARY = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul}
FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "HardSwish": nn.Hardswish,
    "Identity": nn.Identity,
}


def from_graph(graph: Graph, *, logits: bool = False) -> fx.GraphModule:
    """The module that computes what `graph` (`weft.load_model`) does, with its trained weights.

    BatchNorm is in the weights already. Layers have the names of the graph's nodes, with "_" for
    what Python does not allow. With `logits` a Softmax at the end is left out: losses want what is
    before it, and the largest stays the largest. `weft.compile` takes the module back.

    Raises UnsupportedError for quantized graphs, and for an operator that is not among Conv,
    Linear, pooling, Add, Sub, Mul, Concat, Reshape, Transpose, Softmax and activations.
    """
    if graph.is_quantized:
        raise UnsupportedError(f"graph {graph.name!r} is quantized: load the float model")
    writer = _Writer(graph)
    for node in graph:
        if logits and node.op == "Softmax" and node.outputs[0] in graph.outputs:
            writer.values[node.outputs[0]] = writer.value(node.inputs[0])
            continue
        if node.op not in MAKERS:
            raise UnsupportedError(
                f"{node.op} {node.name!r} has no PyTorch form here; known: {', '.join(MAKERS)}"
            )
        made = MAKERS[node.op](writer, node)
        writer.values[node.outputs[0]] = _activated(writer, node, made)
    return writer.finished()


class _Writer:
    """Modules and calls so far; `values`: the call that gives each tensor."""

    def __init__(self, graph: Graph) -> None:
        self.source, self.graph, self.modules = graph, fx.Graph(), nn.Module()
        self.values: dict[str, Any] = {n: self.graph.placeholder(_name(n)) for n in graph.inputs}

    def data(self, name: str) -> Array:
        """A constant, float32."""
        data = self.source[name].data
        if data is None:
            raise UnsupportedError(f"{name!r} is computed; a constant is needed there")
        return np.asarray(data, np.float32)

    def value(self, name: str) -> Any:
        """What a node reads: the call that computes it, or a constant."""
        if name not in self.values:
            own = _name(name)
            self.modules.register_buffer(own, torch.from_numpy(self.data(name).copy()))
            self.values[name] = self.graph.get_attr(own)
        return self.values[name]

    def call(self, name: str, module: nn.Module, x: Any) -> Any:
        """Adds a module under a name that is free, and calls it."""
        own, number = _name(name), 1
        while hasattr(self.modules, own):
            own, number = f"{_name(name)}_{number}", number + 1
        self.modules.add_module(own, module)
        return self.graph.call_module(own, (x,))

    def finished(self) -> fx.GraphModule:
        """The module, in eval mode."""
        outputs = tuple(self.values[name] for name in self.source.outputs)
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        made = fx.GraphModule(self.modules, self.graph, _name(self.source.name))
        made.graph.lint()
        return made.eval()


def _name(text: str) -> str:
    own = re.sub(r"\W", "_", text)
    return own if own and not own[0].isdigit() else f"_{own}"


def _activated(writer: _Writer, node: Node, y: Any) -> Any:
    """`y` behind the activation that the node carries."""
    kind, *values = node.attrs.get("activation") or ("",)
    if not kind:
        return y
    if kind == "Clip":
        module: nn.Module = nn.Hardtanh(float(values[0]), float(values[1]))
    elif kind == "LeakyRelu":
        module = nn.LeakyReLU(float(values[0]))
    elif kind == "PRelu":
        slopes = torch.tensor(values[0], dtype=torch.float32).reshape(-1)
        module = nn.PReLU(len(slopes))
        module.weight = nn.Parameter(slopes)
    else:
        module = FUNCTIONS[kind]()
    return writer.call(f"{node.name}_{kind.lower()}", module, y)


def _with_weights(module: nn.Module, weight: Array, bias: Array | None) -> nn.Module:
    layer: Any = module
    # Copies: training may not reach into the graph, which other modules are made of, too.
    layer.weight = nn.Parameter(torch.from_numpy(weight.copy(order="C")))
    layer.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias.reshape(-1).copy()))
    return module


def _bias(writer: _Writer, node: Node) -> Array | None:
    return writer.data(node.inputs[2]) if node.inputs[2:] and node.inputs[2] else None


def _conv(writer: _Writer, node: Node) -> Any:
    w, x = writer.data(node.inputs[1]), writer.value(node.inputs[0])
    kernel, a = w.shape[2:], node.attrs
    if len(kernel) > 2:
        raise UnsupportedError(f"Conv {node.name!r} has {len(kernel)} spatial axes, at most 2")
    padding = _padding(node, len(kernel))
    if padding is None:  # begins and ends differ: a layer of its own pads
        begins, ends = a["pads"][: len(kernel)], a["pads"][len(kernel) :]
        sides = [n for pair in zip(reversed(begins), reversed(ends), strict=True) for n in pair]
        pad = nn.ZeroPad2d if len(kernel) == 2 else nn.ZeroPad1d
        x, padding = writer.call(f"{node.name}_pad", pad(tuple(sides)), x), (0,) * len(kernel)
    group = int(a.get("group", 1))
    kind: Any = nn.Conv2d if len(kernel) == 2 else nn.Conv1d
    layer = kind(
        w.shape[1] * group,
        len(w),
        kernel,
        tuple(a.get("strides") or (1,) * len(kernel)),
        padding,
        tuple(a.get("dilations") or (1,) * len(kernel)),
        group,
    )
    return writer.call(node.name, _with_weights(layer, w, _bias(writer, node)), x)


def _padding(node: Node, rank: int) -> tuple[int, ...] | None:
    """Padding of each axis; None where its two sides differ."""
    pads = tuple(node.attrs.get("pads") or (0,) * 2 * rank)
    return pads[:rank] if pads[:rank] == pads[rank:] else None


def _linear(writer: _Writer, node: Node) -> Any:
    w = writer.data(node.inputs[1])
    layer = _with_weights(nn.Linear(*w.shape), w.T, _bias(writer, node))
    return writer.call(node.name, layer, writer.value(node.inputs[0]))


def _pool(writer: _Writer, node: Node) -> Any:
    a, rank = node.attrs, len(node.attrs["kernel_shape"])
    padding = _padding(node, rank)
    dilations = tuple(a.get("dilations") or (1,) * rank)
    if rank > 2 or padding is None or (node.op == "AveragePool" and set(dilations) != {1}):
        raise UnsupportedError(
            f"{node.op} {node.name!r}: PyTorch pools over 1 or 2 axes, with equal padding on both "
            "sides, and averages without dilations"
        )
    sizes = tuple(a["kernel_shape"]), tuple(a.get("strides") or (1,) * rank), padding
    if node.op == "MaxPool":
        module: nn.Module = (nn.MaxPool1d, nn.MaxPool2d)[rank - 1](*sizes, dilations)
    else:
        counted = bool(a.get("count_include_pad", 0))
        module = (nn.AvgPool1d, nn.AvgPool2d)[rank - 1](*sizes, count_include_pad=counted)
    return writer.call(node.name, module, writer.value(node.inputs[0]))


def _global_pool(writer: _Writer, node: Node) -> Any:
    rank = len(writer.source[node.inputs[0]].shape) - 2
    kinds: Sequence[Any] = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
    if node.op == "GlobalAveragePool":
        kinds = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
    if not 1 <= rank <= 2:
        raise UnsupportedError(f"{node.op} {node.name!r} has {rank} spatial axes, 1 or 2")
    return writer.call(node.name, kinds[rank - 1](1), writer.value(node.inputs[0]))


def _binary(writer: _Writer, node: Node) -> Any:
    return writer.graph.call_function(BINARY[node.op], tuple(map(writer.value, node.inputs)))


def _concat(writer: _Writer, node: Node) -> Any:
    parts = [writer.value(name) for name in node.inputs]
    return writer.graph.call_function(torch.cat, (parts, int(node.attrs["axis"])))


def _reshape(writer: _Writer, node: Node) -> Any:
    batch, *shape = node.attrs["shape"]
    if batch != 1:
        raise UnsupportedError(f"Reshape {node.name!r} moves values between samples")
    target = (-1, *map(int, shape))
    return writer.graph.call_function(torch.reshape, (writer.value(node.inputs[0]), target))


def _transpose(writer: _Writer, node: Node) -> Any:
    perm = tuple(map(int, node.attrs["perm"]))
    return writer.graph.call_function(torch.permute, (writer.value(node.inputs[0]), perm))


def _softmax(writer: _Writer, node: Node) -> Any:
    axis = int(node.attrs.get("axis", -1))
    return writer.call(node.name, nn.Softmax(axis), writer.value(node.inputs[0]))


def _bounded(writer: _Writer, node: Node) -> Any:
    low, high = (float(node.attrs[key]) for key in ("min", "max"))
    return writer.call(node.name, nn.Hardtanh(low, high), writer.value(node.inputs[0]))


def _sloped(writer: _Writer, node: Node) -> Any:
    slope = float(node.attrs["alpha"])
    return writer.call(node.name, nn.LeakyReLU(slope), writer.value(node.inputs[0]))


def _function(writer: _Writer, node: Node) -> Any:
    return writer.call(node.name, FUNCTIONS[node.op](), writer.value(node.inputs[0]))


MAKERS: dict[str, Maker] = {
    "Conv": _conv,
    "Linear": _linear,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(BINARY, _binary),
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "Clip": _bounded,
    "LeakyRelu": _sloped,
    **dict.fromkeys(FUNCTIONS, _function),
}
