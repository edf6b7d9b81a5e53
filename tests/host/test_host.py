"""A prepared host segment computes what `weft.ops.evaluate` does, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from weft.graph import Graph, Node, Quant, Tensor
from weft.host import HostRunner
from weft.ops import evaluate

RNG = np.random.default_rng(4)
QUANT = Quant(np.float32(0.25), zero_point=-7)


def graph(nodes, inputs, outputs, **tensors) -> Graph:
    return Graph("g", {t.name: t for t in tensors.values()}, nodes, inputs, outputs).verify()


def chain() -> Graph:
    """A convolution with codes as weights, a quantized activation, Softmax over channels."""
    w = Tensor(
        "w",
        (4, 3, 2, 2),
        data=RNG.integers(-127, 128, (4, 3, 2, 2)).astype(np.int8),
        quant=Quant(np.full(4, 0.05, np.float32), axis=0),
    )
    bias = Tensor("b", (4,), data=RNG.normal(size=4).astype(np.float32))
    attrs = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
    nodes = (
        Node("Conv", "conv", ("x", "w", "b"), ("c",), attrs),
        Node("Softmax", "softmax", ("c",), ("y",), {"axis": 1}),
    )
    return graph(
        nodes,
        ("x",),
        ("y", "c"),
        x=Tensor("x", (1, 3, 3, 3), quant=QUANT),
        w=w,
        b=bias,
        c=Tensor("c", (1, 4, 2, 2), quant=QUANT),
        y=Tensor("y", (1, 4, 2, 2)),
    )


def two_inputs() -> Graph:
    nodes = (Node("Add", "add", ("x", "z"), ("s",)), Node("Neg", "neg", ("s",), ("y",)))
    shapes = {n: Tensor(n, (1, 5)) for n in ("x", "z", "s", "y")}
    return graph(nodes, ("x", "z"), ("y", "x"), **shapes)


def sample_by_sample() -> Graph:
    """Softmax over the samples' own axis takes no batch."""
    nodes = (Node("Softmax", "softmax", ("x",), ("y",), {"axis": 0}),)
    return graph(nodes, ("x",), ("y",), x=Tensor("x", (1, 5)), y=Tensor("y", (1, 5)))


def constant_output() -> Graph:
    k = Tensor("k", (1, 2), data=np.array([[3, 4]], np.float32))
    nodes = (Node("Neg", "neg", ("x",), ("y",)),)
    return graph(nodes, ("x",), ("y", "k"), x=Tensor("x", (1, 5)), y=Tensor("y", (1, 5)), k=k)


def onnx_operator() -> Graph:
    """One that is left to onnx, with an optional input that is absent."""
    attrs = {"opset": 13}
    low = Tensor("low", (), data=np.array(-0.5, np.float32))
    nodes = (
        Node("Clip", "clip", ("x", "low", ""), ("c",), attrs),
        Node("HardSwish", "swish", ("c",), ("y",), {"opset": 14}),
    )
    shapes = {n: Tensor(n, (1, 5)) for n in ("x", "c", "y")}
    return graph(nodes, ("x",), ("y",), low=low, **shapes)


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize(
    "make", [chain, two_inputs, sample_by_sample, constant_output, onnx_operator]
)
def test_equals_evaluate(make, n):
    made = make()
    feeds = {
        name: RNG.normal(0, 20, (n, *made[name].shape[1:])).astype(np.float32)
        for name in made.inputs
    }
    expected = evaluate(made, feeds)
    runner = HostRunner(made)
    for _ in range(2):
        values = dict(feeds)
        runner.run(values, n)
        for name in made.outputs:
            assert values[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(values[name], expected[name])
