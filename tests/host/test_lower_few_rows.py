"""Products of a few rows: engine matvec where it is faster, with the bits of the array."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weft
from weft import isa, ops
from weft.adjust import resolved
from weft.config import Overlay, load_board, load_overlay
from weft.decoder_compiler import compile_decoder
from weft.device import open_device
from weft.estimate import estimate
from weft.formats import FORMATS
from weft.frontend import decoders
from weft.graph import Graph, Node, Tensor
from weft.lower.few_rows import of_few_rows
from weft.program import AcceleratorSegment, Program
from weft.roofline import roofline
from weft.text.decoder_assets import DecoderAssets
from weft.text.forward import ProgramForward
from weft.units import matvec, systolic

SIZES: dict[str, Any] = {"weight_bits": 16, "formats": tuple(FORMATS)}
ARRAY = Overlay("rows", 8, 8, 8, 2048, 128, 32, 64, **SIZES)
BOTH = replace(ARRAY, name="few", engines=("systolic", "matvec"), stream_rows=4, weight_ports=2)
NAMES = ("int8", "int4", "int4:g32", "uint4:g64", "flint4", "ternary", "int5",
         "olive4", "codebook16", "flint4:g32", "e2m1:g64")  # fmt: skip


def mlp(shape: tuple[int, ...], sizes: tuple[int, int], seed: int) -> Graph:
    """Two Linears with a ReLU between them, over the last dimension of `shape`."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {"x": Tensor("x", shape)}
    nodes: list[Node] = []
    head, channels = "x", shape[-1]
    for number, size in enumerate(sizes):
        w = rng.normal(size=(channels, size)).astype(np.float32) / np.sqrt(channels)
        tensors[f"w{number}"] = Tensor(f"w{number}", w.shape, "float32", w)
        attrs = {"activation": ("Relu",)} if number == 0 else {}
        node = Node("Linear", f"fc{number}", (head, f"w{number}"), (f"y{number}",), attrs)
        nodes.append(node)
        tensors.update((t.name, t) for t in ops.describe_outputs(node, tensors))
        head, channels = f"y{number}", size
    return Graph("mlp", tensors, tuple(nodes), ("x",), (head,)).verify()


def made(graph: Graph, overlay: Overlay | str, name: str, batch: int = 1, **more: Any) -> Program:
    x = np.random.default_rng(3).normal(size=(8, *graph["x"].shape[1:])).astype(np.float32)
    return weft.compile(graph, overlay, calibration=x, weights=name, batch=batch, **more)


def products(program: Program) -> list[dict[str, int]]:
    return [
        isa.decode(words)[1]
        for segment in program.segments
        if isinstance(segment, AcceleratorSegment)
        for words in segment.words
        if words[0] == isa.MAT_MUL.opcode
    ]


def run(program: Program, device: str, x: Any) -> Any:
    with weft.open(program, device) as session:
        return session.run(x)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(1, 30)),
    rows=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_the_bits_are_those_of_the_array(name, sizes, rows, seed):
    graph = mlp((1, rows, sizes[0]), sizes[1:], seed)
    x = np.random.default_rng(seed).normal(size=(1, rows, sizes[0])).astype(np.float32)
    few, array = made(graph, BOTH, name), made(graph, ARRAY, name)
    expected = run(array, "golden", x)
    for device in ("golden", "csim"):
        np.testing.assert_array_equal(run(few, device, x), expected)
    engines = {isa.ENGINES[f["engine"]] for f in products(few)}
    assert engines <= {"systolic", "matvec"}
    assert rows <= matvec.ROWS or engines == {"systolic"}
    assert estimate(few).cycles <= estimate(array).cycles


@pytest.mark.parametrize("name", NAMES)
def test_one_row_goes_to_the_engine_and_is_faster(name):
    graph = mlp((1, 96), (64, 64), 0)
    few, array = made(graph, BOTH, name), made(graph, ARRAY, name)
    assert {layer.engine for layer in few.layers} == {"matvec"}
    assert {f["engine"] for f in products(few)} == {matvec.NUMBER}
    clocks = [estimate(p).counters for p in (few, array)]
    few_clocks, array_clocks = (c["matrix"] + c["weight_shift"] + c["drain"] for c in clocks)
    # Of the same memory rows per clock and port: two ports, and for 4 bits as many rows decoded.
    assert few_clocks < array_clocks / (3 if "4" in name and "6" not in name else 1.7)


def test_both_engines_take_the_same_bytes():
    """Weights in memory do not know who will multiply with them."""
    graph = mlp((1, 64), (64, 32), 1)
    few, array = made(graph, BOTH, "int4:g32"), made(graph, ARRAY, "int4:g32")
    np.testing.assert_array_equal(few.weights, array.weights)


def test_a_batch_counts_its_rows():
    graph = mlp((1, 64), (64, 32), 1)
    x = np.random.default_rng(5).normal(size=(16, 64)).astype(np.float32)
    expected = run(made(graph, ARRAY, "int4", batch=16), "csim", x)
    for batch, engine in ((2, "matvec"), (16, "systolic")):
        program = made(graph, BOTH, "int4", batch=batch)
        assert {layer.engine for layer in program.layers} == {engine}
        np.testing.assert_array_equal(run(program, "csim", x), expected)


def product(**changed: int) -> dict[str, int]:
    ones = dict.fromkeys(("kernel_h", "kernel_w", "out_h", "out_w", "first", "last", "overlap"), 1)
    f = {
        "engine": 0,
        "blocks": 4,
        "tiles": 4,
        "shift": 0,
        "pace": 1,
        "activation_bits": 8,
        "words": 1,
    }
    return ones | f | changed


@pytest.mark.parametrize(
    "changed", [{"out_w": 9}, {"kernel_w": 2}, {"engine": 5}, {"shift": 4}], ids=str
)
def test_what_stays_on_its_engine(changed):
    rows = 4 * 4 * 8
    assert of_few_rows(product(), rows // 2, BOTH, 1)["engine"] == matvec.NUMBER
    assert of_few_rows(product(**changed), rows // 2, BOTH, 1) == {}
    assert of_few_rows(product(), rows // 2, ARRAY, 1) == {}


def test_the_array_keeps_what_it_does_faster():
    """Of 8 rows a fold of the array takes 8 clocks, the engine 16; of one row 8 and 2."""
    memory_rows = 64 * 8 // 2
    assert of_few_rows(product(out_w=8, tiles=1, blocks=64), memory_rows, BOTH, 1) == {}
    f = product(tiles=1, blocks=64)
    there = f | of_few_rows(f, memory_rows, BOTH, 1)
    assert 4 * matvec.clocks(there, BOTH, 1).matrix == 8 * systolic.clocks(f, BOTH, 1, {}).matrix


@pytest.mark.parametrize("weights", ["int8", "int4:g32"])
def test_one_program_of_a_decoder_takes_both_engines(weights):
    """Which one, says the number of tokens of a run; the bits are those of the array alone."""
    decoder = decoders.load(Path(__file__).resolve().parents[1] / "data" / "decoders" / "llama_gqa")
    lab = load_overlay("lab")
    alone = replace(lab, name="array", engines=("systolic",), stream_rows=1)
    few, array = (
        compile_decoder(
            decoder, overlay, cache=40, tokens=12, calibration=[[1, 2, 3, 4, 5, 6]], weights=weights
        )
        for overlay in (lab, alone)
    )
    assets = DecoderAssets.of(decoder)
    forwards = [
        ProgramForward(program, open_device(name), assets)
        for name, program in (("golden", few), ("csim", few), ("csim", array))
    ]
    used, before = set(), 0
    for tokens in (1, 3, 8, 12, 9, 1):
        golden, csim, expected = (f.run(range(1, tokens + 1), before, 0) for f in forwards)
        np.testing.assert_array_equal(golden, expected)
        np.testing.assert_array_equal(csim, expected)
        counters = [f.results[0].counters for f in forwards]
        assert counters[0] == counters[1]
        registers = (tokens, before, 0)
        for _, words in resolved(few.segments[0].words, registers):
            if words is not None and words[0] == isa.MAT_MUL.opcode:
                used.add((tokens, isa.ENGINES[isa.decode(words)[1]["engine"]]))
        before += tokens
    assert {engine for tokens, engine in used if tokens > matvec.ROWS} == {"systolic"}
    assert (1, "matvec") in used
    assert (1, "systolic") not in used


def test_estimates_know_the_ports_and_the_multipliers():
    program = made(mlp((1, 256), (256, 256), 2), "decoder", "int4:g32")
    found = estimate(program, board="KV260")
    assert {layer.multipliers for layer in found.layers} == {16 * 8}
    board = load_board("KV260")
    stored = program.weights.nbytes
    instructions = sum(4 * isa.WORDS * len(s.words) for s in program.segments)
    moved = found.bytes - instructions
    assert stored <= moved <= stored + 4 * 1024  # the inputs and outputs, and tables read again
    narrow = replace(program, overlay=replace(program.overlay, weight_ports=1))
    clock = board.clock_mhz * 1e6
    assert roofline(found).bytes_per_s == board.memory_bytes_per_s
    one = roofline(estimate(narrow, board="KV260"))
    assert one.bytes_per_s == min(board.memory_bytes_per_s, 3 * 16 * clock)
