"""QuantizeLinear and DequantizeLinear disappear into `Tensor.quant`.

Codes are followed through the graph: each codes tensor stands for a real tensor that carries
`quant`. Operators that only move codes, or pick the largest, work on the real tensors instead.
Where codes themselves are needed (an integer input or output of the model, an integer operator
left to onnx), the QuantizeLinear or DequantizeLinear stays and runs on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from weft.graph import Graph, Node, Quant, Tensor
from weft.passes.bias import integer_bias
from weft.passes.fuse import same_quant

MOVES = (
    *("Reshape", "Transpose", "Slice", "Concat", "Pad", "Resize", "DepthToSpace", "Gather"),
    *("MaxPool", "GlobalMaxPool", "Identity"),
)
WEIGHT_AXIS = {"Conv": 0, "Linear": 1}


@dataclass(frozen=True)
class _Codes:
    """A codes tensor: the real tensor it stands for, and how."""

    real: str
    quant: Quant
    source: Node  # the QuantizeLinear whose scale and zero point it has


def absorb(graph: Graph) -> Graph:
    """The graph in the canonical form of quantized graphs; itself if nothing is quantized."""
    kinds = {node.op for node in graph}
    if not kinds & {"QuantizeLinear", "DequantizeLinear"} and not any(
        t.quant for t in graph.tensors.values()
    ):
        return graph
    work = _Absorb(graph)
    for node in graph:
        work.take(node)
    tensors = spread(work.tensors, work.nodes, work.finish())
    nodes = tuple(_finished(node, tensors) for node in work.nodes)
    return graph.replace(tensors=tensors, nodes=nodes).pruned().verify()


def quant_of(node: Node, tensors: dict[str, Tensor]) -> Quant | None:
    """What the codes of a Quantize- or DequantizeLinear mean; None if not int8 per tensor."""
    scale, zero = tensors[node.inputs[1]].data, tensors[node.inputs[2]].data
    if "opset" in node.attrs or scale is None or zero is None or scale.ndim:
        return None
    if zero.dtype not in (np.int8, np.uint8):
        return None
    shift = 128 if zero.dtype == np.uint8 else 0
    return Quant(np.asarray(scale, np.float32), int(zero) - shift)


class _Absorb:
    """Walks the nodes in order and rebuilds them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.nodes: list[Node] = []
        self.codes: dict[str, _Codes] = {}
        self.alias: dict[str, str] = {}
        self.written: set[str] = set()
        self.readers = graph.consumers()

    def take(self, node: Node) -> None:
        """Handles one node."""
        node = replace(node, inputs=tuple(self.alias.get(n, n) for n in node.inputs))
        if node.op == "QuantizeLinear" and self._quantize(node):
            return
        if node.op == "DequantizeLinear" and self._dequantize(node):
            return
        if node.op in MOVES and self._move(node):
            return
        for name in node.inputs:
            self._need(name)
        self.nodes.append(node)

    def _quantize(self, node: Node) -> bool:
        quant = quant_of(node, self.tensors)
        x = self.tensors[node.inputs[0]]
        if quant is None:
            return False
        if x.quant is None and self._only_for(node, x, quant):
            self.tensors[x.name] = x = replace(x, quant=quant)
        if x.quant is None or not same_quant(x.quant, quant):
            x = self._fresh(node.outputs[0], x, quant)
            self.nodes.append(Node("Identity", x.name, node.inputs[:1], (x.name,)))
        self.codes[node.outputs[0]] = _Codes(x.name, quant, node)
        return True

    def _only_for(self, node: Node, x: Tensor, quant: Quant) -> bool:
        """Whether `x` is read by nothing but QuantizeLinears of these parameters."""
        if x.data is not None or x.name in self.graph.outputs or x.dtype != "float32":
            return False
        readers = self.readers.get(x.name, [])
        return all(
            r.op == "QuantizeLinear"
            and r.inputs[0] == x.name
            and same_quant(quant_of(r, self.tensors), quant)
            for r in readers
        ) and bool(readers)

    def _dequantize(self, node: Node) -> bool:
        quant = quant_of(node, self.tensors)
        codes = self.codes.get(node.inputs[0])
        if quant is None:
            return False
        if codes is not None and same_quant(codes.quant, quant):
            self.alias[node.outputs[0]] = codes.real
            return True
        out = self.tensors[node.outputs[0]]  # codes × scale: it has no more than these values
        self.tensors[out.name] = replace(out, quant=quant)
        return False

    def _move(self, node: Node) -> bool:
        found = [self.codes.get(n) for n in node.inputs if n and self.tensors[n].data is None]
        if not found or "opset" in node.attrs or len(node.outputs) > 1:
            return False
        first = found[0]
        if first is None or any(c is None or not same_quant(c.quant, first.quant) for c in found):
            return False
        if any(n and self.tensors[n].data is not None for n in node.inputs) and node.op == "Concat":
            return False
        quant, out = first.quant, self.tensors[node.outputs[0]]
        if node.op == "Pad":
            shift = 128 if out.dtype == "uint8" else 0
            code = node.attrs["value"] - shift - quant.zero_point
            node = node.with_attrs(value=float(code * np.float32(quant.scale)))
        real = self._fresh(out.name, out, quant)
        inputs = tuple(self.codes[n].real if n in self.codes else n for n in node.inputs)
        self.nodes.append(replace(node, inputs=inputs, outputs=(real.name,)))
        self.codes[out.name] = _Codes(real.name, quant, first.source)
        return True

    def _fresh(self, base: str, like: Tensor, quant: Quant) -> Tensor:
        name = f"{base}.real"
        while name in self.tensors:
            name += "_"
        self.tensors[name] = Tensor(name, like.shape, "float32", None, quant)
        return self.tensors[name]

    def _need(self, name: str) -> None:
        """Makes sure that the codes tensor `name` is written, for a node that reads codes."""
        codes = self.codes.get(name)
        if codes is None or name in self.written:
            return
        self.written.add(name)
        source = codes.source
        self.nodes.append(replace(source, inputs=(codes.real, *source.inputs[1:]), outputs=(name,)))

    def finish(self) -> set[str]:
        """Writes the graph's outputs; the names that must keep their meaning."""
        for name in self.graph.outputs:
            self._need(name)
        for name in self.graph.outputs:
            if name in self.alias:
                self._write_output(name, self.alias[name])
        return {*self.graph.inputs, *self.graph.outputs}

    def _write_output(self, name: str, real: str) -> None:
        """An output that is another tensor: takes over its place, or copies it."""
        self.tensors[name] = replace(self.tensors[real], name=name)
        if real in self.graph.inputs or real in self.graph.outputs:
            self.nodes.append(Node("Identity", name, (real,), (name,)))
            return
        self.nodes = [_renamed(node, real, name) for node in self.nodes]
        for other, target in list(self.alias.items()):
            if target == real:
                self.alias[other] = name


def _renamed(node: Node, old: str, new: str) -> Node:
    inputs = tuple(new if n == old else n for n in node.inputs)
    outputs = tuple(new if n == old else n for n in node.outputs)
    return replace(node, inputs=inputs, outputs=outputs)


def spread(tensors: dict[str, Tensor], nodes: list[Node], fixed: set[str]) -> dict[str, Tensor]:
    """Gives `quant` to what only moves between quantized tensors: moving keeps codes."""
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1

    def activations(node: Node) -> list[Tensor]:
        return [tensors[n] for n in node.inputs if n and tensors[n].data is None]

    movers = [n for n in nodes if n.op in MOVES and n.op != "Identity" and len(n.outputs) == 1]
    for node in movers:
        out, found = tensors[node.outputs[0]], activations(node)
        same = found and all(same_quant(t.quant, found[0].quant) for t in found)
        quant = found[0].quant if same else None
        if quant is None or out.quant is not None or out.name in fixed:
            continue
        if _keeps_codes(node, quant):
            tensors[out.name] = replace(out, quant=quant)
    for node in reversed(movers):
        quant = tensors[node.outputs[0]].quant
        if quant is None or not _keeps_codes(node, quant):
            continue
        for t in activations(node):
            if t.quant is None and readers[t.name] == 1 and t.name not in fixed:
                tensors[t.name] = replace(t, quant=quant)
    return tensors


def _keeps_codes(node: Node, quant: Quant) -> bool:
    """Whether the node's output has codes if its inputs have (a padded value may be none)."""
    if node.op != "Pad" or node.attrs["mode"] != "constant":
        return True
    value = np.asarray(node.attrs["value"], np.float32)
    return bool(quant.dequantize(quant.quantize(value)) == value)


def _finished(node: Node, tensors: dict[str, Tensor]) -> Node:
    """The node with its rounding named, its weights and bias in canonical form."""
    if node.op in WEIGHT_AXIS:
        _finish_weights(node, tensors)
        node = _finish_bias(node, tensors)
    quantized = any(tensors[n].quant is not None for n in node.outputs if n)
    return node.with_attrs(requant="float_even") if quantized else node


def _finish_weights(node: Node, tensors: dict[str, Tensor]) -> None:
    """Weights whose scales run along another axis, or are too wide, become real."""
    w = tensors[node.inputs[1]]
    if w.quant is None or w.data is None:
        return
    if w.quant.axis not in (None, WEIGHT_AXIS[node.op]) or w.data.dtype == np.int32:
        tensors[w.name] = Tensor(w.name, w.shape, "float32", w.real())


def _finish_bias(node: Node, tensors: dict[str, Tensor]) -> Node:
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = tensors[name] if name else None
    if bias is None or bias.data is None:
        return node
    x, w = tensors[node.inputs[0]].quant, tensors[node.inputs[1]].quant
    fixed = integer_bias(bias, x, w) if x and w else Tensor(name, bias.shape, data=bias.real())
    if fixed is bias or (fixed.quant is None and bias.quant is None):
        return node
    fresh = f"{name}.{node.name}"
    while fresh in tensors:
        fresh += "_"
    tensors[fresh] = replace(fixed, name=fresh)
    return replace(node, inputs=(*node.inputs[:2], fresh))
