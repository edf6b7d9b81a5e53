"""Windowed attention, tokens in the order of windows, merged patches; a whole Swin.

The reference of a whole Swin is what the transformers library computed (tests/data/transformers);
of the codes of its attention, plain integers, window by window.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import (
    FEW,
    LANES16,
    LANES32,
    Net,
    attention_codes,
    check_simulation,
    compiled,
    few,
    linear_codes,
    run,
)

import weft
from weft import isa
from weft.config import Overlay
from weft.device.golden import Golden
from weft.errors import ShapeError
from weft.frontend.swin import masks_of
from weft.graph import Graph, Node, Tensor
from weft.ops import describe_outputs
from weft.program import AcceleratorSegment, HostSegment
from weft.runtime import Session
from weft.window_ops import map_of, window_order

SWIN = Path(__file__).resolve().parents[1] / "data" / "transformers" / "swin"
UNITS = (*LANES16.units, "norm", "rotate")
OVERLAYS = (
    replace(LANES16, name="swin16", units=UNITS),
    replace(LANES32, name="swin32", units=UNITS, wide_words=1024, operand_words=2048),
)
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias of every head": {"bias": (2, 9, 9)},
    "kinds": {"bias": (4, 9, 9), "kinds": (0, 1, 1, 0, 1, 0)},
    "kinds of all heads": {"bias": (2, 9, 9), "heads": 4, "kinds": (1, 0, 0, 0, 1, 1)},
    "grouped queries": {"heads": 4, "kv_heads": 2},
    "a band": {"left": -3, "right": 2},
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def windowed(windows: int = 6, tokens: int = 9, channels: int = 32, **options: Any) -> Graph:
    """Projections, attention in windows of `tokens`, the output's projection."""
    net = Net()
    x = net.input("x", windows * tokens, channels)
    heads = options.pop("heads", 2)
    mixed = net.attention(x, x, heads, 32, windows=windows, **options)
    return net.graph(net.linear(mixed, channels))


def in_windows(graph: Graph, node: Node, operands: list[Any]) -> Any:
    """Codes of a windowed Attention: of each window as if it were alone."""
    count = node.attrs["windows"]
    kinds = node.attrs.get("kinds", (0,) * count)
    bias = graph[node.inputs[3]] if len(node.inputs) > 3 else None
    each = 0 if bias is None else len(bias.data) // (max(kinds) + 1)
    found = []
    for place, kind in enumerate(kinds):
        cut = [np.split(x, count)[place] for x in operands]
        alone = graph
        if bias is not None:
            data = bias.data[kind * each : (kind + 1) * each]
            own = replace(bias, data=data, shape=data.shape)
            alone = replace(graph, tensors={**graph.tensors, bias.name: own})
        found.append(attention_codes(alone, node, cut))
    return np.concatenate(found)


def expected(graph: Graph, feeds: dict[str, Any]) -> Any:
    """Real outputs of `windowed`, by integers."""
    found = []
    for i in range(FEW):
        values = {n: graph[n].quant.quantize(x[i]).astype(np.int64) for n, x in feeds.items()}
        for node in graph:
            operands = [values[name] for name in node.inputs[:3] if name in values]
            attends = node.op == "Attention"
            made = in_windows(graph, node, operands) if attends else None
            values[node.outputs[0]] = (
                made if made is not None else linear_codes(graph, node, operands[0])
            )
        (out,) = graph.outputs
        found.append(graph[out].quant.dequantize(values[out]))
    return np.stack(found)


@every_overlay
@every_case
def test_codes_equal_plain_integers(overlay: Overlay, case: dict[str, Any]) -> None:
    graph, program = compiled(windowed(**case), overlay)
    assert all(isinstance(s, AcceleratorSegment) for s in program.segments)
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))


@every_overlay
@every_case
def test_simulation_equals_golden_in_every_layer_and_clock(
    overlay: Overlay, case: dict[str, Any]
) -> None:
    graph, program = compiled(windowed(**case), overlay)
    check_simulation(graph, program)


def test_macs_are_those_within_windows() -> None:
    _, program = compiled(windowed(), OVERLAYS[0])
    (layer,) = (found for found in program.layers if found.op == "Attention")
    assert layer.macs == 2 * 6 * 9 * 9 * (32 + 32)


@pytest.mark.parametrize("words", [100, 160, 250])
def test_windows_in_bands_of_queries(words: int) -> None:
    overlay = replace(OVERLAYS[0], buffer_words=words, parameter_blocks=16, operand_words=160)
    graph, program = compiled(windowed(), overlay)
    assert program.notes["banded_layers"] > 0
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))
    assert weft.check(program, feeds, "csim").first_difference is None


def test_a_window_that_does_not_fit_runs_on_the_host() -> None:
    overlay = replace(OVERLAYS[0], operand_words=48)
    _, program = compiled(windowed(tokens=20), overlay)
    (host,) = (s for s in program.segments if isinstance(s, HostSegment))
    assert "operand_words" in host.reason


ORDERS = [((4, 6), (2, 3), (0, 0)), ((4, 6), (2, 3), (1, 2)), ((6, 3), (3, 3), (1, 1))]


@pytest.mark.parametrize(("size", "window", "shift"), ORDERS)
def test_the_order_of_windows_is_counted_out(size: Any, window: Any, shift: Any) -> None:
    wanted = [
        (y + dy + shift[0]) % size[0] * size[1] + (x + dx + shift[1]) % size[1]
        for y in range(0, size[0], window[0])
        for x in range(0, size[1], window[1])
        for dy in range(window[0])
        for dx in range(window[1])
    ]
    np.testing.assert_array_equal(window_order(size, window, shift), wanted)


@pytest.mark.parametrize(("size", "window", "shift"), [((8, 8), 4, 2), ((6, 9), 3, 1)])
def test_masks_part_what_only_meets_round_an_edge(size: Any, window: int, shift: int) -> None:
    """Two tokens of a window see each other where they are closer than it is wide."""
    masks, kinds = masks_of(size, window, shift)
    order = window_order(size, (window, window), (shift, shift)).reshape(-1, window**2)
    places = np.stack(np.divmod(order, size[1]), -1)
    near = (np.abs(places[:, :, None] - places[:, None]) < window).all(-1)
    np.testing.assert_array_equal(masks[list(kinds)] == 0, near)


def moved(op: str, channels: int, out_channels: int, **attrs: Any) -> Graph:
    """A layer on a map, one operator that moves its tokens, and a layer."""
    net = Net()
    size = map_of(Node(op, "m", (), (), attrs), True)
    x = net.linear(net.input("x", *size, channels), channels)
    shape = (1, size[0] * size[1], channels)
    x = net.node("Reshape", [x], shape, shape=shape)
    tensors = {x: Tensor(x, net.shape(x))}
    (out,) = describe_outputs(Node(op, "m", (x,), ("y",), attrs), tensors)
    y = net.node(op, [x], out.shape, **attrs)
    return net.graph(net.linear(y, out_channels))


def tokens_of(graph: Graph, feeds: dict[str, Any]) -> list[Any]:
    """Codes [tokens, channels] of every sample of the input."""
    quant, x = graph["x"].quant, feeds["x"]
    return [quant.quantize(s).astype(np.int64).reshape(-1, s.shape[-1]) for s in x]


@every_overlay
@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize(("size", "window", "shift"), ORDERS)
def test_windows_move_codes_on_the_accelerator(
    overlay: Overlay, size: Any, window: Any, shift: Any, inverse: int
) -> None:
    attrs = {"size": size, "window": window, "shift": shift, "inverse": inverse}
    graph, program = compiled(moved("Windows", 40, 16, **attrs), overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    feeds = few(graph)
    assert weft.check(program, feeds, "csim").first_difference is None
    first, last = graph.nodes[0], graph.nodes[-1]
    codes = tokens_of(graph, feeds)
    order = window_order(size, window, shift)
    order = np.argsort(order) if inverse else order
    wanted = [linear_codes(graph, last, linear_codes(graph, first, c)[order]) for c in codes]
    found = run(program, feeds)
    np.testing.assert_array_equal(found, graph[graph.outputs[0]].quant.dequantize(np.stack(wanted)))


@every_overlay
def test_merged_patches_of_int8(overlay: Overlay) -> None:
    graph, program = compiled(moved("PatchMerge", 32, 16, size=(4, 6)), overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    feeds = few(graph)
    assert weft.check(program, feeds, "csim").first_difference is None
    first, last = graph.nodes[0], graph.nodes[-1]
    wanted = []
    for sample in tokens_of(graph, feeds):
        image = linear_codes(graph, first, sample).reshape(4, 6, -1)
        parts = [image[r::2, c::2] for c in range(2) for r in range(2)]
        wanted.append(linear_codes(graph, last, np.concatenate(parts, -1).reshape(6, -1)))
    found = run(program, feeds)
    np.testing.assert_array_equal(found, graph[graph.outputs[0]].quant.dequantize(np.stack(wanted)))


@every_overlay
def test_merged_patches_keep_int16(overlay: Overlay) -> None:
    """Merging the stream moves its codes; the norm behind it reads them."""
    net = Net()
    x = net.norm(net.input("x", 4, 4, 32))
    y = net.add(net.linear(x, 32), x)
    y = net.node("Reshape", [y], (1, 16, 32), shape=(1, 16, 32))
    merged = net.node("PatchMerge", [y], (1, 4, 128), size=(4, 4))
    graph, program = compiled(net.graph(y, merged, net.linear(net.norm(merged), 64)), overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    assert [graph[name].quant.format for name in graph.outputs] == ["int16", "int16", "int8"]
    names = [isa.decode(words)[0].name for words in program.segments[0].words]
    assert names.count("Rotate") == 2 * 4  # of each row of the result, a copy per neighbour
    feeds = few(graph)
    assert weft.check(program, feeds, "csim").first_difference is None
    with Session(program, Golden()) as session:
        before, behind, _ = session.run(feeds).values()
    image = before.reshape(-1, 4, 4, 32)
    parts = [image[:, r::2, c::2] for c in range(2) for r in range(2)]
    np.testing.assert_array_equal(behind, np.concatenate(parts, -1).reshape(behind.shape))


def test_merged_patches_of_no_whole_words_run_on_the_host() -> None:
    _, program = compiled(moved("PatchMerge", 24, 8, size=(4, 4)), LANES16)
    (host,) = (s for s in program.segments if isinstance(s, HostSegment))
    assert "no whole words of 16" in host.reason


@pytest.mark.parametrize(
    ("op", "attrs", "words"),
    [
        ("Windows", {"size": (4, 5), "window": (2, 2)}, r"\(4, 5\) tokens in windows of \(2, 2\)"),
        ("Windows", {"size": (4, 4), "window": (2, 2)}, r"an image of \(4, 4\) tokens"),
        ("PatchMerge", {"size": (4, 5)}, "both sides must be even"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(op: str, attrs: Any, words: str) -> None:
    node = Node(op, "n", ("x",), ("y",), {"shift": (0, 0), "inverse": 0, **attrs})
    with pytest.raises(ShapeError, match=words):
        describe_outputs(node, {"x": Tensor("x", (1, 20, 8))})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"windows": 7}, "54 queries and 54 keys in 7 windows"),
        ({"kinds": (0, 1)}, r"kinds \(0, 1\) of 6 windows"),
        ({"kinds": (0, 1, 0, 0, 0, 0)}, "bias of shape"),
    ],
)
def test_windows_that_do_not_fit_are_errors(changed: dict[str, Any], words: str) -> None:
    graph = windowed(bias=(1, 9, 9))
    (node,) = (n for n in graph if n.op == "Attention")
    with pytest.raises(ShapeError, match=words):
        describe_outputs(node.with_attrs(**changed), graph.tensors)


def images() -> tuple[Any, Any]:
    found = np.load(SWIN / "expected.npz")
    return found["x"], found["y"]


@every_overlay
def test_a_swin_runs_on_the_accelerator_alone(overlay: Overlay) -> None:
    x, y = images()
    program = weft.compile(SWIN, overlay, calibration=x)
    assert [s.reason for s in program.segments if isinstance(s, HostSegment)] == []
    assert weft.check(program, x, "csim").first_difference is None
    with weft.open(program, "csim") as session:
        found, took = session.run(x, detail=True)
    assert took.cycles == len(x) * weft.estimate(program).cycles
    assert np.abs(found - y).max() < 0.05 * np.abs(y).max()
