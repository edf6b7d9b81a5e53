"""Quantization that was chosen elsewhere: attached to a float graph, it is what runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from weft import formats
from weft.errors import ModelError, UsageError
from weft.graph import Graph, Node, Quant, Tensor
from weft.passes.attach import Weights, attach
from weft.passes.quantize import BIAS_LIMIT

WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1), "group": 1}
POOL = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(bias: float = 1.0) -> Graph:
    """Conv, Relu, MaxPool, Reshape, Linear: not fused."""
    constants = {"w": normal(4, 3, 3, 3), "b": normal(4) * bias, "v": normal(16, 5), "c": normal(5)}
    shapes = {
        "x": (1, 3, 4, 4), "conv": (1, 4, 4, 4), "relu": (1, 4, 4, 4), "pool": (1, 4, 2, 2),
        "flat": (1, 16), "y": (1, 5),
    }  # fmt: skip
    tensors = {n: Tensor(n, a.shape, "float32", a) for n, a in constants.items()}
    tensors |= {n: Tensor(n, shape) for n, shape in shapes.items()}
    nodes = (
        Node("Conv", "first", ("x", "w", "b"), ("conv",), WINDOW),
        Node("Relu", "relu", ("conv",), ("relu",)),
        Node("MaxPool", "pool", ("relu",), ("pool",), POOL),
        Node("Reshape", "flat", ("pool",), ("flat",), {"shape": (1, 16)}),
        Node("Linear", "second", ("flat", "v", "c"), ("y",)),
    )
    return Graph("net", tensors, nodes, ("x",), ("y",)).verify()


def weights(graph: Graph, kind: str) -> dict[str, Weights]:
    fmt, found = formats.parse(kind), {}
    w, v = graph["w"].data, graph["v"].data
    assert w is not None
    assert v is not None
    for name, real in (("w", w.reshape(4, 3, 9).transpose(0, 2, 1)), ("v", v.T[:, None, :])):
        real = np.ascontiguousarray(real)
        quant = fmt.fit(real, 0)
        found[name] = Weights(fmt.quantize(real, quant), quant)
    return found


def quant(scale: float, zero: int = 0, kind: str = "int8") -> Quant:
    return Quant(np.asarray(scale, np.float32), zero, format=kind)


RANGES = {"x": quant(0.03), "relu": quant(0.06, -128), "y": quant(0.2)}


@pytest.mark.parametrize("kind", ["int8", "int4", "int4:g32", "uint3", "flint4", "mxfp4", "nvfp4"])
def test_golden_computes_with_what_was_attached(kind: str) -> None:
    graph = network()
    given = weights(graph, kind)
    made = attach(graph, given, RANGES, requant="float_even")
    assert made["flat"].quant == RANGES["relu"]
    first, second = (n for n in made if n.op in ("Conv", "Linear"))
    np.testing.assert_array_equal(
        made[first.inputs[1]].data, given["w"].operands.transpose(0, 2, 1).reshape(4, 3, 3, 3)
    )
    np.testing.assert_array_equal(made[second.inputs[1]].data, given["v"].operands[:, 0].T)
    x = normal(40, 3, 4, 4, seed=3)
    with weft.open(weft.compile(made, "lab"), "golden") as session:
        found = np.rint(np.asarray(session.run(x)) / 0.2)
    np.testing.assert_array_equal(found, by_hand(graph, given, x))


def by_hand(graph: Graph, given: dict[str, Weights], x: np.ndarray) -> np.ndarray:
    """Codes of the output in double precision, from the definition."""

    def real(name: str) -> np.ndarray:
        own = given[name]
        scale = np.asarray(own.quant.scale, np.float64)
        return own.operands.astype(np.float64) * scale.reshape(-1, 1, 1)

    def bias(name: str, source: Quant, layer: str) -> np.ndarray:
        value = np.asarray(graph[name].data, np.float64)
        if given[layer].operands.dtype.kind == "f":
            return value
        unit = (source.scale * given[layer].quant.scale).astype(np.float64)
        return np.rint(value / unit) * unit

    codes = RANGES["x"].dequantize(RANGES["x"].quantize(x)).astype(np.float64)
    padded = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    kernel = real("w").transpose(0, 2, 1).reshape(4, 3, 3, 3)
    sums = np.einsum("nchwij,ocij->nohw", windows, kernel)
    sums += bias("b", RANGES["x"], "w").reshape(-1, 1, 1)
    relu = np.clip(np.rint(np.maximum(sums, 0) / np.float64(RANGES["relu"].scale)), 0, 255)
    pool = relu.reshape(-1, 4, 2, 2, 2, 2).max((3, 5)).reshape(-1, 16)
    y = pool * np.float64(RANGES["relu"].scale) @ real("v")[:, 0].T + bias("c", RANGES["relu"], "v")
    return np.clip(np.rint(y / np.float64(RANGES["y"].scale)), -128, 127)


def test_wrong_names_and_shapes_are_named() -> None:
    graph = network()
    given = weights(graph, "int4")
    with pytest.raises(UsageError, match="Did you mean 'relu'"):
        attach(graph, given, {"reluu": RANGES["x"]})
    with pytest.raises(UsageError, match="Did you mean 'float_even'"):
        attach(graph, given, {}, requant="float_evn")
    with pytest.raises(ModelError, match=r"'first'.*\(5, 1, 16\).*\(4, 3, 3, 3\)"):
        attach(graph, {"w": given["v"]}, {})


def test_sums_beyond_int32_are_refused() -> None:
    graph = network()
    wide = Weights(np.full((5, 1, 16), 1 << 21, np.int32), quant(1.0))
    with pytest.raises(ModelError, match=r"'second'.*leave int32"):
        attach(graph, {"v": wide}, RANGES)
    graph, given = network(bias=1e9), weights(network(), "int8")
    with pytest.raises(ModelError, match=f"'first'.*the limit is {BIAS_LIMIT}"):
        attach(graph, given, RANGES)
