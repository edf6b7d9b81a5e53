"""Attention as instructions: every code equals plain integers, and the simulation equals golden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from encoders import (
    FEW,
    LANES16,
    OVERLAYS,
    Net,
    attention_codes,
    attention_net,
    check_simulation,
    compiled,
    few,
    linear_codes,
    run,
)

from weft import isa, ops
from weft.config import Overlay
from weft.errors import CapacityError
from weft.graph import Graph
from weft.lower import lower, preflight
from weft.passes.quantize import simulate
from weft.program import AcceleratorSegment, HostSegment

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a token": {"tokens": 1},
    "grouped queries": {"heads": 4, "kv_heads": 2, "width": 32},
    "cross attention": {"memory": 37},
    "causal, in parts": {"tokens": 70, "causal": 1},
    "window": {"tokens": 90, "left": -9, "right": 4},
    "window and causal": {"tokens": 90, "left": -40, "causal": 1},
    "heads of no whole words": {"heads": 3, "width": 12},
    "bias of every head": {"bias": (2, 20, 20)},
    "bias of all heads": {"bias": (1, 20, 20)},
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)


def expected(graph: Graph, feeds: dict[str, Any]) -> Any:
    """Real outputs of attention_net, by integers."""
    found = []
    for i in range(FEW):
        values = {n: graph[n].quant.quantize(x[i]).astype(np.int64) for n, x in feeds.items()}
        for node in graph:
            if node.op == "Linear":
                values[node.outputs[0]] = linear_codes(graph, node, values[node.inputs[0]])
            else:
                operands = [values[name] for name in node.inputs[:3]]
                values[node.outputs[0]] = attention_codes(graph, node, operands)
        (out,) = graph.outputs
        found.append(graph[out].quant.dequantize(values[out]))
    return np.stack(found)


@every_overlay
@every_case
def test_codes_equal_plain_integers(overlay: Overlay, case: dict[str, Any]) -> None:
    graph, program = compiled(attention_net(**case), overlay)
    assert all(isinstance(s, AcceleratorSegment) for s in program.segments)
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))


@every_overlay
@every_case
def test_simulation_equals_golden_in_every_layer_and_clock(
    overlay: Overlay, case: dict[str, Any]
) -> None:
    graph, program = compiled(attention_net(**case), overlay)
    check_simulation(graph, program)


@every_case
def test_attention_is_nearly_that_of_real_numbers(case: dict[str, Any]) -> None:
    """Within twice the noise of what is rounded: exponentials to 1/127, scores to 2**-10, codes."""
    graph, program = compiled(attention_net(**case), LANES16)
    feeds = few(graph)
    (node,) = (n for n in graph if n.op == "Attention")
    (last,) = (n for n in graph if n.inputs[0] == node.outputs[0])
    kept = ops.evaluate(graph, feeds, keep=node.inputs[2:3], fake_quant=True)
    value = float(np.square(kept[node.inputs[2]]).mean())
    keys = graph[node.inputs[1]].shape[1]
    share = 1 / 12 + (127 * 2.0**-10) ** 2 / 12  # variance of an exponential's code, at most
    least = 127  # of the sum of a row: the largest exponential
    noise = keys * share / least**2 * value + variance(graph, node.outputs[0])
    gain = float(np.square(graph[last.inputs[1]].real()).sum(0).max())
    limit = 2 * np.sqrt(noise * gain + variance(graph, last.outputs[0]))
    error = run(program, feeds) - simulate(graph, feeds)[graph.outputs[0]]
    assert np.sqrt(np.square(error).mean()) <= limit


def variance(graph: Graph, name: str) -> float:
    """Of the rounding to a tensor's codes."""
    return float(graph[name].quant.scale) ** 2 / 12


def test_every_head_takes_four_instructions() -> None:
    _, program = compiled(attention_net(tokens=16), LANES16)
    names = [isa.decode(words)[0].name for words in program.segments[0].words]
    assert names.count("Attend") == 4
    assert program.layers[3].op == "Attention"
    assert program.layers[3].macs == 2 * 16 * 16 * (32 + 32)


def test_macs_leave_out_the_zeros_behind_heads() -> None:
    graph, program = compiled(attention_net(heads=3, width=12), LANES16)
    by_name = {layer.name: layer.macs for layer in program.layers}
    assert [by_name[node.name] for node in graph] == [20 * 32 * 36] * 3 + [
        3 * 20 * 20 * 24,
        20 * 36 * 32,
    ]


def test_tiles_that_no_query_sees_are_left_out() -> None:
    overlay = replace(LANES16, accumulator_rows=32)
    program = compiled(attention_net(tokens=96, heads=1, left=-5, right=5), overlay)[1]
    tiles = [
        fields["tiles"]
        for kind, fields in map(isa.decode, program.segments[0].words)
        if kind is isa.ATTEND and fields["transposed"]
    ]
    assert tiles == [3, 4, 3]


def test_keys_and_values_cross_memory_where_a_segment_ends_before_them() -> None:
    overlay = replace(LANES16, buffer_words=150, parameter_blocks=16)
    graph, program = compiled(attention_net(tokens=24), overlay)
    assert len(program.segments) > 1
    spaces = [
        (kind.name, fields["space"])
        for segment in program.segments
        for kind, fields in map(isa.decode, segment.words)
        if kind in (isa.READ_HOST, isa.WRITE_HOST)
    ]
    assert ("ReadHost", 1) in spaces
    assert ("WriteHost", 1) not in spaces
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))


def test_attention_in_bands_of_queries() -> None:
    overlay = replace(LANES16, buffer_words=100, parameter_blocks=16)
    graph, program = compiled(attention_net(tokens=24), overlay)
    assert program.notes["banded_layers"] > 0
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"operand_words": 32}, "operand_words"),
        ({"wide_words": 16, "operand_words": 4096, "accumulator_rows": 2}, "accumulator_rows"),
        ({"units": ("requant", "vector", "lookup")}, "has no unit attention"),
        ({"softmax": ("table",)}, "tables"),
    ],
)
def test_what_does_not_fit_runs_on_the_host(changed: dict[str, Any], why: str) -> None:
    overlay = replace(LANES16, **changed)
    graph, program = compiled(attention_net(tokens=300 if "wide_words" in changed else 40), overlay)
    (host,) = (s for s in program.segments if isinstance(s, HostSegment))
    assert why in host.reason
    feeds = few(graph)
    step = float(graph[graph.outputs[0]].quant.scale)
    off = np.abs(run(program, feeds) - simulate(graph, feeds)[graph.outputs[0]])
    assert off.max() <= 4 * step


def test_keys_that_others_read_stay_on_the_host() -> None:
    net = Net()
    x = net.input("x", 16, 32)
    q, k = net.linear(x, 32), net.linear(x, 32)
    attrs = {"heads": 1, "kv_heads": 1, "scale": 0.2, "causal": 0}
    y = net.node("Attention", [q, k, k], (1, 16, 32), **attrs)
    _, program = compiled(net.graph(y, net.linear(k, 8)), LANES16)
    (host,) = (s for s in program.segments if isinstance(s, HostSegment))
    assert "something else reads" in host.reason


def test_a_batch_is_refused() -> None:
    graph, program = compiled(attention_net(), LANES16)
    assert program.batch == 1
    with pytest.raises(CapacityError, match="batch=1"):
        lower(graph, LANES16, batch=4)


def test_preflight_of_a_float_graph_shows_attention_on_the_array() -> None:
    places = {p.op: p for p in preflight(attention_net(), LANES16)}
    assert (places["Attention"].where, places["Attention"].engine) == ("accelerator", "systolic")
