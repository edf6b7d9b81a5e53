"""Ranges per row behind norms: graphs, their lowering, and what the accelerator makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import FEW, LANES16, LANES32, Net, encoder, samples

import weft
from weft import cli, isa, ops
from weft.config import Overlay
from weft.device.golden import Golden
from weft.errors import CapacityError, UnsupportedError, UsageError
from weft.graph import Graph
from weft.graph_file import pack, unpack
from weft.lower import lower
from weft.passes.quantize import quantize, simulate
from weft.program import AcceleratorSegment, Program
from weft.runtime import Session

UNITS = (*LANES16.units, "norm", "ranges")
RANGES16 = replace(LANES16, name="range16", units=UNITS)
RANGES32 = replace(LANES32, name="range32", units=UNITS)
OVERLAYS = (RANGES16, RANGES32)
CASES: dict[str, dict[str, Any]] = {
    "norms in front": {},
    "norms behind": {"post": True, "layers": 2},
    "RMSNorm": {"norm": "RMSNorm"},
    "channels of no whole words": {"channels": 40, "width": 20, "inner": 50},
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)


def quantized(case: dict[str, Any], **options: Any) -> Graph:
    graph = encoder(**case)
    return quantize(graph, samples(graph), **({"row_ranges": True} | options))


def run(program: Program, feeds: dict[str, Any]) -> Any:
    with Session(program, Golden()) as session:
        return next(iter(session.run(feeds).values()))


def fields(program: Program) -> list[tuple[str, dict[str, int]]]:
    decoded = map(isa.decode, program.segments[0].words)
    return [(kind.name, f) for kind, f in decoded]


@every_case
def test_what_products_read_of_norms_has_them(case: dict[str, Any]) -> None:
    graph = quantized(case)
    ranged = {name for name, t in graph.tensors.items() if t.quant is not None and t.quant.rows}
    assert len(ranged) == 2 * case.get("layers", 1)
    for name in ranged:
        assert graph[name].quant.zero_point == 0
        assert {node.op for node in graph.consumers()[name]} == {"Linear"}
    again = unpack(pack(graph))
    assert {n for n, t in again.tensors.items() if t.quant is not None and t.quant.rows} == ranged
    plain = quantize(encoder(**case), samples(encoder(**case)))
    assert not any(t.quant is not None and t.quant.rows for t in plain.tensors.values())


@every_overlay
@every_case
def test_simulation_equals_golden_in_every_layer_and_clock(
    overlay: Overlay, case: dict[str, Any]
) -> None:
    graph = quantized(case)
    program = lower(graph, overlay)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    layers = case.get("layers", 1)
    assert sum(f["ranges"] for kind, f in fields(program) if kind == "Norm") == 2 * layers
    by = [f["normalize"] for kind, f in fields(program) if kind == "Activate"]
    assert by.count(isa.BY_MAGNITUDE) == 4 * layers  # q, k, v and the first feed-forward layer
    feeds = samples(graph, seed=2, count=FEW)
    assert weft.check(program, feeds, "csim").first_difference is None
    with weft.open(program, "csim") as session:
        _, took = session.run(feeds, detail=True)
    assert took.cycles == FEW * weft.estimate(program).cycles


@every_case
def test_is_as_exact_as_its_codes(case: dict[str, Any]) -> None:
    """No further from real numbers than float arithmetic on the same codes, but for a tenth and
    what exponentials and norms round.
    """
    graph = quantized(case)
    feeds = samples(graph, seed=2, count=FEW)
    (name,) = graph.outputs
    exact = ops.evaluate(encoder(**case), feeds)[name]

    def error(y: Any) -> float:
        return float(np.sqrt(np.square(y - exact).mean() / np.square(exact).mean()))

    found = error(run(lower(graph, RANGES16), feeds))
    assert found <= 1.1 * error(simulate(graph, feeds)[name]) + 1 / 254
    assert found < 0.03


def test_rows_beyond_those_seen_keep_their_ends() -> None:
    """A row with one large channel has a norm twice as large as those of the calibration."""
    net = Net(3)
    graph = net.graph(net.linear(net.norm(net.input("x", 16, 32)), 32))
    data = samples(graph, seed=2, count=4)
    wild = {n: np.zeros_like(x) for n, x in data.items()}
    for x in wild.values():
        x[..., 5] = 1
    (name,) = graph.outputs
    exact = ops.evaluate(graph, wild)[name]
    errors = []
    for rows in (False, True):
        program = lower(quantize(graph, data, row_ranges=rows), RANGES16)
        with Session(program, Golden()) as session:
            y = next(iter(session.run(wild).values()))
        errors.append(float(np.sqrt(np.square(y - exact).mean() / np.square(exact).mean())))
    assert errors[1] < errors[0] / 2


@every_case
def test_fewer_tokens_take_the_same_program(case: dict[str, Any]) -> None:
    """A row's codes are its own: tokens that are not there change nothing without attention."""
    graph = quantized(case)
    program = lower(graph, RANGES16)
    feeds = samples(graph, seed=2, count=FEW)
    part = {name: x[:, :9] for name, x in feeds.items()}
    assert weft.check(program, part, "csim").first_difference is None


def test_small_accumulators_and_buffers_are_refused_by_name() -> None:
    graph = quantized({"tokens": 40})
    with pytest.raises(CapacityError, match=r"magnitudes of .* are known: take fewer tokens"):
        lower(graph, replace(RANGES16, accumulator_rows=16))
    with pytest.raises(CapacityError, match=r"'att16' can't take \(no unit ranges\)"):
        lower(graph, replace(LANES16, units=UNITS[:-1]))


def test_where_there_are_none_it_says_so() -> None:
    net = Net()
    x = net.input("x", 16, 32)
    graph = net.graph(net.linear(x, 32))
    with pytest.raises(UsageError, match="has no ranges per row"):
        quantize(graph, samples(graph), row_ranges=True)
    with pytest.raises(UsageError, match="take one of them"):
        quantized({}, dynamic=True)
    with pytest.raises(UsageError, match="ranges per row are int8's, not int4"):
        quantized({}, activations="int4")
    with pytest.raises(UsageError, match="ranges per row are for float models"):
        weft.compile(quantized({}), RANGES16, row_ranges=True)


def test_standard_onnx_has_no_form_for_them(tmp_path: Path) -> None:
    from weft.export_qdq import export_qdq

    with pytest.raises(UnsupportedError, match="has ranges per row, which standard ONNX"):
        export_qdq(quantized({}), tmp_path / "m.onnx")


def test_the_command_line_asks_for_them(tmp_path: Path, capsys: Any) -> None:
    from weft.demo import MODELS, load_data

    calibration = tmp_path / "digits.npy"
    np.save(calibration, load_data().calibration)
    model, output = str(MODELS / "vit_digits.onnx"), str(tmp_path / "m.weft")
    words = ["compile", model, "--overlay", "lab", "--calibrate", str(calibration), "-o", output]
    assert cli.run([*words, "--row-ranges"]) == 0
    program = Program.load(output)
    assert any(f.get("ranges") for kind, f in fields(program) if kind == "Norm")
    capsys.readouterr()
