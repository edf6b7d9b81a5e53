"""Pruned layers on the sparse engines: the same codes as on the dense array, in fewer clocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import Net, codes, outputs, scale

import weft
from weft.config import Overlay
from weft.estimate import estimate
from weft.graph import Quant
from weft.isa import decode
from weft.lower import lower

SIZES = (8, 8, 8, 2048, 128, 32, 64)
DENSE = Overlay("dense8", *SIZES, weight_bits=16, formats=("int8", "int4", "flint4"))
SPARSE = replace(
    DENSE,
    name="sparse8",
    engines=("systolic", "nm", "eie", "snap", "gather"),
    eie_pes=8,
    nm_group=8,
)
PATTERNS = ("2:4", "1:4", "2:8", "csc:0.9", "bitmask:0.5", "snap:0.9")
ENGINE = {"2:4": "nm", "1:4": "nm", "2:8": "nm", "csc:0.9": "eie", "bitmask:0.5": "gather"}
ENGINE["snap:0.9"] = "snap"


def zeros(rng, shape, axis, pattern, top=128):
    """Integers with a pattern of zeros along `axis`, the input channels."""
    w = np.moveaxis(rng.integers(1, top, shape) * rng.choice([-1, 1], shape), axis, -1)
    if pattern.startswith(("csc", "bitmask", "snap")):
        kept = rng.random(w.shape) < 1 - float(pattern.split(":")[1])
    else:
        n, m = map(int, pattern.split(":"))
        channels = w.shape[-1]
        rank = rng.permuted(
            np.broadcast_to(np.arange(m), (*w.shape[:-1], -(-channels // m), m)), axis=-1
        )
        kept = (rank < n).reshape(*w.shape[:-1], -1)[..., :channels]
    return np.moveaxis(np.where(kept, w, 0), -1, axis).astype(np.int8)


def linear(rng, k, n, pattern, *, zero=-128, fmt="int8"):
    net, top = Net(), 8 if fmt == "int4" else 128
    x = net.input("x", (1, k), scale(0.02, zero))
    w = zeros(rng, (k, n), 0, pattern, top)
    quant = Quant(rng.uniform(0.001, 0.01, n).astype(np.float32), 0, 1, format=fmt)
    operands = [x, net.constant("w", w, quant), ""]
    y = net.node("Linear", operands, (1, n), scale(1.0, 3), sparsity=pattern)
    return net.graph(y)


def conv(rng, shape, n, kernel, pattern, **attrs):
    net = Net()
    x = net.input("x", (1, *shape), scale(0.02, -5))
    w = zeros(rng, (n, shape[0], kernel, kernel), 1, pattern)
    quant = Quant(rng.uniform(0.001, 0.01, n).astype(np.float32), 0, 0)
    size = [(d - kernel) // attrs.get("strides", [1, 1])[0] + 1 for d in shape[1:]]
    operands = [x, net.constant("w", w, quant), ""]
    y = net.node("Conv", operands, (1, n, *size), scale(1.0, 3), sparsity=pattern, **attrs)
    return net.graph(y)


def same(graph, batch=1, sparse=SPARSE):
    """Codes on both overlays; every device gives those of the dense one. Returns the programs."""
    feeds = {"x": codes(batch, *graph["x"].shape[1:])}
    expected, dense = outputs(graph, DENSE, feeds, batch)
    found, program = outputs(graph, sparse, feeds, batch)
    np.testing.assert_array_equal(found[0], expected[0])
    quant = graph["x"].quant
    real = quant.dequantize(feeds["x"])
    with weft.open(program, "csim") as session, weft.open(program, "golden") as golden:
        np.testing.assert_array_equal(session.run(real), golden.run(real))
    return dense, program


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from(PATTERNS), st.integers(1, 3), st.sampled_from([-128, 4])
)
def test_products_of_vectors(seed, pattern, batch, zero):
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(8, 200)), int(rng.integers(1, 60))
    same(linear(rng, k, n, pattern, zero=zero), batch)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from(PATTERNS), st.integers(1, 3))
def test_convolutions(seed, pattern, kernel):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(4, 40)), int(rng.integers(3, 7)), int(rng.integers(3, 7)))
    same(conv(rng, shape, int(rng.integers(1, 30)), kernel, pattern))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from(PATTERNS), st.integers(1, 2))
def test_windows_that_cover_the_map(seed, pattern, batch):
    """A flattened map is one vector, word by word."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 6))
    same(conv(rng, (int(rng.integers(8, 30)), size, size), 20, size, pattern), batch)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_zeros_save_clocks_and_bytes(pattern):
    rng = np.random.default_rng(7)
    dense, program = same(linear(rng, 512, 96, pattern))
    layer = program.layers[0]
    assert layer.engine == ENGINE[pattern]
    assert "clocks instead of" in layer.sparsity
    assert estimate(program).cycles < 0.75 * estimate(dense).cycles
    assert len(program.weights) < 0.75 * len(dense.weights)


@pytest.mark.parametrize("fmt", ["int4", "flint4"])
@pytest.mark.parametrize("pattern", ["2:4", "csc:0.9", "bitmask:0.5"])
def test_values_of_four_bits(pattern, fmt):
    rng = np.random.default_rng(8)
    graph = linear(rng, 256, 40, pattern)
    grid = np.array([0, 1, 2, 3, 4, 6, -1, -2, -3, -4, -6])
    small = grid[np.abs(graph["w"].data.astype(int)) % len(grid)] * (graph["w"].data != 0)
    quant = replace(graph["w"].quant, format=fmt)
    tensor = replace(graph["w"], data=small.astype(np.int8), quant=quant)
    four = graph.replace(tensors={**graph.tensors, "w": tensor})
    eight = same(graph)[1]
    program = same(four)[1]
    assert program.layers[0].weight_bytes < 0.85 * eight.layers[0].weight_bytes


def test_the_estimate_of_gathered_layers_is_what_the_simulation_counts():
    """Their clocks depend on the weights only; those of EIE on the activations, too."""
    rng = np.random.default_rng(9)
    program = lower(linear(rng, 300, 50, "bitmask:0.5"), SPARSE, batch=1)
    with weft.open(program, "csim") as session:
        _, run = session.run(np.ones((1, 300), np.float32), detail=True)
    assert estimate(program).cycles == run.cycles


@pytest.mark.parametrize(
    ("pattern", "k", "n", "why"),
    [
        ("csc:0.9", 16, 8, "not beaten"),
        ("3:4", 64, 64, "more than half"),
    ],
)
def test_dense_where_sparse_does_not_pay(pattern, k, n, why):
    graph = linear(np.random.default_rng(3), k, n, "2:4")
    node = graph.nodes[0].with_attrs(sparsity=pattern)
    program = lower(graph.replace(nodes=(node,)), SPARSE, batch=1)
    assert program.layers[0].engine == "systolic"
    assert why in program.layers[0].sparsity


def blocks(rng, k, n, v, kept, m):
    """Weights [k, n]: of each v outputs and m inputs 4 inputs are left, and `kept` of them each."""
    w = np.zeros((n, k), np.int8)
    for row in range(0, n, v):
        for first in range(0, k, m):
            columns = first + rng.permutation(min(m, k - first))[:4]
            for one in range(row, min(row + v, n)):
                chosen = rng.permutation(columns)[:kept]
                w[one, chosen] = rng.integers(1, 128, len(chosen))
    return w.T.copy()


@pytest.mark.parametrize(
    ("pattern", "own"),
    [("1:3", "2:4"), ("1:6", "2:8"), ("2:6", "4:8"), ("1:16", "1:4"), ("3:16", "3:8"),
     ("16:2:8", "2:8"), ("4:1:8", "1:8"), ("8:2:16", "2:8"), ("8:1:6", "2:8")],
)  # fmt: skip
def test_other_patterns_run_as_one_that_the_engine_has(pattern, own):
    """M that is no power of two or too large, and V:N:M: the same weights in other groups."""
    rng = np.random.default_rng(11)
    *v, kept, m = map(int, pattern.split(":"))
    graph = linear(rng, 200, 40, pattern if not v else "2:4")
    w = blocks(rng, 200, 40, v[0], kept, m) if v else graph["w"].data
    node = graph.nodes[0].with_attrs(sparsity=pattern)
    tensors = {**graph.tensors, "w": replace(graph["w"], data=w)}
    _, program = same(graph.replace(nodes=(node,), tensors=tensors))
    assert program.layers[0].engine == "nm"
    as_own = f"as {own}" if pattern.split(":")[-2:] != own.split(":") or v else ""
    assert program.layers[0].sparsity.endswith(as_own)
    assert "clocks instead of" in program.layers[0].sparsity


@pytest.mark.parametrize("pattern", ["3:5", "4:7"])
def test_patterns_that_no_group_of_the_engine_holds_are_dense(pattern):
    _, program = same(linear(np.random.default_rng(12), 200, 40, pattern))
    assert program.layers[0].engine == "systolic"
    assert f"holds the weights of {pattern}" in program.layers[0].sparsity


@pytest.mark.parametrize("engines", [("fusion",), ("shift",), ("shift", "fusion")])
@pytest.mark.parametrize("fmt", ["int8", "int4"])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "csc:0.9", "bitmask:0.5", "snap:0.9"])
def test_sparse_is_compared_with_the_best_dense_engine(pattern, fmt, engines):
    """Weights of four bits take half the folds on bricks and shifts: half the zeros save none."""
    overlay = replace(SPARSE, name="both8", engines=(*SPARSE.engines, *engines))
    graph = linear(np.random.default_rng(13), 384, 64, pattern, fmt=fmt)
    (node,) = graph.nodes
    plain = replace(node, attrs={k: v for k, v in node.attrs.items() if k != "sparsity"})
    _, program = same(graph, sparse=overlay)
    dense = lower(graph.replace(nodes=(plain,)), overlay, batch=1)
    taken, note = program.layers[0].engine, program.layers[0].sparsity
    assert dense.layers[0].engine == (engines[0] if fmt == "int4" else "systolic")
    if taken == dense.layers[0].engine:
        assert f"of {taken} are not beaten" in note
    elif taken in ("nm", "gather"):  # their clocks don't depend on activations
        assert estimate(program).cycles < estimate(dense).cycles
    halved = fmt == "int4" and pattern in ("2:4", "bitmask:0.5")
    assert (taken == dense.layers[0].engine) == halved


def test_a_pattern_that_the_weights_break_is_dense():
    graph = linear(np.random.default_rng(3), 64, 64, "bitmask:0.3")
    node = graph.nodes[0].with_attrs(sparsity="2:4")
    program = lower(graph.replace(nodes=(node,)), SPARSE, batch=1)
    assert "has more than 2 weights" in program.layers[0].sparsity


def test_large_layers_are_cut_to_what_the_engine_holds():
    rng = np.random.default_rng(4)
    small = replace(SPARSE, name="eie-small", eie_entries=1024, eie_outputs=8)
    _, program = same(linear(rng, 512, 100, "csc:0.9"), sparse=small)
    segment = program.segments[0]
    kinds = [decode(words) for words in segment.words]
    assert sum(kind.name == "MatMul" and bool(f["rows"]) for kind, f in kinds) > 1


def test_batches_are_as_large_as_the_gather_engine_takes():
    program = lower(linear(np.random.default_rng(5), 256, 40, "bitmask:0.5"), SPARSE)
    assert program.batch == 8
