"""Class tokens as rows in front of a convolution's patches: the function, exact codes, bands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import LANES16, LANES32, Net, compiled, samples

import weft
from weft.config import Overlay
from weft.device.golden import Golden
from weft.graph import Graph
from weft.lower import preflight
from weft.ops import evaluate
from weft.passes.front import front_tokens
from weft.program import AcceleratorSegment, HostSegment, Program
from weft.runtime import Session
from weft.units import requant

FOLDERS = Path(__file__).resolve().parents[1] / "data" / "transformers"
UNITS = (*LANES16.units, "norm", "rotate")
OVERLAYS = (
    replace(LANES16, name="front16", units=UNITS),
    replace(LANES32, name="front32", units=UNITS),
)
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)


def patches(channels: int, patch: int, outputs: int, front: int | None, size: int = 4) -> Graph:
    """A convolution of patches: as tokens with rows in front, or (None) in pieces, padded."""
    net = Net()
    x = net.input("x", channels, size * patch, (size + 1) * patch)
    w = net.constant(net.rng.normal(0, 0.2, (outputs, channels, patch, patch)))
    bias = net.constant(net.rng.normal(0, 1, outputs))
    attrs = {"strides": (patch,) * 2, "pads": (0,) * 4, "dilations": (1, 1), "group": 1}
    count = size * (size + 1)
    if front is not None:
        shape = (1, front + count, outputs)
        return net.graph(net.node("Conv", [x, w, bias], shape, **attrs, front=front))
    y = net.node("Conv", [x, w, bias], (1, outputs, size, size + 1), **attrs)
    y = net.node("Reshape", [y], (1, outputs, count), shape=(1, outputs, count))
    y = net.node("Transpose", [y], (1, count, outputs), perm=(0, 2, 1))
    y = net.node("Pad", [y], (1, 2 + count, outputs), pads=(0, 2, 0, 0, 0, 0), value=0.0)
    y = net.add(y, net.constant(net.rng.normal(0, 1, (1, 2 + count, outputs))))
    return net.graph(net.linear(net.norm(y), 16))


def run(program: Program, feeds: Any) -> Any:
    with Session(program, Golden()) as session:
        return next(iter(session.run(feeds).values()))


def test_the_same_function_without_joining() -> None:
    graph = patches(3, 2, 32, None)
    made, feeds = front_tokens(graph), samples(graph)
    assert [node.op for node in made][:2] == ["Conv", "Add"]
    assert "Pad" not in {node.op for node in made}
    (wanted,), (found,) = (evaluate(g, feeds).values() for g in (graph, made))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0, 2, 0), (0, 1, 0, 0, 1, 0), (0, 2, 1, 0, 0, 0)])
def test_other_paddings_stay(pads: tuple[int, ...]) -> None:
    graph = patches(3, 2, 32, None)
    (pad,) = (node for node in graph if node.op == "Pad")
    changed = replace(pad, attrs={**pad.attrs, "pads": pads})
    nodes = tuple(changed if node is pad else node for node in graph.nodes)
    assert front_tokens(replace(graph, nodes=nodes)).nodes == nodes


@every_overlay
@pytest.mark.parametrize(("channels", "patch"), [(3, 2), (3, 6), (20, 3)])
@pytest.mark.parametrize("front", [0, 1, 2])
def test_codes_equal_plain_integers(
    overlay: Overlay, channels: int, patch: int, front: int
) -> None:
    graph, program = compiled(patches(channels, patch, 40, front), overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    feeds = samples(graph, seed=2, count=3)
    assert weft.check(program, feeds, "csim").first_difference is None
    (node,) = graph.nodes
    x, y = (graph[name].quant for name in (node.inputs[0], node.outputs[0]))
    w, bias = (graph[name] for name in node.inputs[1:])
    codes = x.quantize(feeds["x"]).astype(np.int64) - x.zero_point
    n, c, h, wide = codes.shape
    cut = codes.reshape(n, c, h // patch, patch, wide // patch, patch).transpose(0, 2, 4, 1, 3, 5)
    rows = cut.reshape(n, -1, c * patch * patch)
    rows = np.concatenate([np.zeros((n, front, rows.shape[2]), np.int64), rows], axis=1)
    sums = rows @ w.data.reshape(40, -1).astype(np.int64).T + bias.data
    scale = requant.combined_scale(x.scale, w.quant.scale, y.scale, "single_round")
    code = requant.requantize(sums, *requant.encode(scale, "single_round"), "single_round")
    wanted = y.dequantize(np.clip(code + y.zero_point, -128, 127))
    np.testing.assert_array_equal(run(program, feeds), wanted)


@every_overlay
def test_the_stream_begins_with_the_convolution(overlay: Overlay) -> None:
    graph, program = compiled(patches(3, 4, 32, None), overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    feeds = samples(graph, seed=2, count=3)
    assert weft.check(program, feeds, "csim").first_difference is None
    (real,) = evaluate(graph, feeds, fake_quant=True).values()
    assert np.abs(run(program, feeds) - real).max() <= 3 * float(
        graph[graph.outputs[0]].quant.scale
    )


@pytest.mark.parametrize("words", [28, 32, 40])
def test_bands_hold_whole_rows_of_patches(words: int) -> None:
    small = replace(OVERLAYS[0], buffer_words=2 * words, wide_words=2 * words)
    for graph in (patches(20, 2, 32, 1), patches(3, 4, 32, None)):
        quantized, program = compiled(graph, OVERLAYS[0])
        banded = compiled(graph, small)[1]
        assert banded.notes["banded_layers"] > 0
        feeds = samples(quantized, seed=2, count=3)
        np.testing.assert_array_equal(run(banded, feeds), run(program, feeds))
        assert weft.check(banded, feeds, "csim").first_difference is None


@every_overlay
@pytest.mark.parametrize("name", ["vit", "deit"])
def test_class_tokens_take_no_host(name: str, overlay: Overlay) -> None:
    found = np.load(FOLDERS / name / "expected.npz")
    x, y = found["x"], found["y"]
    program = weft.compile(FOLDERS / name, overlay, calibration=x)
    assert [s.reason for s in program.segments if isinstance(s, HostSegment)] == []
    assert weft.check(program, x, "csim").first_difference is None
    with weft.open(program) as session:
        assert np.abs(session.run(x) - y).max() < 0.05 * np.abs(y).max()
    assert {p.where for p in preflight(weft.load_model(FOLDERS / name), overlay)} == {"accelerator"}
