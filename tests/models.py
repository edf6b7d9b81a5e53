"""Real networks as ONNX models, and their data, for the tests and the benchmarks.

Weights come from the trained files in the data folder (tests/conftest.py finds it); the layers are
written here, so that no training framework is needed. Every model has a dynamic batch dimension.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exact_ort import without_saturation

Array = NDArray[Any]
OPSET = 13


@dataclass
class Layers:
    """Writes an ONNX graph one layer after another; `weights` maps a name to its array."""

    shape: tuple[int, ...]
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    head: str = "x"

    def add(self, op: str, *constants: Array, also: str = "", **attrs: Any) -> str:
        """Appends `op` behind the last layer; `also` is a second activation it reads."""
        from onnx import helper

        name = f"{op.lower()}_{len(self.nodes)}"
        names = [f"{name}_{'wbcd'[i]}" for i in range(len(constants))]
        self.weights.update(zip(names, constants, strict=True))
        inputs = [self.head, *([also] if also else []), *names]
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_y"], name=name, **attrs))
        self.head = f"{name}_y"
        return self.head

    def model(self, name: str, outputs: int) -> Any:
        """The checked model: input x [N, *shape], one output [N, outputs]."""
        from onnx import TensorProto, checker, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])],
            [helper.make_tensor_value_info(self.head, TensorProto.FLOAT, ["N", outputs])],
            [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        checker.check_model(model, full_check=True)
        return model


def keras_weights(path: Path) -> dict[str, list[Array]]:
    """Layer name → its arrays, in Keras's order, from a Keras 2 .h5 file."""
    import h5py

    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        return {
            layer: [np.asarray(root[layer][name], np.float32) for name in _names(root[layer])]
            for layer in root
            if len(root[layer].attrs.get("weight_names", ()))
        }


def _names(group: Any) -> list[str]:
    return [n if isinstance(n, str) else n.decode() for n in group.attrs["weight_names"]]


def numbered(weights: dict[str, list[Array]], kind: str) -> Iterator[list[Array]]:
    """The weights of the layers `kind`, `kind`_1, `kind`_2, ..., as Keras names them."""
    yield weights[kind]
    for index in itertools.count(1):
        yield weights[f"{kind}_{index}"]


def resnet8(data: Path) -> Any:
    """MLPerf Tiny ResNet8: x [N, 3, 32, 32] raw 0..255 → probabilities [N, 10]; 12.5 MMAC."""
    weights = keras_weights(data / "resnet8_cifar10" / "pretrainedResnet.h5")
    net = Layers((3, 32, 32))
    convolutions, norms = (numbered(weights, k) for k in ("conv2d", "batch_normalization"))

    def conv(kernel: int, stride: int = 1) -> str:
        # TensorFlow's "same" puts the odd row of padding below and to the right.
        total = max(kernel - stride, 0)
        pads = [total // 2] * 2 + [total - total // 2] * 2
        w, b = next(convolutions)
        return net.add("Conv", w.transpose(3, 2, 0, 1), b, strides=[stride] * 2, pads=pads)

    def norm() -> str:
        return net.add("BatchNormalization", *next(norms), epsilon=1e-3)

    conv(3)
    norm()
    block = net.add("Relu")
    for stride in (1, 2, 2):
        conv(3, stride)
        norm()
        net.add("Relu")
        body = conv(3)
        if stride > 1:
            # Keras numbers the shortcut's convolution before the body's normalization.
            net.head = block
            block = conv(1, stride)
            net.head = body
        norm()
        net.add("Add", also=block)
        block = net.add("Relu")
    net.add("AveragePool", kernel_shape=[8, 8], strides=[8, 8])
    net.add("Flatten")
    net.add("Gemm", *weights["dense"])
    net.add("Softmax", axis=1)
    return net.model("resnet8", 10)


def har(data: Path, channels_last: bool = False) -> Any:
    """Human-activity CNN: x [N, 3, 26] → probabilities [N, 3].

    With `channels_last`, x is [N, 26, 3] and the graph transposes, as an export from Keras does.
    """
    weights = keras_weights(data / "har_cnn1d" / "model.h5")
    net = Layers((26, 3) if channels_last else (3, 26))
    if channels_last:
        net.add("Transpose", perm=[0, 2, 1])
    for name in ("conv1d", "conv1d_1"):
        w, b = weights[name]
        net.add("Conv", w.transpose(2, 1, 0), b)
        net.add("Relu")
    w, b = weights["dense"]
    if channels_last:
        net.add("Transpose", perm=[0, 2, 1])
    else:
        w = w.reshape(22, 8, -1).transpose(1, 0, 2).reshape(w.shape)
    net.add("Flatten")
    net.add("Gemm", w, b)
    net.add("Relu")
    net.add("Gemm", *weights["dense_1"])
    net.add("Softmax", axis=1)
    return net.model("har", 3)


def jet_mlp(data: Path, file: str = "KERAS_3layer_weights.h5") -> Any:
    """Jet-tagging MLP 16-64-32-32-5: x [N, 16] → probabilities [N, 5]; 4,256 MACs.

    `file` may name one of the pruned weight files beside it.
    """
    weights = keras_weights(data / "jet_mlp" / file)
    net = Layers((16,))
    for name in ("fc1_relu", "fc2_relu", "fc3_relu"):
        net.add("Gemm", *weights[name])
        net.add("Relu")
    net.add("Gemm", *weights["output_softmax"])
    net.add("Softmax", axis=1)
    return net.model("jet_mlp", 5)


def jet_data(data: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """1,000 random inputs [1000, 16], and the float model's choices: no labelled jets are free."""
    weights = keras_weights(data / "jet_mlp" / "KERAS_3layer_weights.h5")
    x = y = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    for name in ("fc1_relu", "fc2_relu", "fc3_relu"):
        w, b = weights[name]
        y = np.maximum(y @ w + b, 0)
    w, b = weights["output_softmax"]
    return x, (y @ w + b).argmax(1).astype(np.uint8)


def mnist(data: Path) -> Any:
    """CNTK's MNIST CNN as published, but with a dynamic batch: Input3 [N, 1, 28, 28], 0..255."""
    import onnx
    from onnx import numpy_helper, version_converter

    model = onnx.load(str(data / "mnist" / "mnist_cntk.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "Pooling160_Output_0_reshape0_shape":
            tensor.CopyFrom(numpy_helper.from_array(np.array([-1, 256], np.int64), tensor.name))
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.extend(inputs)
    model.ir_version = 8  # from version 4 on, constants need not be inputs
    model = version_converter.convert_version(model, OPSET)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def mnist_data(data: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """MNIST's 10,000 test images [10000, 1, 28, 28], values 0..255, and their labels."""
    images = _idx(data / "mnist" / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    return images.astype(np.float32), _idx(data / "mnist" / "t10k-labels-idx1-ubyte.gz", 8)


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def cifar_data(data: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """1,000 CIFAR-10 test images [1000, 3, 32, 32], values 0..255, and their labels."""
    with np.load(data / "resnet8_cifar10" / "cifar10_test1000_from_jpeg.npz") as file:
        return file["x"].transpose(0, 3, 1, 2).astype(np.float32), file["y"]


def har_data(
    data: Path, channels_last: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """3,496 windows of acceleration [3496, 3, 26] (or [3496, 26, 3]), and their labels."""
    with np.load(data / "har_cnn1d" / "har_windows.npz") as file:
        x, y = file["x"], file["y"]
    return (x if channels_last else np.ascontiguousarray(x.transpose(0, 2, 1))), y


def input_name(model: Any) -> str:
    """Name of the model's one input."""
    return str(model.graph.input[0].name)


def run_ort(model: Any, x: Array, outputs: list[str] | None = None) -> list[Array]:
    """What onnxruntime computes for `x`, on one thread and with no rewriting of the graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        without_saturation(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(y) for y in session.run(outputs, {input_name(model): x})]


def top1(scores: Array, labels: Array) -> float:
    """Share of rows whose largest score is the label's, in percent."""
    return 100.0 * float(np.mean(scores.reshape(len(labels), -1).argmax(1) == labels))


def folded(model: Any, folder: Path) -> Any:
    """The model with normalization and separate biases folded into the convolutions."""
    import onnx
    import onnxruntime as ort

    path = folder / f"{model.graph.name}_folded.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatMulAddFusion"],  # its bias [1, N] trips the quantizer
    )
    return onnx.load(str(path))


def quantized(
    model: Any,
    calibration: Array,
    folder: Path,
    *,
    qdq: bool,
    signed: bool,
    per_channel: bool = True,
) -> Path:
    """onnxruntime's static quantization, a file: QDQ or QOperator, int8 or uint8 activations."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        batches = iter([{input_name(model): x} for x in np.array_split(calibration, 4)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    source = folder / f"{model.graph.name}.onnx"
    target = (
        folder / f"{model.graph.name}_{'qdq' if qdq else 'qop'}{'_s8' if signed else '_u8'}.onnx"
    )
    onnx.save(folded(model, folder), str(source))
    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
        per_channel=per_channel,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return target


@dataclass(frozen=True)
class Network:
    """A real model on disk with its inputs, their labels, and what to calibrate with."""

    model: Any
    path: Path
    x: Array
    labels: Array

    @property
    def calibration(self) -> Array:
        """200 inputs from all over the set, which is sorted by class; labels are not used."""
        return self.some(200)

    def some(self, count: int) -> Array:
        """`count` inputs at equal distances."""
        return self.x[:: len(self.x) // count][:count]

    def float_top1(self) -> float:
        """Accuracy of the float model in onnxruntime, in percent."""
        return top1(run_ort(self.model, self.x)[0], self.labels)


BUILDERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], tuple[Array, Array]]]] = {
    "mnist": (mnist, mnist_data),
    "resnet8": (resnet8, cifar_data),
    "har": (har, har_data),
    "jet_mlp": (jet_mlp, jet_data),
}


def network(name: str, data: Path, folder: Path) -> Network:
    """One of BUILDERS, written to `folder`."""
    import onnx

    build, read = BUILDERS[name]
    model = build(data)
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    return Network(model, path, *read(data))


@dataclass(frozen=True)
class TfNetwork:
    """A TFLite network in int8 and in float, its labelled data as int8 codes, and their scale."""

    path: Path
    float_path: Path
    overlay: str
    x: Array
    labels: Array
    scale: float
    zero_point: int

    def real(self) -> Array:
        """The data as the float model takes it."""
        return (self.x.astype(np.float32) - self.zero_point) * np.float32(self.scale)


def tflite_network(name: str, data: Path) -> TfNetwork:
    """Keyword spotting ("kws"), "resnet8" or "mnist_lstm", as MLPerf Tiny and TFLM have them."""
    if name == "kws":
        folder = data / "kws_dscnn"
        x = np.fromfile(folder / "kws01_x_int8_1000x49x10.bin", np.int8).reshape(-1, 49, 10, 1)
        rows = (folder / "kws01_y_labels.csv").read_text().split()
        labels = np.array([int(row.split(",")[2]) for row in rows])
        files = "kws_ref_model.tflite", "kws_ref_model_float32.tflite"
        return TfNetwork(folder / files[0], folder / files[1], "edge", x, labels, 0.5847029, 83)
    if name == "resnet8":
        folder = data / "resnet8_cifar10"
        with np.load(folder / "cifar10_test1000_from_jpeg.npz") as file:
            x, labels = (file["x"].astype(np.int16) - 128).astype(np.int8), file["y"].reshape(-1)
        files = "pretrainedResnet_quant.tflite", "pretrainedResnet.tflite"
        return TfNetwork(folder / files[0], folder / files[1], "edge", x, labels, 1.0, -128)
    folder = data / "mnist"
    x, labels = mnist_data(data)
    x = np.round(x).astype(np.int16).reshape(-1, 28, 28) - 128
    files = "trained_lstm_int8.tflite", "trained_lstm.tflite"
    codes = x.astype(np.int8)
    return TfNetwork(folder / files[0], folder / files[1], "lab", codes, labels, 1 / 255, -128)
