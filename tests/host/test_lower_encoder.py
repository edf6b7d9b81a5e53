"""Whole encoder layers on the accelerator: norms, residuals and attention together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import LANES16, LANES32, Net, check_simulation, compiled, cut, encoder, few, run

import weft
from weft import isa, ops
from weft.config import Overlay
from weft.demo import MODELS, load_data
from weft.device.golden import Golden
from weft.frontend import transformers_folder
from weft.inspection import inspect
from weft.lower import lower, preflight
from weft.passes.fuse import fuse
from weft.passes.quantize import quantize, simulate
from weft.program import AcceleratorSegment, HostSegment
from weft.runtime import Session

FOLDERS = Path(__file__).resolve().parents[1] / "data" / "transformers"
UNITS = (*LANES16.units, "norm")
ENCODER16 = replace(LANES16, name="enc16", units=UNITS)
ENCODER32 = replace(LANES32, name="enc32", units=UNITS)
OVERLAYS = (ENCODER16, ENCODER32)
CASES: dict[str, dict[str, Any]] = {
    "norms in front": {},
    "norms behind": {"post": True},
    "two layers": {"layers": 2, "post": True},
    "RMSNorm": {"norm": "RMSNorm"},
    "grouped queries": {"heads": 4, "kv_heads": 2},
    "cross attention": {"memory": 24},
    "causal": {"tokens": 40, "causal": 1},
    "window": {"tokens": 40, "left": -5, "right": 3},
    "channels of no whole words": {"channels": 40, "width": 20, "inner": 50},
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)


@every_overlay
@every_case
def test_one_segment_holds_the_layers(overlay: Overlay, case: dict[str, Any]) -> None:
    _, program = compiled(encoder(**case), overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]


@every_overlay
@every_case
def test_simulation_equals_golden_in_every_layer_and_clock(
    overlay: Overlay, case: dict[str, Any]
) -> None:
    graph, program = compiled(encoder(**case), overlay)
    check_simulation(graph, program)


@every_overlay
@every_case
def test_is_as_exact_as_its_codes(overlay: Overlay, case: dict[str, Any]) -> None:
    """No further from real numbers than the same codes with float arithmetic between them, by more
    than a tenth and what 1/127 of an exponential and the norms' own 2**-9 do.
    """
    graph, program = compiled(encoder(**case), overlay)
    feeds = few(graph)
    (name,) = graph.outputs
    exact = ops.evaluate(encoder(**case), feeds)[name]
    power = float(np.square(exact).mean())

    def error(y: Any) -> float:
        return float(np.sqrt(np.square(y - exact).mean() / power))

    assert error(run(program, feeds)) <= 1.1 * error(simulate(graph, feeds)[name]) + 1 / 254
    assert error(run(program, feeds)) < 0.03


@every_overlay
@every_case
def test_fewer_tokens_equal_a_program_compiled_for_them(
    overlay: Overlay, case: dict[str, Any]
) -> None:
    graph, program = compiled(encoder(**case), overlay)
    feeds = few(graph)
    for tokens in (1, 9):
        part = {name: x[:, :tokens] for name, x in feeds.items()}
        counts = dict.fromkeys(graph.inputs, tokens)
        own = lower(cut(graph, counts, program.tokens), overlay)
        np.testing.assert_array_equal(run(program, part), run(own, part))


def test_small_buffers_give_the_same_bits() -> None:
    """Segments that cut a layer, bands of tokens, scores of a few queries at a time."""
    graph, program = compiled(encoder(tokens=40, post=True), ENCODER16)
    small = replace(
        ENCODER16, buffer_words=170, accumulator_rows=16, wide_words=200, parameter_blocks=16
    )
    parts = lower(graph, small)
    assert len(parts.segments) > 1
    feeds = few(graph)
    np.testing.assert_array_equal(run(parts, feeds), run(program, feeds))


def test_residuals_and_norms_work_in_place() -> None:
    """One map of the wide buffer is all that a layer with norms behind needs beside its scores."""
    _, program = compiled(encoder(post=True), ENCODER16)
    stream, scores = 16 * 2, 16
    assert program.notes["wide_words_used"] == stream + scores


def test_every_addition_is_part_of_a_layer() -> None:
    _, program = compiled(encoder(), ENCODER16)
    assert "Add" not in {layer.op for layer in program.layers}
    added = [
        fields["residual"]
        for kind, fields in map(isa.decode, program.segments[0].words)
        if kind is isa.ACTIVATE
    ]
    assert sum(added) == 2


def test_a_constant_of_positions_is_added_from_the_weights() -> None:
    net = Net()
    x = net.input("x", 16, 32)
    places = net.constant(net.rng.normal(0, 1, (1, 16, 32)))
    y = net.norm(net.add(net.linear(x, 32), places))
    graph, program = compiled(net.graph(y), ENCODER16)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    feeds = few(graph)
    exact = ops.evaluate(net.graph(y), feeds)[y]
    error = np.abs(run(program, feeds) - exact)
    assert error.max() <= np.abs(simulate(graph, feeds)[y] - exact).max() + 2.0**-8
    assert weft.check(program, feeds, "csim").equal


def test_patches_of_an_image_get_their_positions() -> None:
    """A convolution whose map becomes rows of tokens before a constant is added to it."""
    net = Net()
    x = net.input("image", 3, 8, 8)
    w = net.constant(net.rng.normal(0, 0.3, (32, 3, 4, 4)))
    b = net.constant(net.rng.normal(0, 0.1, 32))
    y = net.node(
        "Conv", [x, w, b], (1, 32, 2, 2), strides=[4, 4], pads=[0] * 4, dilations=[1, 1], group=1
    )
    y = net.node("Reshape", [y], (1, 32, 4), shape=[1, 32, 4])
    y = net.node("Transpose", [y], (1, 4, 32), perm=[0, 2, 1])
    y = net.add(y, net.constant(net.rng.normal(0, 1, (1, 4, 32))))
    read = net.norm(y)
    y = net.norm(net.add(net.linear(net.attention(read, read, 2, 16), 32), y))
    graph, program = compiled(net.graph(y), ENCODER16)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    feeds = few(graph)
    exact = ops.evaluate(net.graph(y), feeds)[y]
    error = np.abs(run(program, feeds) - exact)
    assert error.max() <= np.abs(simulate(graph, feeds)[y] - exact).max() + 2.0**-8
    assert weft.check(program, feeds, "csim").equal


def test_a_vision_transformer_runs_in_one_segment() -> None:
    """Digits: patches by a convolution, positions, two blocks, the mean of all tokens."""
    data = load_data()
    program = weft.compile(MODELS / "vit_digits.onnx", ENCODER16, calibration=data.calibration)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    assert weft.check(program, data.images[:4], "csim").equal
    graph = weft.load_model(MODELS / "vit_digits.onnx")
    exact = ops.evaluate(graph, {graph.inputs[0]: data.images})[graph.outputs[0]]
    with weft.open(program, "csim") as session:
        found = session.run(data.images)
    right = [(y.argmax(-1) == data.labels).mean() for y in (exact, found)]
    assert right[1] >= right[0] - 0.01


@pytest.mark.parametrize("name", ["bert", "bert_masked_lm", "distilbert", "roberta"])
def test_text_encoders_run_in_one_segment_without_their_padding(name: str) -> None:
    graph = fuse(transformers_folder.load(FOLDERS / name, padding=True))
    x, keys = graph.inputs
    rng = np.random.default_rng(0)
    tokens, width = graph[x].shape[1:]
    counts = np.array([[tokens], [3], [tokens - 1]])
    feeds = {x: rng.normal(size=(3, tokens, width)).astype(np.float32), keys: counts}
    quantized = quantize(graph, feeds)
    program = lower(quantized, ENCODER16)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    assert program.lengths == keys
    there = np.arange(tokens) < counts
    (out,) = graph.outputs
    exact = ops.evaluate(graph, feeds)[out][there]

    def error(y: Any) -> float:
        return float(np.sqrt(np.square(y[there] - exact).mean() / np.square(exact).mean()))

    found = run(program, feeds)
    assert not found[~there].any()
    assert error(found) <= 1.1 * error(simulate(quantized, feeds)[out]) + 1 / 254
    assert weft.check(program, feeds, "csim").equal


def test_what_reads_the_stream_besides_runs_on_the_host() -> None:
    net = Net()
    x = net.input("x", 16, 32)
    y = net.add(net.linear(x, 32), x)
    graph, program = compiled(net.graph(net.norm(y), net.linear(y, 8)), ENCODER16)
    reasons = [s.reason for s in program.segments if isinstance(s, HostSegment)]
    assert any("int8 of int16" in reason for reason in reasons)
    feeds = few(graph)
    with Session(program, Golden()) as session:
        found = session.run(feeds)
    for name, y in simulate(graph, feeds).items():
        quant = graph[name].quant
        step = float(quant.scale) * (128 if quant.format == "int16" else 1)
        assert np.abs(found[name] - y).max() <= 2 * step


def test_the_stream_crosses_to_norms_of_the_host_in_int16() -> None:
    graph, program = compiled(encoder(), LANES16)
    reasons = {s.reason.partition(":")[2] for s in program.segments if isinstance(s, HostSegment)}
    assert reasons == {" overlay 'att16' has no unit norm"}
    feeds = few(graph)
    exact = ops.evaluate(encoder(), feeds)[graph.outputs[0]]
    off = run(program, feeds) - exact
    assert np.sqrt(np.square(off).mean() / np.square(exact).mean()) < 0.03


def test_overlays_without_the_units_keep_layers_and_leave_the_rest_to_the_host() -> None:
    plain = Overlay("16x16", 16, 16, 16, 4096, 256, 32, 256)
    graph, program = compiled(encoder(), plain)
    places = {p.op: p.where for p in preflight(encoder(), plain)}
    assert places == {
        "LayerNorm": "host",
        "Attention": "host",
        "Linear": "accelerator",
        "Add": "accelerator",
        "Gelu": "accelerator",
    }
    feeds = few(graph)
    exact = ops.evaluate(encoder(), feeds)[graph.outputs[0]]
    off = run(program, feeds) - exact
    assert np.sqrt(np.square(off).mean() / np.square(exact).mean()) < 0.06


def test_reports_show_norms_and_attention_with_their_work() -> None:
    places = {p.op: (p.where, p.engine) for p in preflight(encoder(), ENCODER16)}
    assert places["LayerNorm"] == ("accelerator", "norm")
    assert places["Attention"] == ("accelerator", "systolic")
    found = inspect(encoder(), ENCODER16)
    by_op = {layer["op"]: layer for layer in found.layers}
    assert by_op["Attention"]["macs"] == 2 * 16 * 16 * 32
    assert by_op["LayerNorm"]["where"] == "accelerator"
    _, program = compiled(encoder(), ENCODER16)
    layers = {layer.op: layer for layer in weft.estimate(program).layers}
    assert layers["Attention"].macs == 2 * 16 * 16 * 32
    assert layers["LayerNorm"].cycles > 0
