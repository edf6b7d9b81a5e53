"""Quantized Transformers as standard ONNX: onnxruntime computes what the quantized graph does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import Net, attention_net, encoder, samples

import weft
from weft.errors import UnsupportedError
from weft.export_qdq import export_qdq, to_onnx
from weft.graph import Graph
from weft.passes.quantize import quantize, simulate

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
FOLDERS = Path(__file__).resolve().parents[1] / "data" / "transformers"
CASES: dict[str, dict[str, Any]] = {
    "norms in front": {},
    "norms behind": {"post": True},
    "RMSNorm": {"norm": "RMSNorm"},
    "grouped queries": {"heads": 4, "kv_heads": 2},
    "cross attention": {"memory": 24},
    "causal": {"causal": 1},
    "window": {"left": -5, "right": 3},
    "biases": {"bias": (2, 16, 16)},
    "parts that don't see each other": {"windows": 4, "bias": (4, 4, 4), "kinds": (0, 1, 1, 0)},
}


def theirs(model: bytes, feeds: dict[str, Any]) -> Any:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def agree(graph: Graph, feeds: dict[str, Any]) -> None:
    """Nearly all codes are the same: sums of float32 in another order round a few differently."""
    found = theirs(to_onnx(graph).SerializeToString(), feeds)
    for (name, wanted), other in zip(simulate(graph, feeds).items(), found, strict=True):
        scale = float(graph[name].quant.scale)
        off = np.abs(wanted - other) / np.abs(wanted).max()
        assert off.max() < 0.02, name
        assert np.mean(np.abs(wanted - other) < 1.5 * scale) > 0.9, name


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_encoders(case: dict[str, Any]) -> None:
    graph = encoder(**case)
    quantized = quantize(graph, samples(graph))
    assert any(
        t.quant is not None and t.quant.format == "int16" for t in quantized.tensors.values()
    )
    agree(quantized, samples(graph, seed=2, count=5))


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["vit", "deit", "swin"])
def test_folders(name: str, tmp_path: Path) -> None:
    x = np.load(FOLDERS / name / "expected.npz")["x"]
    path = tmp_path / "q.onnx"
    program = weft.compile(FOLDERS / name, "lab", calibration=x, export_qdq=path)
    (found,) = theirs(path.read_bytes(), {"pixel_values": x})
    with weft.open(program) as session:
        ours = session.run(x)
    assert np.abs(ours - found).max() < 0.05 * np.abs(found).max()
    export_qdq(program, tmp_path / "again.onnx")
    (again,) = theirs((tmp_path / "again.onnx").read_bytes(), {"pixel_values": x})
    np.testing.assert_array_equal(again, found)


def test_what_onnx_has_no_form_for_is_named() -> None:
    graph = attention_net(tokens=8, left=2, right=3)  # the last queries see no key
    with pytest.raises(UnsupportedError, match="Attention 'attention3' can't be written"):
        to_onnx(quantize(graph, samples(graph)))
    net = Net()
    x, keys = net.input("x", 8, 32), net.input("keys", 1, dtype="int64")
    graph = net.graph(net.attention(x, x, 2, 16, keys=keys))
    feeds = {**samples(replace(graph, inputs=("x",))), "keys": np.full((8, 1), 8)}
    with pytest.raises(UnsupportedError, match="can't be written as standard ONNX"):
        to_onnx(quantize(graph, feeds))
