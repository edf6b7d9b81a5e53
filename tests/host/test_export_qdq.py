"""QDQ files: onnxruntime, and weft itself, compute what the program does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from qonnx_models import DATA

import models
import weft
from weft import cli, demo
from weft.compiler import load_model
from weft.errors import UnsupportedError
from weft.export_qdq import export_qdq, to_onnx
from weft.frontend.onnx import load_onnx
from weft.passes.quantize import quantize

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def compared(program, path, x) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the program and of onnxruntime."""
    with weft.open(program) as session:
        ours = np.asarray(session.run(x))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return ours, session.run(None, {program.inputs[0].name: x})[0]


def agree(ours, theirs, scale) -> None:
    """Predictions in 99.5 % of all cases, codes off by at most one."""
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.995
    assert np.abs(np.rint(ours / scale) - np.rint(theirs / scale)).max() <= 1


@pytest.mark.oracle
@pytest.mark.parametrize("requant", ["single_round", "float_even"])
@pytest.mark.parametrize("overlay", ["tiny", "lab"])
def test_digits(requant, overlay, tmp_path):
    data, path = demo.load_data(), tmp_path / "q.onnx"
    program = weft.compile(
        demo.MODELS / "digits.onnx",
        overlay,
        calibration=data.calibration,
        requant=requant,
        export_qdq=path,
    )
    graph = load_model(path)
    scale = graph[graph.outputs[0]].quant.scale
    agree(*compared(program, path, data.images.astype(np.float32)), scale)
    again = weft.compile(path, overlay)
    with weft.open(program) as one, weft.open(again) as two:
        first, second = one.run(data.images), two.run(data.images)
    assert np.abs(np.rint((first - second) / scale)).max() <= 1
    if requant == "float_even":  # the file's own rounding
        np.testing.assert_array_equal(first, second)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "samples"), [("mnist", 2000), ("resnet8", 40), ("har", 400)])
def test_real_networks(
    name: str, samples: int, network: Callable[[str], models.Network], tmp_path
) -> None:
    net, path = network(name), tmp_path / "q.onnx"
    program = weft.compile(net.path, "lab", calibration=net.calibration, export_qdq=path)
    ours, theirs = compared(program, path, net.x[:samples])
    graph = load_model(path)
    quant = graph[graph.outputs[0]].quant
    assert (quant is None) == (graph.nodes[-1].op == "Softmax")
    agree(ours, theirs, quant.scale if quant else 1)
    if quant is None:
        np.testing.assert_allclose(ours, theirs, atol=0.05)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["w1a1", "w2a2", "w4a4"])
def test_brevitas_networks(name, tmp_path):
    path, x = tmp_path / "q.onnx", (demo.load_data().images / 16).astype(np.float32)
    program = weft.compile(DATA / f"digits_{name}.onnx", "tiny", export_qdq=path)
    ours, theirs = compared(program, path, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_command(tmp_path, capsys):
    data = demo.load_data()
    np.savez(tmp_path / "c.npz", x=data.calibration)
    words = ["compile", str(demo.MODELS / "digits.onnx"), "--calibrate", str(tmp_path / "c.npz")]
    words += ["--export-qdq", str(tmp_path / "q.onnx"), "-o", str(tmp_path / "p.weft")]
    assert cli.run(words) == 0
    kinds = {node.op for node in load_onnx(tmp_path / "q.onnx")}
    assert kinds <= {"Conv", "MaxPool", "Reshape", "Linear", "Relu", "Identity"}


def test_what_has_no_form_is_refused(tmp_path):
    from test_qonnx import LAYERS

    graph = load_onnx(LAYERS["int3 → thresholds"])
    with pytest.raises(UnsupportedError, match="MultiThreshold"):
        export_qdq(graph, tmp_path / "q.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "PRelu", "Clip"])
@pytest.mark.parametrize("op", ["Conv", "Linear"])
def test_fused_activations(op, activation):
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shape = {"Conv": (4, 3, 3, 3), "Linear": (3, 4)}[op]
    extra = {"PRelu": {"s": rng.uniform(0, 1, (4, 1, 1) if op == "Conv" else (4,))}}
    extra |= {"Clip": {"s": np.asarray(-0.5), "t": np.asarray(1.0)}}
    constants = {"w": rng.normal(0, 1, shape), **extra.get(activation, {})}
    first = helper.make_node("MatMul" if op == "Linear" else op, ["x", "w"], ["m"], "first")
    second = helper.make_node(activation, ["m", *list(constants)[1:]], ["y"], "second")
    inner = [3, 5, 5] if op == "Conv" else [3]
    proto = helper.make_model(
        helper.make_graph(
            [first, second],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *inner])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 16)],
        ir_version=8,
    )
    x = rng.normal(0, 1, (50, *inner)).astype(np.float32)
    graph = quantize(load_model(load_onnx(proto)), {"x": x})
    with weft.open(weft.compile(graph, "tiny")) as session:
        ours = session.run(x)
    session = ort.InferenceSession(to_onnx(graph).SerializeToString())
    (theirs,) = session.run(None, {"x": x})
    scale = graph["y"].quant.scale
    assert np.abs(np.rint(ours / scale) - np.rint(theirs / scale)).max() <= 1


@pytest.mark.oracle
def test_steps_of_a_recurrent_layer(tmp_path):
    """Nodes of steps are ordinary ones; codes of the states may differ by one in every step."""
    from test_recurrent import Layers

    net, path = Layers(3, 16, first=True), tmp_path / "gru.onnx"
    model = net.model(net.layer("GRU", 16, 16)[1])
    x = net.feeds(50, first=True)["x"]
    program = weft.compile(model, "lab", calibration=x, export_qdq=path)
    ours, theirs = compared(program, path, x)
    assert np.abs(ours - theirs).max() < 0.04
    assert np.corrcoef(ours.reshape(-1), theirs.reshape(-1))[0, 1] > 0.998
