"""Small ONNX models for the tests: built node by node, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from exact_ort import without_saturation

FLOAT = TensorProto.FLOAT


class Net:
    """Collects nodes; every call adds one and returns the name of its output."""

    def __init__(self, *shape: int | str, seed: int = 0, opset: int = 17, dtype: int = FLOAT):
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)] if shape else []

    def add_input(self, name: str, *shape: int | str, dtype: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weights(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        return self.const(self.random.standard_normal(shape) / np.sqrt(fan_in))

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(
                kind, inputs, names, name=f"n{len(self.nodes)}", domain=domain, **attrs
            )
        )
        return names[0] if outputs == 1 else names

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnx.shape_inference.infer_shapes(model) if outputs else model


def run_onnx(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Outputs of ONNX Runtime, without graph optimizations (pad fusion is wrong for MaxPool)."""
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        without_saturation(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def cnn(seed: int = 0, batch: int | str = "n", opset: int = 17) -> onnx.ModelProto:
    """A small residual network: convolutions, depthwise, pooling, a branch, a classifier."""
    net = Net(batch, 3, 12, 12, seed=seed, opset=opset)
    r = net.random
    y = net.op("Conv", "x", net.weights(8, 3, 3, 3), net.weights(8), pads=[1, 1, 1, 1])
    stats = [r.uniform(0.5, 2, 8), r.normal(size=8), r.normal(size=8), r.uniform(0.5, 2, 8)]
    y = net.op("Relu", net.op("BatchNormalization", y, *map(net.const, stats)))
    z = net.op("Conv", y, net.weights(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])
    z = net.op("Clip", z, net.const(0.0), net.const(6.0))
    z = net.op("Conv", z, net.weights(8, 8, 1, 1), net.weights(8))
    y = net.op("Relu", net.op("Add", y, z))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    left = net.op("Conv", y, net.weights(4, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    right = net.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Concat", left, right, axis=1)
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    y = net.op("Gemm", y, net.weights(5, 12), net.weights(5), transB=1)
    return net.model(y)


def images(shape: Sequence[int], seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
