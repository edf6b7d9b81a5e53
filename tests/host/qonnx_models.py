"""Small QONNX models for tests, and qonnx's executor as their oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DATA = Path(__file__).resolve().parents[1] / "data"
DOMAIN = "qonnx.custom_op.general"


def model(nodes, constants, shape, out_shape, version=2):
    """A model with input x and output y."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def quant(x, y, scale, zero, bits, **attrs):
    """A Quant node, and its constants."""
    names = [f"{y}.scale", f"{y}.zero", f"{y}.bits"]
    attrs = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attrs}
    node = helper.make_node("Quant", [x, *names], [y], y, domain=DOMAIN, **attrs)
    return node, dict(zip(names, (scale, zero, bits), strict=True))


def executed(proto: onnx.ModelProto, x: np.ndarray, keep: str = "") -> np.ndarray:
    """What qonnx computes, sample by sample."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapped = ModelWrapper(proto).transform(InferShapes())
    name, out = wrapped.graph.input[0].name, keep or wrapped.graph.output[0].name
    found = [execute_onnx(wrapped, {name: v[None]}, bool(keep))[out] for v in x]
    return np.concatenate(found)
