"""Linear with ranges found at run time: the host quantizes each row, the accelerator multiplies.

    s = max |x| / 127 per row        q = round(x / s)
    y = (q · W) · s · weight scale + bias

The sums leave the accelerator whole, as four planes of bytes, and the host puts them together:
byte 3 is signed, the others are not. Added up from the lowest, the sum is rounded to float32 once.

A Linear or Conv with the attribute `exact_sums` (of a network trained with quantizers: its last
layer, and those that no requantization is exact for) has codes already; only its output is real:

    y = (q · W − zero point · ΣW) · input scale · weight scale + bias
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from weft.format import SMALLEST_SCALE
from weft.formats.int8 import HIGH
from weft.graph import Graph, Node, Quant, Shape, Tensor

CODES = Quant(np.asarray(1, np.float32))  # real values that are the codes themselves


def expand_dynamic(graph: Graph, lanes: int) -> Graph:
    """Replaces every Linear with the attribute `dynamic` by quantization, LinearBytes and sums.

    One with `exact_sums` is replaced by LinearBytes and sums.
    """
    if not any(_whole_sums(node) for node in graph):
        return graph
    tensors, nodes = dict(graph.tensors), []
    for node in graph:
        if _whole_sums(node):
            parts = _Parts(tensors, node.name or node.outputs[0])
            (_expand if node.attrs.get("dynamic") else _expand_exact)(parts, node, lanes)
            nodes += parts.nodes
        else:
            nodes.append(node)
    return graph.replace(tensors=tensors, nodes=tuple(nodes)).verify()


def _whole_sums(node: Node) -> bool:
    asked = node.attrs.get("dynamic") or node.attrs.get("exact_sums")
    return node.op in ("Linear", "Conv") and bool(asked)


@dataclass
class _Parts:
    """Nodes that take the place of one, and the tensors between them."""

    tensors: dict[str, Tensor]
    prefix: str
    nodes: list[Node] = field(default_factory=list)

    def constant(self, value: Any) -> str:
        name = f"{self.prefix}/c{len(self.tensors)}"
        data = np.asarray(value, np.float32)
        self.tensors[name] = Tensor(name, data.shape, "float32", data)
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Shape,
        *,
        quant: Quant | None = None,
        out: str = "",
        dtype: str = "float32",
        **attrs: Any,
    ) -> str:
        name = out or f"{self.prefix}/t{len(self.tensors)}"
        if not out:
            self.tensors[name] = Tensor(name, shape, dtype, quant=quant)
        self.nodes.append(
            Node(op, f"{self.prefix}/{op}{len(self.nodes)}", tuple(inputs), (name,), attrs)
        )
        return name


def _expand(parts: _Parts, node: Node, lanes: int) -> None:
    x, w = parts.tensors[node.inputs[0]], parts.tensors[node.inputs[1]]
    assert w.quant is not None, "a dynamic Linear has quantized weights"
    rows: Shape = (*x.shape[:-1], 1)
    last = len(x.shape) - 1
    size = parts.node("Abs", [x.name], x.shape)
    size = parts.node("ReduceMax", [size], rows, axes=[last], keepdims=1)
    scale = parts.node("Div", [size, parts.constant(HIGH)], rows)
    scale = parts.node("Max", [scale, parts.constant(SMALLEST_SCALE)], rows)
    codes = parts.node("Div", [x.name, scale], x.shape)
    codes = parts.node("Round", [codes], x.shape, quant=CODES)
    sums = _byte_sums(parts, node, codes, lanes)
    shape = parts.tensors[sums].shape
    sums = parts.node("Mul", [sums, scale], shape)
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else parts.constant(0)
    sums = parts.node("Mul", [sums, parts.constant(w.quant.scale)], shape)
    _finish(parts, node, [sums, bias], shape)


def _expand_exact(parts: _Parts, node: Node, lanes: int) -> None:
    x, w = parts.tensors[node.inputs[0]], parts.tensors[node.inputs[1]]
    assert x.quant is not None
    assert w.quant is not None
    assert w.data is not None
    sums = _byte_sums(parts, node, x.name, lanes)
    shape = parts.tensors[sums].shape
    axis, after = (0, len(shape) - 2) if node.op == "Conv" else (1, 0)

    def along(values: Any) -> str:
        array = np.asarray(values)
        return parts.constant(array.reshape(-1, *[1] * after) if array.ndim else array)

    if x.quant.zero_point:
        others = tuple(i for i in range(w.data.ndim) if i != axis)
        totals = w.data.astype(np.int64).sum(axis=others)
        sums = parts.node("Add", [sums, along(-x.quant.zero_point * totals)], shape)
    unit = np.float64(x.quant.scale) * np.asarray(w.quant.scale, np.float64)
    sums = parts.node("Mul", [sums, along(unit)], shape)
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else ""
    offset = along(parts.tensors[bias].real()) if bias else parts.constant(0)
    _finish(parts, node, [sums, offset], shape)


def _byte_sums(parts: _Parts, node: Node, codes: str, lanes: int) -> str:
    """The sums of `codes` times the weights of `node`, as float32."""
    shape = parts.tensors[node.outputs[0]].shape
    axis = 1 if node.op == "Conv" else len(shape) - 1
    wide = -(-shape[axis] // lanes) * lanes
    planes = (*shape[:axis], 4 * wide, *shape[axis + 1 :])
    inputs = [codes, node.inputs[1]]
    attrs = {k: v for k, v in node.attrs.items() if k in ("strides", "pads", "dilations", "group")}
    name = parts.node(f"{node.op}Bytes", inputs, planes, quant=CODES, **attrs)
    parts.nodes[-1] = replace(parts.nodes[-1], name=node.name)
    return _sums(parts, name, shape, wide, axis)


def _finish(parts: _Parts, node: Node, operands: list[str], shape: Shape) -> None:
    """Bias and activation; slopes per channel run along the last dimension."""
    activation = node.attrs.get("activation")
    if activation and activation[0] == "PRelu":
        y = parts.node("Add", operands, shape)
        after = len(shape) - 2 if node.op == "Conv" else 0
        slopes = parts.constant(np.asarray(activation[1]).reshape(-1, *[1] * after))
        parts.node("PRelu", [y, slopes], shape, out=node.outputs[0])
        return
    attrs: dict[str, Any] = {"activation": activation} if activation else {}
    parts.node("Add", operands, shape, out=node.outputs[0], **attrs)


def byte_sums(name: str, planes: str, columns: int, wide: int) -> Graph:
    """The graph of [1, columns] sums, called `name`, of four byte planes `wide` columns apart."""
    shape: Shape = (1, columns)
    tensors = {
        planes: Tensor(planes, (1, 4 * wide), "float32", quant=CODES),
        name: Tensor(name, shape, "float32"),
    }
    parts = _Parts(tensors, name)
    total = _sums(parts, planes, shape, wide, 1)
    parts.node("Identity", [total], shape, out=name)
    return Graph(name, tensors, tuple(parts.nodes), (planes,), (name,)).verify()


def _sums(parts: _Parts, planes: str, shape: Shape, wide: int, axis: int) -> str:
    """The int32 sums, as float32, of byte planes `wide` columns (or channels) apart."""
    total = ""
    for byte in range(4):
        cut: dict[str, Any] = {"starts": [byte * wide], "ends": [byte * wide + shape[axis]]}
        part = parts.node("Slice", [planes], shape, axes=[axis], steps=[1], **cut)
        if byte < 3:
            below = parts.node("Less", [part, parts.constant(0)], shape, dtype="bool")
            higher = parts.node("Add", [part, parts.constant(256)], shape)
            part = parts.node("Where", [below, higher, part], shape)
        if byte:
            part = parts.node("Mul", [part, parts.constant(256.0**byte)], shape)
        total = parts.node("Add", [total, part], shape) if total else part
    return total
