"""Small random encoders, float and quantized, and what integers say of their attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weft
from weft.config import Overlay
from weft.device.golden import Golden
from weft.graph import Graph, Node, Tensor
from weft.lower import lower
from weft.nonlinear import method
from weft.passes.quantize import quantize
from weft.program import Program
from weft.runtime import Session
from weft.units import requant
from weft.units.fixed import normalized, rounded

UNITS = ("requant", "vector", "lookup", "attention")
# Lanes 16 and 32; the second so small that scores are made in parts.
LANES16 = Overlay(
    "att16", 16, 16, 16, 8192, 256, 64, 64, units=UNITS, wide_words=1024, operand_words=1024
)
LANES32 = Overlay(
    "att32", 32, 32, 16, 4096, 64, 64, 64, "packed", units=UNITS, wide_words=256,
    operand_words=1024,
)  # fmt: skip
OVERLAYS = (LANES16, LANES32)
FEW = 3  # samples


@dataclass
class Net:
    """A float graph under construction."""

    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def input(self, name: str, *shape: int, dtype: str = "float32") -> str:
        self.tensors[name] = Tensor(name, (1, *shape), dtype)
        self.inputs.append(name)
        return name

    def constant(self, data: Any) -> str:
        name, array = f"c{len(self.tensors)}", np.asarray(data, np.float32)
        self.tensors[name] = Tensor(name, array.shape, "float32", array)
        return name

    def node(self, op: str, inputs: Sequence[str], shape: Sequence[int], /, **attrs: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.tensors[name] = Tensor(name, tuple(shape))
        self.nodes.append(Node(op, name, tuple(inputs), (name,), attrs))
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def linear(self, x: str, n: int) -> str:
        k = self.shape(x)[-1]
        w = self.constant(self.rng.normal(0, 1 / np.sqrt(k), (k, n)))
        b = self.constant(self.rng.normal(0, 0.1, n))
        return self.node("Linear", [x, w, b], (*self.shape(x)[:-1], n))

    def norm(self, x: str, op: str = "LayerNorm") -> str:
        d = self.shape(x)[-1]
        gamma = self.constant(self.rng.uniform(0.5, 1.5, d))
        beta = [self.constant(self.rng.normal(0, 0.2, d))] if op == "LayerNorm" else []
        return self.node(op, [x, gamma, *beta], self.shape(x), epsilon=1e-5)

    def add(self, x: str, y: str) -> str:
        return self.node("Add", [x, y], self.shape(x))

    def attention(self, x: str, memory: str, heads: int, width: int, **options: Any) -> str:
        """Attention of x to memory; options: kv_heads, bias (a shape), keys, and its attributes."""
        shared = options.pop("kv_heads", heads)
        bias, keys = options.pop("bias", None), options.pop("keys", "")
        inputs = [
            self.linear(x, heads * width),
            self.linear(memory, shared * width),
            self.linear(memory, shared * width),
            self.constant(self.rng.normal(0, 1, bias)) if bias else "",
            keys,
        ]
        while not inputs[-1]:
            inputs.pop()
        attrs = {"heads": heads, "kv_heads": shared, "scale": width**-0.5, "causal": 0, **options}
        return self.node("Attention", inputs, (*self.shape(x)[:-1], heads * width), **attrs)

    def graph(self, *outputs: str) -> Graph:
        return Graph(
            "encoder", self.tensors, tuple(self.nodes), tuple(self.inputs), outputs
        ).verify()


def attention_net(
    tokens: int = 20, channels: int = 32, heads: int = 2, width: int = 32, *,
    memory: int = 0, seed: int = 0, **options: Any,
) -> Graph:  # fmt: skip
    """Projections, attention, the output's projection; with `memory` tokens to another input."""
    net = Net(seed)
    x = net.input("x", tokens, channels)
    other = net.input("memory", memory, channels) if memory else x
    return net.graph(net.linear(net.attention(x, other, heads, width, **options), channels))


def encoder(
    tokens: int = 16, channels: int = 32, heads: int = 2, width: int = 16, inner: int = 64, *,
    layers: int = 1, post: bool = False, norm: str = "LayerNorm", memory: int = 0, seed: int = 0,
    **options: Any,
) -> Graph:  # fmt: skip
    """A Transformer's encoder; `post`: norms behind the residuals, as the first one had them."""
    net = Net(seed)
    x = net.input("x", tokens, channels)
    other = net.input("memory", memory, channels) if memory else ""
    if post:
        x = net.norm(x, norm)
    for _ in range(layers):
        read = x if post else net.norm(x, norm)
        mixed = net.attention(read, other or read, heads, width, **options)
        x = net.add(net.linear(mixed, channels), x)
        x = net.norm(x, norm) if post else x
        read = x if post else net.norm(x, norm)
        active = net.node("Gelu", [net.linear(read, inner)], (1, tokens, inner), approximate="none")
        x = net.add(net.linear(active, channels), x)
        x = net.norm(x, norm) if post else x
    return net.graph(x if post else net.norm(x, norm))


def samples(graph: Graph, seed: int = 1, count: int = 8) -> dict[str, NDArray[np.float32]]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(count, *graph[name].shape[1:])).astype(np.float32)
        for name in graph.inputs
    }


def few(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Inputs that did not calibrate it, FEW samples."""
    return samples(graph, seed=2, count=FEW)


def run(program: Program, feeds: dict[str, Any]) -> Any:
    """The golden model's output."""
    with Session(program, Golden()) as session:
        return next(iter(session.run(feeds).values()))


def check_simulation(graph: Graph, program: Program) -> None:
    """The simulation equals golden in every layer, and takes the clocks that are estimated."""
    feeds = few(graph)
    assert weft.check(program, feeds, "csim").first_difference is None
    with weft.open(program, "csim") as session:
        _, took = session.run(feeds, detail=True)
    assert took.cycles == FEW * weft.estimate(program).cycles


def compiled(graph: Graph, overlay: Overlay) -> tuple[Graph, Program]:
    """The quantized graph and its program."""
    quantized = quantize(graph, samples(graph))
    return quantized, lower(quantized, overlay)


def cut(graph: Graph, tokens: dict[str, int], counts: dict[str, str]) -> Graph:
    """A quantized graph for other numbers of tokens; `counts` as in Program.tokens."""
    tensors = dict(graph.tensors)
    for name, root in counts.items():
        if name in tensors:
            shape = tensors[name].shape
            tensors[name] = replace(tensors[name], shape=(1, tokens[root], *shape[2:]))
    for node in graph:
        if node.op == "Attention" and len(node.inputs) > 3 and node.inputs[3]:
            sizes = [tokens[counts[name]] for name in node.inputs[:2]]
            bias = graph[node.inputs[3]]
            data = bias.data[:, : sizes[0], : sizes[1]]
            tensors[bias.name] = replace(bias, data=data, shape=data.shape)
    return graph.replace(tensors=tensors).verify()


def linear_codes(graph: Graph, node: Node, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes of a Linear's output for codes [tokens, K] of its input."""
    quant, y = graph[node.inputs[0]].quant, graph[node.outputs[0]].quant
    w, bias = graph[node.inputs[1]], graph[node.inputs[2]]
    sums = (x - quant.zero_point) @ w.data.astype(np.int64) + bias.data
    scale = requant.combined_scale(quant.scale, w.quant.scale, y.scale, "single_round")
    codes = requant.requantize(sums, *requant.encode(scale, "single_round"), "single_round")
    return np.clip(codes + y.zero_point, -128, 127)


def attention_codes(graph: Graph, node: Node, operands: Sequence[NDArray[np.int64]]) -> Any:
    """Codes [tokens, heads · width] of an Attention, head by head and query by query."""
    q, k, v = operands
    quants = [graph[name].quant for name in node.inputs[:3]]
    y = graph[node.outputs[0]].quant
    heads, shared = node.attrs["heads"], node.attrs["kv_heads"]
    width, value = q.shape[1] // heads, v.shape[1] // shared
    factor = np.float64(np.float32(quants[0].scale)) * np.float64(np.float32(quants[1].scale))
    scale = requant.encode(factor * node.attrs["scale"] * 1024, "single_round")
    done = np.float64(np.float32(quants[2].scale)) / 2**16 / np.float64(np.float32(y.scale))
    out = requant.encode(done, "single_round")
    bias = None
    if len(node.inputs) > 3 and node.inputs[3]:
        bias = np.clip(np.rint(graph[node.inputs[3]].data * 1024.0), -32767, 32767).astype(int)
    found = np.zeros((len(q), heads * value), np.int64)
    left, right = node.attrs.get("left", -(1 << 20)), node.attrs.get("right", 1 << 20)
    right = min(right, 0) if node.attrs["causal"] else right
    for h in range(heads):
        g = h * shared // heads
        keys = k[:, g * width : (g + 1) * width]
        values = v[:, g * value : (g + 1) * value]
        for m in range(len(q)):
            sums = keys @ q[m, h * width : (h + 1) * width]
            scores = requant.requantize(sums, *scale, "single_round")
            if bias is not None:
                scores = scores + bias[h if len(bias) > 1 else 0, m]
            scores = np.clip(scores, -32767, 32767)
            away = np.arange(len(k)) - m
            seen = (away >= left) & (away <= right)
            shares = shares_of(scores[seen]) @ values[seen] if seen.any() else np.zeros(value)
            total = shares_of(scores[seen]).sum() if seen.any() else 0
            code = requant.requantize(divided(shares.astype(int), total), *out, "single_round")
            found[m, h * value : (h + 1) * value] = np.clip(code + y.zero_point, -128, 127)
    return found


def shares_of(scores: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes 0..127 of exp(score - maximum), by the method of the overlays."""
    e = method("exp", "pwl").golden(scores - scores.max())
    return np.minimum((e * 127 + (1 << 14)) >> 15, 127)


def divided(sums: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """sums / total with 16 fraction bits, by the reciprocal of the overlays."""
    if total == 0:
        return np.zeros_like(sums)
    mantissa, exponent = normalized(np.asarray([total]))
    factor = method("reciprocal", "pwl").golden(mantissa)
    return rounded(sums * factor * 4, 16 + exponent)
