"""Broken and hostile model files: every one either loads or raises a WeftError that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Net

from weft.errors import ModelError, ShapeError, UnsupportedError, UsageError, WeftError
from weft.frontend.onnx import load_onnx


def small() -> Net:
    net = Net("n", 3, 4, 4)
    net.op("Conv", "x", net.weights(2, 3, 3, 3))
    return net


def small_model() -> onnx.ModelProto:
    return small().model("t0_0")


def refused(model: onnx.ModelProto, *words: str, error: type[WeftError] = ModelError) -> None:
    with pytest.raises(error) as caught:
        load_onnx(model)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello world", b"\xff" * 100, b"PK\x03\x04" * 9])
def test_not_a_model(data: bytes) -> None:
    with pytest.raises(ModelError):
        load_onnx(data)


def test_files_that_are_absent_or_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        load_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="directory"):
        load_onnx(tmp_path)


def test_a_path_bytes_and_a_proto_are_the_same(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    graphs = [load_onnx(path), load_onnx(str(path)), load_onnx(path.read_bytes()), load_onnx(model)]
    assert len({str(g.nodes) for g in graphs}) == 1


def external(location: str, length: int | None = None, offset: int = 0) -> onnx.ModelProto:
    model = small_model()
    tensor = model.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": size if length is None else length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def test_external_data_is_read_from_the_models_folder(tmp_path: Path) -> None:
    weights = numpy_helper.to_array(small_model().graph.initializer[0])
    (tmp_path / "w.bin").write_bytes(b"1234" + weights.tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(external("w.bin", offset=4).SerializeToString())
    graph = load_onnx(path)
    np.testing.assert_array_equal(graph[graph.nodes[0].inputs[1]].data, weights)


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "", ".", "link"]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(216))
    (folder / "link").symlink_to(secret)
    path = folder / "m.onnx"
    path.write_bytes(external(location).SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder") as caught:
        load_onnx(path)
    assert repr(location) in str(caught.value)


@pytest.mark.parametrize(
    ("length", "offset"), [(10**12, 0), (216, 10**12), (-1, 0), (216, -5), (8, 0)]
)
def test_external_data_of_the_wrong_size(tmp_path: Path, length: int, offset: int) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(216))
    path = tmp_path / "m.onnx"
    path.write_bytes(external("w.bin", length, offset).SerializeToString())
    with pytest.raises(ModelError, match="c0"):
        load_onnx(path)


def test_external_data_without_a_folder_or_file(tmp_path: Path) -> None:
    refused(external("w.bin"), "w.bin", "path")
    path = tmp_path / "m.onnx"
    path.write_bytes(external("none.bin").SerializeToString())
    with pytest.raises(ModelError, match=r"none\.bin"):
        load_onnx(path)


def test_tensor_data_that_does_not_fit_its_shape() -> None:
    model = small_model()
    model.graph.initializer[0].raw_data = b"123"
    refused(model, "c0", "216 bytes", "3")
    model = small_model()
    model.graph.initializer[0].dims[0] = 1 << 40
    refused(model, "c0", str(1 << 40))
    model.graph.initializer[0].dims[0] = -2
    refused(model, "c0", "-2")
    model = small_model()
    model.graph.initializer[0].data_type = 77
    refused(model, "c0", "77")
    model = small_model()
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1.0, 2.0])
    refused(model, "c0")


def test_models_that_are_too_large() -> None:
    net = Net("n", 1 << 20, 1 << 20)
    refused(net.model(net.op("Relu", "x")), "1048576", str(1 << 31))
    net = Net("n", 1 << 29)
    refused(attribute("pads", [1 << 62] * 4), "t0_0")
    y = "x"
    for _ in range(5):
        y = net.op("Relu", y)
    refused(net.model(y), "elements")
    net = Net("n", 2)
    huge = net.op("ConstantOfShape", net.const([1 << 20, 1 << 12], np.int64))
    refused(net.model(net.op("Add", "x", huge)), str(1 << 32))
    net = Net("n", 2)
    huge = net.op("Range", *[net.const(v) for v in (0.0, 1e12, 1e-3)])
    refused(net.model(net.op("Add", "x", huge)), "Range")
    net = Net("n", 2)
    huge = net.op("Expand", net.const([1.0]), net.const([1 << 16, 1 << 16], np.int64))
    refused(net.model(net.op("Add", "x", huge)), str(1 << 32))


def test_cycles_missing_inputs_and_duplicate_names() -> None:
    net = small()
    net.nodes[0].input[0] = "t1_0"
    net.op("Relu", "t0_0")
    refused(net.model("t1_0"), "cycle")
    net = small()
    net.nodes[0].input[1] = "nothing"
    refused(net.model("t0_0"), "nothing", "missing")
    net = small()
    net.op("Relu", "x")
    net.nodes[1].output[0] = "t0_0"
    refused(net.model("t0_0"), "t0_0", "second")
    net = small()
    net.nodes[0].output[0] = "x"
    refused(net.model("x"), "'x'", "second")
    net = small()
    net.constants.append(net.constants[0])
    refused(net.model("t0_0"), "c0", "two tensors")
    refused(small().model("unknown"), "unknown", "never written")
    net = small()
    refused(net.model(), "output")


def test_nodes_in_any_order_are_sorted() -> None:
    net = small()
    net.op("Relu", "t0_0")
    model = net.model("t1_0")
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [n.op for n in load_onnx(model)] == ["Conv", "Relu"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers(value: float) -> None:
    net = Net("n", 4)
    w = np.ones((4, 3))
    w[1:3, 0] = value
    refused(net.model(net.op("Gemm", "x", net.const(w))), "c0", "2 values of 12")


def test_a_mask_may_be_infinite() -> None:
    net = Net("n", 4)
    mask = net.const([[True, False, True, True]], bool)
    graph = load_onnx(net.model(net.op("Where", mask, "x", net.const(-np.inf))))
    assert [n.op for n in graph] == ["Where"]


def test_empty_and_negative_dimensions() -> None:
    net = Net("n", 0, 4)
    refused(net.model(net.op("Relu", "x")), "'x'", "dimension 1 is 0")
    net = Net("n", 4)
    bounds = [net.const([v], np.int64) for v in (2, 2, 1)]
    refused(net.model(net.op("Slice", "x", *bounds)), "empty", error=ShapeError)
    net = Net("n", -4)
    refused(net.model(net.op("Relu", "x")), "-4")


def branch(condition: str) -> onnx.ModelProto:
    net = Net("n", 4)
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["inner"])],
        "then",
        [],
        [onnx.ValueInfoProto(name="inner")],
    )
    y = net.op("If", net.const(True, bool), then_branch=inner, else_branch=inner)
    return net.model(y)


def test_control_flow_is_unsupported() -> None:
    refused(branch("c0"), "If", "n0", "subgraph", error=UnsupportedError)


def test_unknown_operators_and_domains() -> None:
    net = Net("n", 4)
    refused(net.model(net.op("Nonsense", "x")), "Nonsense")
    net = Net("n", 4)
    y = net.op("FancyAttention", "x", domain="com.microsoft")
    refused(net.model(y), "FancyAttention", "com.microsoft", error=UnsupportedError)


def with_functions(*bodies: list[str]) -> onnx.ModelProto:
    """Function F<i> calls the functions in bodies[i] one after another; the graph calls F0."""
    opset = helper.make_opsetid("mine", 1)
    net = Net("n", 4)
    y = net.op("F0", "x", domain="mine")
    model = net.model()
    model.graph.output.append(onnx.ValueInfoProto(name=y))
    model.opset_import.append(opset)
    for i, calls in enumerate(bodies):
        names = ["a", *(f"v{j}" for j in range(len(calls) - 1)), "b"]
        nodes = [
            helper.make_node(op, [names[j]], [names[j + 1]], domain="mine" if op[0] == "F" else "")
            for j, op in enumerate(calls)
        ]
        opsets = [helper.make_opsetid("", 17), opset]
        made = helper.make_function("mine", f"F{i}", ["a"], ["b"], nodes, opsets)
        model.functions.append(made)
    return model


def test_functions_that_call_themselves_or_explode() -> None:
    refused(with_functions(["F1"], ["F0"]), "calls itself")
    laughs = [[f"F{i + 1}"] * 10 for i in range(30)]
    refused(with_functions(*laughs, ["Relu"]), "expand")
    assert [n.op for n in load_onnx(with_functions(["F1", "F1"], ["Relu"]))] == ["Relu"] * 2


def test_old_and_missing_opsets() -> None:
    net = Net("n", 4, opset=6)
    model = net.model(net.op("Relu", "x"))
    refused(model, "opset 6", error=UnsupportedError)
    del model.opset_import[:]
    refused(model, "opset")


@pytest.mark.parametrize("dtype", [TensorProto.STRING, TensorProto.COMPLEX64, 0, 99])
def test_inputs_that_are_not_numbers(dtype: int) -> None:
    net = Net("n", 4, dtype=TensorProto.FLOAT)
    model = net.model(net.op("Identity", "x"))
    model.graph.input[0].type.tensor_type.elem_type = dtype
    refused(model, "'x'")


def attribute(name: str, value: Any) -> onnx.ModelProto:
    model = small_model()
    model.graph.node[0].attribute.append(helper.make_attribute(name, value))
    return model


def test_attributes_that_are_wrong() -> None:
    for name, value in [
        *[("strides", v) for v in ([0, 1], [1], [-1, 1], 1.5, "x", [1.5, 2.5])],
        *[("pads", v) for v in ([1, 1], [-9] * 4)],
        *[("group", v) for v in (0, -1, 3, 1 << 40)],
        *[("dilations", v) for v in ([0, 0], [1 << 31, 1], [9, 9])],
        *[("kernel_shape", v) for v in ([5, 5], [0, 0], [3])],
        *[("auto_pad", v) for v in ("NONSENSE", 3)],
        ("surprise", 1),
    ]:
        refused(attribute(name, value), "n0")


def test_dynamic_dimensions_need_shapes() -> None:
    net = Net("n", 3, "height", "width")
    model = net.model(net.op("Relu", "x"))
    refused(model, "'x'", "dimension 2", "height", "shapes")
    assert load_onnx(model, shapes={"x": (7, 3, 5, 6)})["x"].shape == (1, 3, 5, 6)
    with pytest.raises(UsageError, match="no input 'y'"):
        load_onnx(model, shapes={"y": (1, 3, 5, 6)})
    with pytest.raises(UsageError, match="has 3 dimensions, the input 4"):
        load_onnx(model, shapes={"x": (1, 3, 5)})
    with pytest.raises(UsageError, match="the model has 3"):
        load_onnx(model, shapes={"x": (1, 4, 5, 6)})


def test_a_fixed_batch_becomes_one_or_is_refused() -> None:
    net = Net(8, 3, 4)
    model = net.model(net.op("Reshape", "x", net.const([8, 12], np.int64)))
    assert load_onnx(model)["t0_0"].shape == (1, 12)
    net = Net(8, 3, 4)
    model = net.model(net.op("Reshape", "x", net.const([4, 24], np.int64)))
    refused(model, "batch of 8", "dynamic batch")
    for target, shape in [([-1, 6], (2, 6)), ([16, -1], (2, 6)), ([8, 3, 4], (1, 3, 4))]:
        net = Net(8, 3, 4)
        y = net.op("Reshape", "x", net.const(target, np.int64))
        assert load_onnx(net.model(y))[y].shape == shape
    net = Net(8, 3, 4)  # rows of four samples each
    refused(net.model(net.op("Reshape", "x", net.const([2, -1], np.int64))), "batch of 8")
    net = Net(8)  # no batch at all
    refused(net.model(net.op("MatMul", "x", net.const(np.ones((8, 3))))), "n0", "8, is the batch")
    net = Net(8, 3)
    refused(net.model(net.op("Add", "x", net.const(np.ones((8, 3))))), "batch of 8")


def test_shapes_that_do_not_fit_name_the_node() -> None:
    net = Net("n", 3, 4)
    model = net.model("x")
    for op, inputs in [
        ("Conv", ("x", net.const(np.ones((2, 5, 3))))),
        ("Gemm", ("x", net.const(np.ones((4, 2))))),
        ("MatMul", ("x", net.const(np.ones((3, 2))))),
        ("Add", ("x", net.const(np.ones(7)))),
        ("Concat", ("x", net.const(np.ones((1, 2, 9))))),
    ]:
        bad = Net("n", 3, 4)
        bad.constants = net.constants
        attrs = {"axis": 1} if op == "Concat" else {}
        broken = bad.op(op, *inputs, **attrs)
        with pytest.raises(ModelError, match="n0"):
            load_onnx(helper.make_model(_graph(bad, broken), opset_imports=model.opset_import))


def _graph(net: Net, output: str) -> onnx.GraphProto:
    outputs = [onnx.ValueInfoProto(name=output)]
    return helper.make_graph(net.nodes, "g", net.inputs, outputs, net.constants)
