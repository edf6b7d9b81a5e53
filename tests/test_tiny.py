"""The whole way in a few seconds: ONNX file → program → golden and csim → file → estimate."""

from __future__ import annotations

import numpy as np
import pytest

import weft

RNG = np.random.default_rng(0)


def small_cnn(path):
    """Conv, Relu, MaxPool, Flatten, Gemm with random weights; input x [N, 1, 6, 6]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "w": RNG.normal(0, 0.4, (4, 1, 3, 3)),
        "b": RNG.normal(0, 0.2, 4),
        "v": RNG.normal(0, 0.3, (36, 5)),
        "c": RNG.normal(0, 0.2, 5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["s"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("overlay", ["lab", "tiny"])
def test_model_to_result(tmp_path, overlay):
    model = small_cnn(tmp_path / "small.onnx")
    x = RNG.normal(0, 1, (9, 1, 6, 6)).astype(np.float32)
    program = weft.compile(model, overlay, calibration=x, batch=4)
    program.save(tmp_path / "small.weft")

    results = {}
    for device in ("golden", "csim"):
        with weft.open(tmp_path / "small.weft", device) as session:
            results[device], took = session.run(x, detail=True)
        assert took.samples == 9
        assert took.cycles == sum(layer["cycles"] for layer in took.layers)
    np.testing.assert_array_equal(results["golden"], results["csim"])

    real = weft.load_model(model)
    from weft.ops import evaluate

    (float_y,) = evaluate(real, {"x": x}).values()
    assert np.abs(results["golden"] - float_y).max() < 0.05 * np.abs(float_y).max()

    assert weft.check(program, x).equal
    estimate = weft.estimate(program, batch=4)
    assert estimate.cycles > 0
    assert estimate.bytes > program.weights.nbytes
    labels = float_y.argmax(1)
    assert weft.evaluate(program, x, labels).top1 >= 8 / 9
