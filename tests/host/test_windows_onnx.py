"""Swin as ONNX: windows and merged patches are found in what the exporter writes out.

The reference is onnxruntime. tests/record_swin_onnx.py wrote the files, by both of
PyTorch's exporters.
"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import Net, images, run_onnx

import weft
from weft.frontend.onnx import load_onnx
from weft.ops import evaluate
from weft.passes.fuse import fuse
from weft.passes.windows import order_of
from weft.program import AcceleratorSegment
from weft.window_ops import window_order

FOLDER = Path(__file__).resolve().parents[1] / "data" / "swin_onnx"
FILES = sorted(FOLDER.glob("*.onnx.gz"))
every_file = pytest.mark.parametrize("packed", FILES, ids=lambda p: p.name.split(".")[0])


def unpacked(packed: Path, folder: Path) -> Path:
    path = folder / packed.stem
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


def theirs(path: Path, x: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"pixel_values": x[i : i + 1]})[0] for i in range(3)])


@pytest.mark.oracle
@every_file
def test_what_the_exporter_writes_out_is_found(packed, tmp_path):
    path, x = unpacked(packed, tmp_path), images((3, 3, 16, 16))
    graph = weft.load_model(path)
    ops = Counter(node.op for node in graph)
    assert (ops["Attention"], ops["Windows"], ops["PatchMerge"]) == (3, 4, 1)
    assert not ops.keys() & {"Softmax", "Slice", "Concat", "MatMul"}
    shifts = [node.attrs["shift"] for node in graph if node.op == "Windows"]
    assert shifts == [(0, 0), (0, 0), (2, 2), (2, 2)]
    (found,) = evaluate(graph, {"pixel_values": x}).values()
    np.testing.assert_allclose(found, theirs(path, x), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
@every_file
def test_all_of_it_runs_on_the_accelerator(packed, tmp_path):
    path, x = unpacked(packed, tmp_path), images((3, 3, 16, 16))
    program = weft.compile(path, "lab", calibration=x)
    assert [type(s) for s in program.segments] == [AcceleratorSegment]
    assert weft.check(program, x, "csim").first_difference is None
    with weft.open(program) as session:
        wanted = theirs(path, x)
        assert np.abs(session.run(x) - wanted).max() < 0.05 * np.abs(wanted).max()


sides = st.integers(2, 4)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 9), st.integers(0, 9))
def test_orders_are_found_again(rows, columns, height, width, down, right):
    size, window = (rows * height, columns * width), (height, width)
    order = window_order(size, window, (down % height, right % width))
    assert order_of(order) == (size, window, (down % height, right % width))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1 << 30))
def test_other_orders_are_none(tokens, seed):
    order = np.random.default_rng(seed).permutation(tokens)
    found = order_of(order)
    assert found is None or np.array_equal(window_order(*found), order)


def turned(net: Net, how: str) -> str:
    """x [1, 24, 8] in another order, as [1, 24, 8]."""
    image = net.op("Reshape", "x", net.const([1, 4, 6, 8], np.int64))
    if how == "columns first":
        moved = net.op("Transpose", image, perm=[0, 2, 1, 3])
    elif how == "channels mixed":
        cut = net.op("Reshape", image, net.const([1, 2, 2, 2, 3, 2, 4], np.int64))
        moved = net.op("Transpose", cut, perm=[0, 1, 3, 5, 2, 4, 6])
    else:  # rows apart: the lower half first, without going round in each window
        ends = [net.const(v, np.int64) for v in ([2], [4], [1])]
        low = net.op("Slice", image, *ends)
        moved = net.op("Concat", low, image, axis=1)
        return str(net.op("Reshape", moved, net.const([1, 36, 8], np.int64)))
    return str(net.op("Reshape", moved, net.const([1, 24, 8], np.int64)))


@pytest.mark.parametrize("how", ["columns first", "channels mixed", "rows twice"])
def test_other_moves_stay_what_they_are(how):
    net = Net(1, 24, 8)
    model = net.model(net.op("MatMul", turned(net, how), net.weights(8, 4)))
    graph, x = fuse(load_onnx(model)), images((1, 24, 8))
    (found,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(found, run_onnx(model, {"x": x})[0], rtol=1e-5, atol=1e-5)
    assert not {node.op for node in graph} & {"PatchMerge"}


@pytest.mark.parametrize("step", [1, -1], ids=["in order", "backwards"])
def test_a_gather_of_all_in_order_is_no_move(step):
    """As torch.export writes as_strided: by indices into the flat tensor."""
    net = Net(1, 24, 8)
    flat = net.op("Reshape", "x", net.const([-1], np.int64))
    every = np.arange(192)[::step].reshape(1, 24, 8)
    y = net.op("Gather", flat, net.const(every, np.int64), axis=0)
    model, x = net.model(net.op("MatMul", y, net.weights(8, 4))), images((1, 24, 8))
    graph = fuse(load_onnx(model))
    assert [n.op for n in graph] == (["Linear"] if step == 1 else ["Reshape", "Gather", "Linear"])
    (found,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(found, run_onnx(model, {"x": x})[0], rtol=1e-4, atol=1e-5)
