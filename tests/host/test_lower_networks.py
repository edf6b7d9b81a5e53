"""Random networks: the result depends neither on the overlay nor on the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import SMALL, WIDE, Net, codes, outputs
from quantized import scale as quant

from weft.config import Overlay
from weft.graph import Graph, Quant
from weft.lower import lower

# Room for bands of one row of any map below, but not for the maps.
NARROW = Overlay("8x8", 8, 8, 8, 1024, 100, 3, 20)
CHANNELS = st.sampled_from([1, 3, 4, 8, 11])


class Grower:
    """Grows a network by one operator at a time; maps are [channels, height, width]."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw, self.net, self.count = draw, Net(), 0
        shape = (1, draw(CHANNELS), draw(st.integers(4, 11)), draw(st.integers(4, 11)))
        self.maps = [self.net.input("x", shape, self.quant())]

    def quant(self) -> Quant:
        return quant(0.05 * self.draw(st.integers(1, 4)), self.draw(st.sampled_from([-128, -3, 5])))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.net.tensors[name].shape

    def pick(self, shape: tuple[int, ...] | None = None) -> str:
        fit = [m for m in self.maps if shape is None or self.shape(m) == shape]
        return str(self.draw(st.sampled_from(fit)))

    def keep(self, name: str) -> None:
        self.maps.append(name)

    def conv(self) -> None:
        x, n = self.pick(), self.draw(CHANNELS)
        _, c, h, w = self.shape(x)
        group = c if self.draw(st.booleans()) else 1
        out = c if group > 1 else n
        stride = self.draw(st.integers(1, 2))
        self.count += 1
        rng = np.random.default_rng(self.count)
        data = rng.integers(-127, 128, (out, c // group, 3, 3)).astype(np.int8)
        scales = Quant(rng.uniform(0.001, 0.01, out).astype(np.float32), 0, 0)
        shape = (1, out, (h - 1) // stride + 1, (w - 1) // stride + 1)
        operands = [x, self.net.constant(f"w{self.count}", data, scales), ""]
        attrs = {"strides": [stride] * 2, "pads": [1, 1, 1, 1], "group": group}
        active = self.draw(st.sampled_from([None, ("Relu",), ("LeakyRelu", 0.1)]))
        self.keep(self.net.node("Conv", operands, shape, self.quant(), activation=active, **attrs))

    def pool(self) -> None:
        x = self.pick()
        _, c, h, w = self.shape(x)
        op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        attrs = {"kernel_shape": [3, 2], "strides": [1, 1], "pads": [1, 0, 1, 1]}
        y = self.net.tensors[x].quant if op == "MaxPool" else self.quant()
        attrs |= {"count_include_pad": 0, "dilations": [1, 1]}
        self.keep(self.net.node(op, [x], (1, c, h, w), y, **attrs))

    def add(self) -> None:
        x = self.pick()
        z = self.pick(self.shape(x))
        op = self.draw(st.sampled_from(["Add", "Sub", "Mul"]))
        self.keep(self.net.node(op, [x, z], self.shape(x), self.quant()))

    def function(self) -> None:
        x = self.pick()
        op = self.draw(st.sampled_from(["Relu", "Sigmoid", "HardSwish"]))
        self.keep(self.net.node(op, [x], self.shape(x), self.quant()))

    def concat(self) -> None:
        x = self.pick()
        z = self.pick(self.shape(x))
        axis = self.draw(st.integers(1, 2))
        shape = list(self.shape(x))
        shape[axis] *= 2
        if shape[axis] <= 24:
            self.keep(self.net.node("Concat", [x, z], tuple(shape), self.quant(), axis=axis))

    def cut(self) -> None:
        x = self.pick()
        shape = list(self.shape(x))
        axis = self.draw(st.integers(1, 3))
        start = self.draw(st.integers(0, shape[axis] - 1))
        cuts = {"starts": [start], "ends": [shape[axis]], "steps": [1]}
        shape[axis] -= start
        y = self.net.tensors[x].quant
        self.keep(self.net.node("Slice", [x], tuple(shape), y, axes=[axis], **cuts))

    def softmax(self) -> None:
        x = self.pick()
        y = quant(1 / 256, -128)
        self.keep(self.net.node("Softmax", [x], self.shape(x), y, axis=1))

    def head(self) -> str:
        x = self.maps[-1]
        _, c, h, w = self.shape(x)
        size = c * h * w
        y = self.net.tensors[x].quant
        flat = self.net.node("Reshape", [x], (1, size), y, **{"shape": [1, size]})
        data = np.random.default_rng(size).integers(-127, 128, (size, 5)).astype(np.int8)
        operands = [flat, self.net.constant("head", data, quant(0.002)), ""]
        return self.net.node("Linear", operands, (1, 5), self.quant())


@st.composite
def networks(draw: Callable[[Any], Any]) -> Graph:
    grower = Grower(draw)
    steps = ("conv", "conv", "pool", "add", "function", "concat", "cut", "softmax")
    for _ in range(draw(st.integers(1, 7))):
        getattr(grower, draw(st.sampled_from(steps)))()
    last = grower.head()
    others = [m for m in grower.maps[1:] if draw(st.integers(0, 3)) == 0]
    return grower.net.graph(last, *others)


def holds_head(graph: Graph, overlay: Overlay) -> bool:
    """Whether the map that the last Linear sums up, which can't be cut into bands, fits."""
    flat = next(node for node in graph if node.op == "Reshape")
    _, c, h, w = graph[flat.inputs[0]].shape
    return -(-c // overlay.lanes) * h * w < overlay.buffer_words


@settings(max_examples=60, deadline=None)
@given(networks())
def test_every_overlay_and_batch_gives_the_same_codes(graph: Graph) -> None:
    x = codes(5, *graph["x"].shape[1:])
    expected, _ = outputs(graph, WIDE, {"x": x})
    for overlay, batch in ((WIDE, 1), (WIDE, 3), (NARROW, None), (SMALL, None)):
        if not holds_head(graph, overlay):
            continue
        if batch is not None and lower(graph, overlay).batch < batch:
            continue
        found, _ = outputs(graph, overlay, {"x": x}, batch=batch)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
