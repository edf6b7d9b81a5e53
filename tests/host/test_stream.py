"""The residual stream in int16: which tensors are in it, and what quantization makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from encoders import Net, encoder, samples

from weft import activation, ops
from weft.graph import Graph, Quant
from weft.passes.even import even_out
from weft.passes.quantize import quantize, simulate
from weft.passes.stream import narrowed, stream, with_copies


def formats(graph: Graph) -> dict[str, list[str]]:
    """Formats of the outputs of every operator, in order."""
    found: dict[str, list[str]] = {}
    for node in graph:
        found.setdefault(node.op, []).append(graph[node.outputs[0]].quant.format)
    return found


def test_norms_in_front_read_what_residuals_add() -> None:
    graph = quantize(encoder(), samples(encoder()))
    assert formats(graph) == {
        "LayerNorm": ["int8", "int8", "int16"],
        "Linear": ["int8"] * 3 + ["int16", "int8", "int16"],
        "Attention": ["int8"],
        "Add": ["int16", "int16"],
        "Gelu": ["int8"],
    }
    assert graph["x"].quant.format == "int16"


def test_norms_behind_give_int8_to_products_and_int16_to_residuals() -> None:
    graph = quantize(encoder(post=True), samples(encoder(post=True)))
    kinds = formats(graph)
    assert kinds["LayerNorm"] == ["int16"] * 3
    assert kinds["Mul"] == ["int8"] * 2
    for node in graph:
        if node.op == "Linear":
            assert graph[node.inputs[0]].quant.format == "int8"


@pytest.mark.parametrize("post", [False, True])
def test_channels_behind_norms_become_even(post: bool) -> None:
    """gamma makes a channel 50 times as large as the others; the function stays."""
    graph = encoder(post=post, layers=2)
    tensors = dict(graph.tensors)
    for node in graph:
        if node.op == "LayerNorm":
            gamma = tensors[node.inputs[1]]
            data = gamma.data.copy()
            data[5] *= 50
            tensors[gamma.name] = replace(gamma, data=data)
    graph = graph.replace(tensors=tensors)
    feeds = samples(graph, count=4)
    copied = with_copies(graph, stream(graph))
    evened = even_out(copied, [feeds])
    (name,) = graph.outputs
    exact = ops.evaluate(graph, feeds)[name]
    np.testing.assert_allclose(ops.evaluate(evened, feeds)[name], exact, rtol=1e-3, atol=1e-3)
    spread = []
    for g in (copied, evened):
        read = [n.inputs[0] for n in g if n.name == "linear20"]  # behind the last norms
        x = ops.evaluate(g, feeds, keep=read)[read[0]]
        largest = np.abs(x).reshape(-1, x.shape[-1]).max(0)
        spread.append(float(largest.max() / np.median(largest)))
    assert spread[1] < 0.3 * spread[0]


def test_a_network_without_norms_has_no_int16() -> None:
    net = Net()
    x = net.input("x", 16, 32)
    graph = net.graph(net.add(net.linear(x, 32), x))
    assert stream(graph) == frozenset()
    assert set(formats(quantize(graph, samples(graph)))["Add"]) == {"int8"}


def test_operands_of_attention_have_no_zero_point() -> None:
    graph = quantize(encoder(), samples(encoder()))
    (node,) = (n for n in graph if n.op == "Attention")
    assert [graph[name].quant.zero_point for name in node.inputs] == [0, 0, 0]


def test_copies_leave_the_function_as_it_is() -> None:
    graph = encoder(post=True, layers=2)
    copied = with_copies(graph, stream(graph))
    feeds = samples(graph, count=2)
    assert sum(node.op == "Identity" for node in copied) == 4
    for name, y in ops.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(ops.evaluate(copied, feeds)[name], y)


@pytest.mark.parametrize("post", [False, True])
def test_outliers_of_the_stream_do_not_drown_the_rest(post: bool) -> None:
    """A channel of the stream 300 times as large as the others, as BERT has some."""
    graph = encoder(post=post, layers=2)
    feeds = samples(graph, count=4)
    for x in feeds.values():
        x[..., 3] *= 300
    quantized = quantize(graph, feeds)
    (name,) = graph.outputs
    exact = ops.evaluate(graph, feeds)[name]

    def error(g: Graph) -> float:
        return float(np.square(simulate(g, feeds)[name] - exact).mean() / np.square(exact).mean())

    assert error(quantized) < 0.01 < error(narrowed(quantized))


def test_narrowed_keeps_the_range() -> None:
    graph = quantize(encoder(), samples(encoder()))
    narrow = narrowed(graph)
    wide, quant = graph["x"].quant, narrow["x"].quant
    assert (quant.format, quant.zero_point) == ("int8", 0)
    np.testing.assert_allclose(quant.scale * 127, wide.scale * 32767, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-3.0, 8.0), (0.0, 1e-30), (0.0, 0.0), (-5.0, -1.0)])
def test_int16_holds_a_quarter_more_than_it_has_seen(low: float, high: float) -> None:
    quant = activation.affine(low, high, "int16")
    largest = 32767 * float(quant.scale)
    assert quant.zero_point == 0
    assert largest >= activation.HEADROOM * max(-low, high) * (1 - 1e-6)


def test_int16_codes_are_the_nearest_and_saturate() -> None:
    quant = Quant(np.asarray(0.5, np.float32), format="int16")
    x: Any = np.array([0.2, 0.3, -7.6, 1e9, -1e9], np.float32)
    codes = quant.quantize(x)
    assert codes.dtype == np.int16
    assert codes.tolist() == [0, 1, -15, 32767, -32767]
    np.testing.assert_array_equal(quant.dequantize(codes[:3]), [0, 0.5, -7.5])
