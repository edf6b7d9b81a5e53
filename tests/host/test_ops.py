"""The operator registry and `evaluate`: batches, intermediate results, bad feeds."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import Net, cnn, images, run_onnx

from weft.errors import InputError, MissingDependency, ModelError, ShapeError, UnsupportedError
from weft.frontend.onnx import load_onnx
from weft.graph import Graph, Node, Quant, Tensor
from weft.ops import OPS, OpSpec, describe_outputs, evaluate, spec_of
from weft.passes.fuse import fuse


@pytest.mark.parametrize("spec", OPS.values(), ids=lambda s: s.name)
def test_every_operator_is_described(spec: OpSpec) -> None:
    assert OPS[spec.name] is spec
    assert spec.doc
    assert spec.category in ("elementwise", "binary", "matrix", "pool", "move", "reduce", "fixed")


def test_an_unknown_operator_names_the_nearest() -> None:
    with pytest.raises(UnsupportedError, match=r"Did you mean .*'Relu'"):
        spec_of(Node("Rellu", "n", ("x",), ("y",)))


def one(op: str, *shapes: tuple[int, ...], **attrs: Any) -> Graph:
    """A graph of one operator on activations."""
    tensors = {f"x{i}": Tensor(f"x{i}", s) for i, s in enumerate(shapes)}
    node = Node(op, "n", tuple(tensors), ("y",), attrs)
    (out,) = describe_outputs(node, tensors)
    return Graph("g", {**tensors, "y": out}, (node,), tuple(tensors), ("y",)).verify()


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("Add", [(1, 3), (1, 2, 3)], {}),
        ("Add", [(1, 3), (3,)], {}),
        ("MatMul", [(1, 4), (4, 3)], {}),
        ("MatMul", [(1, 2, 4), (1, 4, 3)], {}),
        ("Transpose", [(1, 2, 3)], {"perm": (1, 0, 2)}),
        ("Reshape", [(1, 2, 3)], {"shape": (2, 3)}),
        ("Reshape", [(1, 2, 3)], {"shape": (3, 1, 2)}),
        ("Reshape", [(1, 1)], {"shape": ()}),
        ("ReduceSum", [(1, 2, 3)], {"axes": (0, 1), "keepdims": 1}),
        ("ReduceSum", [(1, 2, 3)], {"axes": (0, 1, 2), "keepdims": 0}),
        ("Concat", [(1, 2), (1, 2)], {"axis": 0}),
        ("Slice", [(2, 3)], {"starts": (1,), "ends": (2,), "axes": (0,), "steps": (1,)}),
        ("Softmax", [(2, 3)], {"axis": 0}),
        ("ArgMax", [(1, 3)], {"axes": (0,), "keepdims": 0}),
        ("Pad", [(1, 2)], {"pads": (1, 0, 0, 0), "value": 2.0}),
        ("Where", [(1, 3), (1, 3), (3,)], {}),
        ("Relu", [()], {}),
        ("Resize", [(1, 2)], {"scales": (2, 1)}),
    ],
)
def test_a_batch_is_its_samples_one_after_another(op: str, shapes: Any, attrs: Any) -> None:
    graph = one(op, *shapes, **attrs)
    random = np.random.default_rng(0)
    samples = [
        {f"x{i}": random.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
        for _ in range(3)
    ]
    spec = OPS[op]
    expected = [spec.reference(graph.nodes[0], list(s.values()))[0] for s in samples]
    assert all(e.shape == graph["y"].shape for e in expected)
    join: Any = np.concatenate if expected[0].ndim else np.stack
    feeds = {
        name: (np.concatenate if samples[0][name].ndim else np.stack)([s[name] for s in samples])
        for name in graph.inputs
    }
    np.testing.assert_allclose(evaluate(graph, feeds)["y"], join(expected), rtol=1e-6)


def test_an_operator_of_onnx_takes_a_batch_too() -> None:
    net = Net("n", 4, 5)
    model = net.model(net.op("LpNormalization", net.op("CumSum", "x", net.const(0, np.int64))))
    graph = load_onnx(model)
    x = images((3, 4, 5))
    expected = np.concatenate([run_onnx(model, {"x": x[i : i + 1]})[0] for i in range(3)])
    (result,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    assert {n.attrs["opset"] for n in graph} == {17}


def test_intermediate_results_can_be_kept() -> None:
    graph = load_onnx(cnn())
    x = images((2, 3, 12, 12))
    names = [node.outputs[0] for node in graph]
    values = evaluate(graph, {"x": x}, keep=[*names, "x"])
    assert set(values) == {*names, "x"}
    np.testing.assert_array_equal(values["x"], x)
    np.testing.assert_array_equal(values[names[2]], np.maximum(values[names[1]], 0))
    with pytest.raises(InputError, match="no tensor 'nothing'"):
        evaluate(graph, {"x": x}, keep=["nothing"])


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "'x' is missing"),
        ({"y": images((1, 3, 12, 12))}, "no input 'y'"),
        ({"x": images((1, 3, 12, 11))}, "(1, 3, 12, 11)"),
        ({"x": images((3, 12, 12))}, "expected (1·n, 3, 12, 12)"),
        ({"x": images((0, 3, 12, 12))}, "(0, 3, 12, 12)"),
        ({"x": np.float32(1)}, "()"),
    ],
)
def test_feeds_that_do_not_fit(feeds: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(load_onnx(cnn()), feeds)
    assert words in str(caught.value)


def test_two_inputs_must_have_as_many_samples() -> None:
    graph = one("Add", (1, 3), (1, 3))
    with pytest.raises(InputError, match="x1"):
        evaluate(graph, {"x0": images((2, 3)), "x1": images((3, 3))})


def test_codes_saturate_and_round() -> None:
    graph = one("Relu", (1, 4))
    quant = Quant(np.float32(0.5), -100)
    graph = graph.replace(tensors={**graph.tensors, "y": Tensor("y", (1, 4), quant=quant)})
    x = np.array([[-1, 0.6, 113.4, 500]], np.float32)
    np.testing.assert_allclose(evaluate(graph, {"x0": x})["y"], [[0, 0.6, 113.4, 113.5]])
    rounded = evaluate(graph, {"x0": x}, fake_quant=True)["y"]
    np.testing.assert_allclose(rounded, [[0, 0.5, 113.5, 113.5]])


def test_integer_constants_count_as_real_values() -> None:
    graph = one("Add", (1, 2), (2,))
    w = Tensor("x1", (2,), "float32", np.array([4, -4], np.int8), Quant(np.float32(0.25)))
    graph = graph.replace(tensors={**graph.tensors, "x1": w}, inputs=("x0",))
    np.testing.assert_array_equal(evaluate(graph, {"x0": np.zeros((1, 2))})["y"], [[1, -1]])


def test_shapes_are_checked() -> None:
    window = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    with pytest.raises(ShapeError, match="window of 3 does not fit a map of 2"):
        one("MaxPool", (1, 1, 2, 2), **window)
    with pytest.raises(ShapeError, match="strides"):
        one("MaxPool", (1, 1, 4, 4), **{**window, "strides": (0, 1)})
    with pytest.raises(ShapeError, match="do not broadcast"):
        one("Add", (1, 3), (1, 4))
    with pytest.raises(ShapeError, match="perm"):
        one("Transpose", (1, 3), perm=(0, 0))
    with pytest.raises(ShapeError, match="axis 3"):
        one("Concat", (1, 3), (1, 3), axis=3)


def test_what_onnx_can_not_evaluate_is_a_model_error() -> None:
    node = Node("Einsum", "n", ("x0", "x0"), ("y",), {"opset": 17, "equation": "nonsense->"})
    graph = Graph("g", {n: Tensor(n, (1, 3)) for n in ("x0", "y")}, (node,), ("x0",), ("y",))
    with pytest.raises(ModelError, match="Einsum 'n'"):
        evaluate(graph, {"x0": images((1, 3))})


def test_common_operators_need_no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fuse(load_onnx(cnn()))
    rare = Net("n", 4)
    host = load_onnx(rare.model(rare.op("LpNormalization", "x")))
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert evaluate(graph, {"x": images((2, 3, 12, 12))})[graph.outputs[0]].shape == (2, 5)
    with pytest.raises(MissingDependency, match="weft\\[compile\\]"):
        evaluate(host, {"x": images((2, 4))})
    with pytest.raises(MissingDependency, match="weft\\[compile\\]"):
        load_onnx(b"")


def test_importing_the_operators_imports_nothing_heavy() -> None:
    code = (
        "import sys, weft.ops, weft.frontend.onnx, weft.passes.fuse\n"
        "print([m for m in ('onnx', 'scipy', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def mnist(folder: Path, count: int) -> tuple[Any, Any]:
    pixels = gzip.decompress((folder / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    return x.astype(np.float32), np.frombuffer(labels, np.uint8, offset=8)[:count]


def test_a_real_network_has_its_accuracy(shared_data: Path) -> None:
    x, labels = mnist(shared_data, 1000)
    graph = fuse(load_onnx(shared_data / "mnist/mnist_cntk.onnx"))
    assert [n.op for n in graph] == ["Conv", "MaxPool", "Conv", "MaxPool", "Reshape", "Linear"]
    (scores,) = evaluate(graph, {graph.inputs[0]: x}).values()
    expected = run_samples(shared_data / "mnist/mnist_cntk.onnx", x)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(scores.argmax(1), expected.argmax(1))
    assert np.mean(scores.argmax(1) == labels) > 0.98


@pytest.mark.slow
def test_a_real_network_has_its_published_accuracy(shared_data: Path) -> None:
    x, labels = mnist(shared_data, 10_000)
    graph = fuse(load_onnx(shared_data / "mnist/mnist_cntk.onnx"))
    (scores,) = evaluate(graph, {graph.inputs[0]: x}).values()
    assert np.count_nonzero(scores.argmax(1) == labels) == 9891


def run_samples(path: Path, x: Any) -> Any:
    """ONNX Runtime's first output for each sample of `x`: these models have a batch of 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))])


@pytest.mark.oracle
def test_a_keras_network_agrees_with_onnxruntime(shared_data: Path) -> None:
    path = shared_data / "jet_mlp/three_layer_keras.onnx"
    graph = fuse(load_onnx(path))
    x = images((100, 16))
    (result,) = evaluate(graph, {graph.inputs[0]: x}).values()
    np.testing.assert_allclose(result, run_samples(path, x), rtol=1e-5, atol=1e-7)
