"""A layer and the quantizer after it as one requantization, where that is exact.

The code that follows an integer sum is a staircase: monotone in the sum, one per channel. What lies
between (batch norm, bias, activation, QONNX's quantizer) is evaluated as float32, as an executor
of the model does, and bisected for the sum at which each step lies. `passes/requant_fit.py` then
looks for a bias and a scale that put every step on the same sum; a layer for which there are none
is multiplied on the accelerator and gets its codes from its real sums, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft import ops
from weft.frontend.onnx_absorb import spread
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.passes.requant_fit import Staircase, fit, holds
from weft.quant_ops import REFERENCES, output_quant

BETWEEN = (
    "BatchNormalization",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Relu",
    "Clip",
    "Identity",
    "LeakyRelu",
)
AXIS = {"Conv": 0, "Linear": 1}
LARGEST_SUM = 1 << 24  # float32 holds whole numbers up to here
BINARY = ("BipolarQuant",)
Int = NDArray[np.int64]


def fold(graph: Graph) -> Graph:
    """The graph with int8 codes where its quantizers allow it; itself without quant_ops.

    Conv and Linear nodes whose staircase is exact get the attribute `requant`, a weight scale and
    int32 bias that are the fitted ones, and `weight_bits`, the bits that their weights need. Where
    the weights were multiplied for a finer bias, `weight_factor` says by what. Others, if they
    have no groups, get `exact_sums`: their sums leave the accelerator whole.
    """
    if not any(node.op in REFERENCES for node in graph):
        return graph
    work = _Work(graph)
    for node in list(work.nodes):
        if node.op in AXIS and work.alive(node):
            work.take(node)
    work.join_inputs()
    return graph.replace(tensors=work.tensors, nodes=tuple(work.nodes)).pruned().verify()


def weight_bits(codes: Array) -> int:
    """Bits of the narrowest integers that hold `codes`; 1 for weights of -1 and 1."""
    if codes.size and np.isin(codes, (-1, 1)).all():
        return 1
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + 1


@dataclass(frozen=True)
class _Layer:
    """A weighted node, the nodes up to its quantizer, and what they read and write."""

    node: Node
    chain: tuple[Node, ...]
    weights: Tensor
    x: Quant
    y: Quant
    low: int
    high: int


class _Work:
    """The graph while layers are folded."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.ranges: dict[str, tuple[int, int]] = {}
        self.readers = graph.consumers()
        self.nodes = list(graph)
        for node in self.nodes:
            found = output_quant(node) if node.op in REFERENCES else None
            if found is not None:
                self._quantize(node.outputs[0], *found)
        self.tensors = spread(self.tensors, self.nodes, {*graph.inputs})
        self._spread_ranges()

    def join_inputs(self) -> None:
        """Takes out quantizers of inputs that do what the host does for the accelerator anyway."""
        for node in list(self.nodes):
            name = node.inputs[0] if node.inputs else ""
            if node.op != "Quant" or name not in self.graph.inputs or not self._idle(node):
                continue
            out = node.outputs[0]
            self.tensors[name] = replace(self.tensors[name], quant=self.tensors[out].quant)
            self._put(node)
            self.nodes = [
                replace(n, inputs=tuple(name if i == out else i for i in n.inputs))
                for n in self.nodes
            ]

    def _idle(self, node: Node) -> bool:
        a, out = node.attrs, node.outputs[0]
        even = a["rounding"] in ("ROUND", "HALF_EVEN") and not a["bipolar"]
        quant = self.tensors[out].quant
        if not even or quant is None or (a["low"], a["high"]) != (-128, 127) or quant.zero_point:
            return False
        alone = len(self.readers[node.inputs[0]]) == 1 and out not in self.graph.outputs
        readers = [n for n in self.nodes if out in n.inputs]
        return alone and all("weight_bits" in n.attrs for n in readers)

    def _quantize(self, name: str, quant: Quant, low: int, high: int) -> None:
        self.tensors[name] = replace(self.tensors[name], quant=quant)
        self.ranges[name] = (low, high)

    def _spread_ranges(self) -> None:
        for node in self.nodes:
            sources = [self.ranges[n] for n in node.inputs if n in self.ranges]
            if sources and node.outputs[0] not in self.ranges:
                low, high = min(s[0] for s in sources), max(s[1] for s in sources)
                if node.op == "Pad":
                    low, high = -128, 127
                self.ranges[node.outputs[0]] = (low, high)

    def alive(self, node: Node) -> bool:
        """Whether the node is still in the graph."""
        return any(n is node for n in self.nodes)

    def take(self, node: Node) -> None:
        """Folds one Conv or Linear, or leaves it as a real one."""
        x, w = self.tensors[node.inputs[0]], self.tensors[node.inputs[1]]
        if w.quant is None or w.data is None or self.tensors[node.outputs[0]].quant is not None:
            return
        layer = self._layer(node)
        fitted = self._fitted(layer) if layer is not None else None
        if fitted is not None:
            return
        whole = node.op == "Linear" or int(node.attrs.get("group", 1)) == 1
        along = w.quant.axis in (None, AXIS[node.op])
        if whole and along and x.quant is not None and w.data.dtype == np.int8:
            bits = weight_bits(w.data)
            self._put(node, node.with_attrs(exact_sums=True, weight_bits=bits))
            return
        name = self._fresh(f"{w.name}.real")
        self.tensors[name] = Tensor(name, w.shape, "float32", w.real())
        self._put(node, replace(node, inputs=(node.inputs[0], name, *node.inputs[2:])))

    def _put(self, old: Node, *new: Node) -> None:
        at = next(i for i, n in enumerate(self.nodes) if n is old)
        self.nodes[at : at + 1] = new

    def _fresh(self, base: str) -> str:
        while base in self.tensors:
            base += "'"
        return base

    def _layer(self, node: Node) -> _Layer | None:
        """The layer up to its quantizer; None if anything else looks at what lies between."""
        x, w = self.tensors[node.inputs[0]], self.tensors[node.inputs[1]]
        axis = w.quant.axis if w.quant else None
        if x.quant is None or w.data is None or axis not in (None, AXIS[node.op]):
            return None
        chain: list[Node] = []
        name = node.outputs[0]
        while not chain or chain[-1].op not in REFERENCES:
            readers = self.readers.get(name, [])
            if len(readers) != 1 or name in self.graph.outputs:
                return None
            reader = readers[0]
            if reader.op not in (*BETWEEN, *REFERENCES) or "opset" in reader.attrs:
                return None
            others = [n for n in reader.inputs if n and n != name]
            if any(self.tensors[n].data is None for n in others):
                return None
            if self.tensors[reader.outputs[0]].shape != self.tensors[name].shape:
                return None
            chain.append(reader)
            name = reader.outputs[0]
        y = self.tensors[name].quant
        if y is None or name not in self.ranges:
            return None
        assert w.quant is not None
        return _Layer(node, tuple(chain), w, x.quant, y, *self.ranges[name])

    # The staircase

    def _fitted(self, layer: _Layer) -> bool | None:
        """Puts the folded nodes in; None if there is no exact form."""
        w, node = layer.weights, layer.node
        assert w.data is not None
        axis = AXIS[node.op]
        rows = np.moveaxis(w.data.astype(np.int64), axis, 0).reshape(w.shape[axis], -1)
        low, high = self._sums(node, rows, layer.x)
        if max(-low.min(), high.max()) >= LARGEST_SUM:
            return None
        down = self._levels(layer, high[None])[0] < self._levels(layer, low[None])[0]
        sign = np.where(down, -1, 1)
        first = np.where(down, -high, low)
        last = np.where(down, -low, high)
        steps = self._steps(layer, sign, first, last)
        low_level = 0
        count = 1 if self._binary(layer) else layer.high - layer.low
        zero = 0 if self._binary(layer) else layer.y.zero_point - layer.low
        wanted = np.arange(1, count + 1) - zero if not self._binary(layer) else np.zeros(1)
        stairs = Staircase(steps, np.asarray(wanted, np.float64) - 0.5, first, last, low_level)
        plain = self._plain(layer, stairs)
        if plain is not None and not down.any() and not self._binary(layer):
            self._emit(layer, sign, 1, *plain, mode="float_even")
            return True
        largest = int(np.abs(rows).max(initial=1))
        for factor in dict.fromkeys((1, *_factors(largest))):
            found = fit(stairs, factor)
            if found is not None and np.abs(rows * factor).max(initial=0) <= 127:
                self._emit(layer, sign * factor, factor, *found)
                return True
        return None

    def _plain(self, layer: _Layer, stairs: Staircase) -> tuple[Int, Array] | None:
        """The layer's own scales and bias, rounded to even, if they pass every step rightly."""
        w = layer.weights.quant
        assert w is not None
        channels = len(stairs.first)
        unit = np.broadcast_to(np.float64(layer.x.scale) * np.float64(w.scale), (channels,))
        name = layer.node.inputs[2] if len(layer.node.inputs) > 2 else ""
        real = np.zeros(channels)
        if name:
            real = np.asarray(self.tensors[name].real(), np.float64).reshape(-1)
        bias = np.broadcast_to(np.rint(real / unit), (channels,)).astype(np.int64)
        scale = unit / np.float64(layer.y.scale)
        good = np.abs(bias).max() < 1 << 30 and holds(stairs, bias, scale, 1, "float_even")
        return (bias, scale) if good else None

    def _sums(self, node: Node, rows: Int, x: Quant) -> tuple[Int, Int]:
        """Smallest and largest sum of each channel; padding adds nothing."""
        codes = self.ranges.get(node.inputs[0], (-128, 127))
        small, large = codes[0] - x.zero_point, codes[1] - x.zero_point
        a, b = rows * small, rows * large
        padded = node.op == "Conv" and any(node.attrs.get("pads") or ())
        zero = np.zeros_like(a) if padded else a
        low = np.minimum(np.minimum(a, b), zero).sum(axis=1)
        high = np.maximum(np.maximum(a, b), zero).sum(axis=1)
        return low, high

    def _binary(self, layer: _Layer) -> bool:
        last = layer.chain[-1]
        return last.op in BINARY or bool(last.attrs.get("bipolar"))

    def _levels(self, layer: _Layer, sums: Int) -> Int:
        """Steps passed, 0.., by sums [n, channels]."""
        w = layer.weights
        assert w.quant is not None
        unit = np.float64(layer.x.scale) * np.asarray(w.quant.scale, np.float64)
        real = (sums * unit).astype(np.float32)
        name = layer.node.inputs[2] if len(layer.node.inputs) > 2 else ""
        if name:
            bias = self.tensors[name]
            assert bias.data is not None, "constants only"
            real = real + np.asarray(bias.real(), np.float32).reshape(-1)
        rank = len(self.tensors[layer.node.outputs[0]].shape)
        if layer.node.op == "Conv":
            real = real.reshape(*real.shape, *[1] * (rank - 2))
        else:
            real = real.reshape(len(real), *[1] * (rank - 2), -1)
        before = layer.node.outputs[0]
        for node in layer.chain:
            values = [
                real if n == before else np.asarray(self.tensors[n].real())
                for n in node.inputs
                if n
            ]
            before = node.outputs[0]
            with np.errstate(all="ignore"):
                real = np.asarray(ops.spec_of(node).reference(node, values)[0], np.float32)
        code = np.rint(real / layer.y.scale) + layer.y.zero_point
        level = code.reshape(sums.shape).astype(np.int64) - layer.low
        return np.asarray(level // 2 if self._binary(layer) else level)

    def _steps(self, layer: _Layer, sign: Int, first: Int, last: Int) -> Int:
        """[channels, steps]: the smallest (signed) sum at which each step is passed; last + 1 if
        none is."""
        count = 1 if self._binary(layer) else layer.high - layer.low
        wanted = np.arange(1, count + 1)[:, None]
        low = np.broadcast_to(first, (count, len(first))).copy()
        high = np.broadcast_to(last + 1, (count, len(first))).copy()
        while (low < high).any():
            middle = (low + high) // 2
            passed = (self._levels(layer, np.minimum(middle, last) * sign) >= wanted) & (
                middle <= last
            )
            open_ = low < high
            high = np.where(passed & open_, middle, high)
            low = np.where(~passed & open_, middle + 1, low)
        return np.ascontiguousarray(low.T)

    def _emit(
        self,
        layer: _Layer,
        by: Int,
        factor: int,
        bias: Int,
        scale: Array,
        mode: str = "single_round",
    ) -> None:
        """Replaces the layer's nodes by the one that is fitted."""
        node, w, out = layer.node, layer.weights, layer.chain[-1].outputs[0]
        assert w.data is not None
        axis, rank = AXIS[node.op], w.data.ndim
        along = by.reshape([-1 if i == axis else 1 for i in range(rank)])
        binary = self._binary(layer)
        y = Quant(np.asarray(1, np.float32), 0) if binary else layer.y
        w_scale = np.asarray(scale * np.float64(y.scale) / np.float64(layer.x.scale), np.float32)
        w_name, b_name = self._fresh(f"{w.name}.codes"), self._fresh(f"{node.name}.bias")
        meaning = Quant(w_scale, 0, axis)
        data = (w.data.astype(np.int64) * along).astype(np.int8)
        self.tensors[w_name] = Tensor(w_name, data.shape, "float32", data, meaning)
        unit = np.asarray(np.float32(layer.x.scale) * w_scale, np.float32)
        self.tensors[b_name] = Tensor(
            b_name, bias.shape, "float32", bias.astype(np.int32), Quant(unit, 0, 0)
        )
        bounds = (-1, 0) if binary else (layer.low, layer.high)
        clip = tuple(float((v - y.zero_point) * np.float32(y.scale)) for v in bounds)
        attrs = {**node.attrs, "requant": mode, "weight_bits": weight_bits(w.data)}
        if bounds != (-128, 127):
            attrs["activation"] = ("Clip", *clip)
        if factor != 1:
            attrs["weight_factor"] = factor
        target = self._fresh(f"{out}.step") if binary else out
        if binary:
            self.tensors[target] = Tensor(target, self.tensors[out].shape, quant=y)
        made = [Node(node.op, node.name, (node.inputs[0], w_name, b_name), (target,), attrs)]
        if binary:
            made.append(replace(layer.chain[-1], inputs=(target,)))
        for old in layer.chain:
            self._put(old)
        self._put(node, *made)


def _factors(largest: int) -> list[int]:
    """What weights up to `largest` may be multiplied with, finest first."""
    limit = 127 // largest
    return [f for f in (limit, *(1 << i for i in range(6, 0, -1))) if 1 < f <= limit]
