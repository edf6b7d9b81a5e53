"""Transformers as exporters write them: one node per norm and attention, onnxruntime's results."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import Net, images, run_onnx

from weft import demo
from weft.errors import ModelError, ShapeError
from weft.frontend.onnx import load_onnx
from weft.graph import Graph
from weft.ops import evaluate
from weft.passes.fuse import fuse

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
S, D, H = 6, 16, 4


def joined(model: Any, x: np.ndarray) -> Graph:
    """The fused graph, after its results were compared with onnxruntime's."""
    graph = fuse(load_onnx(model))
    (found,) = evaluate(graph, {graph.inputs[0]: x}).values()
    np.testing.assert_allclose(found, run_onnx(model, {"x": x})[0], **TOLERANCE)
    return graph


def ops_of(graph: Graph) -> dict[str, int]:
    return dict(Counter(node.op for node in graph))


# Norms


def mean(net: Net, x: str) -> str:
    return net.op("ReduceMean", x, axes=[-1])


def root(net: Net, squared: str) -> str:
    return net.op("Sqrt", net.op("Add", mean(net, squared), net.const(1e-5)))


def layer_norm(net: Net, x: str, how: str) -> str:
    d = net.op("Sub", x, mean(net, x))
    again = net.op("Sub", x, mean(net, x)) if how == "twice" else d
    squared = net.op("Mul", again, again) if how == "mul" else net.op("Pow", again, net.const(2.0))
    if how == "reciprocal":
        y = net.op("Mul", d, net.op("Reciprocal", root(net, squared)))
    elif how == "one over":
        y = net.op("Mul", net.op("Div", net.const(1.0), root(net, squared)), d)
    elif how == "power":
        total = net.op("Add", net.const(1e-5), mean(net, squared))
        y = net.op("Mul", d, net.op("Pow", total, net.const(-0.5)))
    else:
        y = net.op("Div", d, root(net, squared))
    y = net.op("Mul", y, net.const(net.random.normal(1, 0.3, D)))
    return str(net.op("Add", net.const(net.random.normal(0, 0.3, D)), y))


HOW = ["pow", "mul", "twice", "reciprocal", "one over", "power"]


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("how", HOW)
def test_layer_norms_written_out(how, rank):
    net = Net("n", *(3, S)[: rank - 2], D, opset=13)
    graph = joined(net.model(layer_norm(net, "x", how)), images((2, *(3, S)[: rank - 2], D)))
    (node,) = graph
    assert node.op == "LayerNorm"
    assert node.attrs["epsilon"] == pytest.approx(1e-5)
    assert len(node.inputs) == 3


def test_root_mean_squares_written_out():
    net = Net("n", S, D, opset=13)
    y = net.op("Div", "x", root(net, net.op("Mul", "x", "x")))
    y = net.op("Mul", net.const(net.random.normal(1, 0.3, D)), y)
    (node,) = joined(net.model(y), images((2, S, D)))
    assert node.op == "RMSNorm"


@pytest.mark.parametrize("wrong", ["axis", "other", "cube", "negative"])
def test_what_is_no_norm_stays(wrong):
    net = Net("n", S, D, opset=13)
    d = net.op("Sub", "x", mean(net, "x"))
    squared = net.op("Pow", d, net.const(3.0 if wrong == "cube" else 2.0))
    total = net.op("ReduceMean", squared, axes=[1]) if wrong == "axis" else mean(net, squared)
    if wrong == "cube":
        total = net.op("Abs", total)
    epsilon = -1e-9 if wrong == "negative" else 1e-5
    deviation = net.op("Sqrt", net.op("Add", total, net.const(epsilon)))
    y = net.op("Div", net.op("Relu", d) if wrong == "other" else d, deviation)
    graph = joined(net.model(y), images((2, S, D)))
    assert not {"LayerNorm", "RMSNorm"} & set(ops_of(graph))


@pytest.mark.parametrize(("kind", "opset"), [("LayerNormalization", 17), ("RMSNormalization", 23)])
@pytest.mark.parametrize("scalar", [False, True])
def test_norms_of_onnx(kind, opset, scalar):
    net = Net("n", S, D, opset=opset)
    gamma = net.const(net.random.normal(1, 0.3, 1 if scalar else D))
    model = net.model(net.op(kind, "x", gamma, axis=-1, epsilon=1e-3))
    x = images((2, S, D))
    graph = fuse(load_onnx(model))
    (node,) = graph
    assert (node.op, node.attrs["epsilon"]) == (kind.replace("alization", ""), pytest.approx(1e-3))
    (found,) = evaluate(graph, {"x": x}).values()
    wide = x - x.mean(-1, keepdims=True) if kind.startswith("Layer") else x
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3)
    gain = np.asarray(graph[node.inputs[1]].data)
    np.testing.assert_allclose(found, wanted * gain, **TOLERANCE)


def test_a_norm_over_other_axes_is_onnxs():
    net = Net("n", S, D, opset=17)
    gamma = net.const(np.ones((S, D)))
    graph = joined(net.model(net.op("LayerNormalization", "x", gamma, axis=1)), images((2, S, D)))
    assert graph.nodes[0].attrs["opset"] == 17


# GELU by tanh


@pytest.mark.parametrize("cube", ["pow", "mul"])
@pytest.mark.parametrize("half", ["first", "last"])
def test_gelu_by_tanh_written_out(cube, half):
    net = Net("n", D)
    third = (
        net.op("Pow", "x", net.const(3.0))
        if cube == "pow"
        else net.op("Mul", net.op("Mul", "x", "x"), "x")
    )
    inner = net.op("Add", "x", net.op("Mul", third, net.const(0.044715)))
    gate = net.op("Tanh", net.op("Mul", inner, net.const(np.sqrt(2 / np.pi))))
    gate = net.op("Add", gate, net.const(1.0))
    if half == "first":
        y = net.op("Mul", net.op("Mul", "x", net.const(0.5)), gate)
    else:
        y = net.op("Mul", net.op("Mul", "x", gate), net.const(0.5))
    (node,) = joined(net.model(y), images((3, D)))
    assert (node.op, node.attrs["approximate"]) == ("Gelu", "tanh")


def test_another_cubic_is_no_gelu():
    net = Net("n", D)
    inner = net.op("Add", "x", net.op("Mul", net.op("Pow", "x", net.const(3.0)), net.const(0.05)))
    gate = net.op("Tanh", net.op("Mul", inner, net.const(np.sqrt(2 / np.pi))))
    y = net.op("Mul", net.op("Mul", "x", net.const(0.5)), net.op("Add", gate, net.const(1.0)))
    assert "Gelu" not in ops_of(joined(net.model(y), images((3, D))))


# Attention


def split(net: Net, x: str, perm: list[int]) -> str:
    shaped = net.op("Reshape", x, net.const([0, S, H, D // H], np.int64))
    return str(net.op("Transpose", shaped, perm=perm))


def merged(net: Net, y: str) -> str:
    turned = net.op("Transpose", y, perm=[0, 2, 1, 3])
    return str(net.op("Reshape", turned, net.const([0, S, D], np.int64)))


def project(net: Net, x: str, outputs: int = D) -> str:
    y = net.op("MatMul", x, net.weights(D, outputs))
    return str(net.op("Add", y, net.const(net.random.normal(0, 0.2, outputs))))


def self_attention(
    net: Net, scores: Callable[[Net, str], str] = lambda net, s: net.op("Mul", s, net.const(0.5))
) -> str:
    q = split(net, project(net, "x"), [0, 2, 1, 3])
    k = split(net, project(net, "x"), [0, 2, 3, 1])
    v = split(net, project(net, "x"), [0, 2, 1, 3])
    p = net.op("Softmax", scores(net, net.op("MatMul", q, k)), axis=-1)
    return merged(net, net.op("MatMul", p, v))


def the_attention(graph: Graph) -> Any:
    (node,) = [n for n in graph if n.op == "Attention"]
    assert set(ops_of(graph)) <= {"Linear", "Attention"}, ops_of(graph)
    assert (node.attrs["heads"], node.attrs["kv_heads"]) == (H, H)
    return node


X = images((3, S, D))
TRIANGLE = np.tril(np.ones((S, S), bool))
AWAY = np.arange(S) - np.arange(S)[:, None]


def test_attention_written_out():
    net = Net("n", S, D)
    node = the_attention(joined(net.model(self_attention(net)), X))
    assert node.attrs["scale"] == pytest.approx(0.5)
    assert len(node.inputs) == 3


SCORES: dict[str, tuple[Callable[[Net, str], str], dict[str, Any]]] = {
    "divided": (lambda net, s: net.op("Div", s, net.const(4.0)), {"scale": 0.25}),
    "plain": (lambda net, s: s, {"scale": 1.0}),
    "causal": (
        lambda net, s: net.op("Add", s, net.const(np.where(TRIANGLE, 0, -3e38))),
        {"causal": 1, "scale": 1.0},
    ),
    "where": (
        lambda net, s: net.op("Where", net.const(TRIANGLE, bool), s, net.const(-1e9)),
        {"causal": 1},
    ),
    "where not": (
        lambda net, s: net.op("Where", net.const(~TRIANGLE, bool), net.const(-1e9), s),
        {"causal": 1},
    ),
    "window": (
        lambda net, s: net.op("Add", s, net.const(np.where(abs(AWAY) <= 2, 0, -1e9))),
        {"left": -2, "right": 2, "causal": 0},
    ),
    "causal window": (
        lambda net, s: net.op("Add", s, net.const(np.where((AWAY <= 0) & (AWAY > -3), 0, -1e9))),
        {"left": -2, "causal": 1},
    ),
}


@pytest.mark.parametrize("name", SCORES)
def test_scales_and_masks_become_attributes(name):
    scores, attrs = SCORES[name]
    net = Net("n", S, D)
    node = the_attention(joined(net.model(self_attention(net, scores)), X))
    assert {key: node.attrs.get(key) for key in attrs} == pytest.approx(attrs)
    assert len(node.inputs) == 3


@pytest.mark.parametrize(("shape", "first"), [((S, S), 1), ((1, 1, 1, S), 1), ((1, H, S, S), H)])
def test_other_masks_are_a_bias(shape, first):
    def scores(net: Net, s: str) -> str:
        biased = net.op("Add", net.const(net.random.normal(0, 1, shape)), s)
        return str(net.op("Mul", biased, net.const(0.5)))

    net = Net("n", S, D)
    graph = joined(net.model(self_attention(net, scores)), X)
    node = the_attention(graph)
    assert graph[node.inputs[3]].shape == (first, S, S)
    assert node.attrs["scale"] == pytest.approx(0.5)


def test_scores_that_are_clipped_stay():
    def scores(net: Net, s: str) -> str:
        return str(net.op("Clip", s, net.const(-1.0), net.const(1.0)))

    net = Net("n", S, D)
    assert "Attention" not in ops_of(joined(net.model(self_attention(net, scores)), X))


@pytest.mark.parametrize("order", ["qkv first", "heads first"])
def test_packed_projections_come_apart(order):
    net = Net("n", S, D, opset=13)
    packed = project(net, "x", 3 * D)
    if order == "qkv first":
        shape, perm = [0, S, 3, H, D // H], [2, 0, 3, 1, 4]
        turned = net.op("Reshape", packed, net.const(shape, np.int64))
        turned = net.op("Transpose", turned, perm=perm)
        parts = [net.op("Gather", turned, net.const(i, np.int64), axis=0) for i in range(3)]
    else:
        sizes = net.const([D] * 3, np.int64)
        parts = [
            split(net, part, [0, 2, 1, 3])
            for part in net.op("Split", packed, sizes, outputs=3, axis=-1)
        ]
    q, k, v = parts
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = merged(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), v))
    graph = joined(net.model(y), X)
    assert ops_of(graph) == {"Linear": 3, "Attention": 1}


def test_attention_by_einsum():
    net = Net("n", S, D)
    q, k, v = (
        net.op("Reshape", project(net, "x"), net.const([0, S, H, D // H], np.int64))
        for _ in range(3)
    )
    scores = net.op("Einsum", q, k, equation="bqhd,bkhd->bhqk")
    p = net.op("Softmax", net.op("Mul", scores, net.const(0.5)), axis=-1)
    y = net.op("Einsum", p, v, equation="bhqk,bkhd->bqhd")
    y = net.op("Reshape", y, net.const([0, S, D], np.int64))
    graph = joined(net.model(y), X)
    assert ops_of(graph) == {"Linear": 3, "Attention": 1}


@pytest.mark.parametrize(
    ("equation", "shape", "op"),
    [
        ("bsd,de->bse", (D, 5), "Linear"),
        ("bsd,edh->bseh", (3, D, 2), "Linear"),
        ("bsd,bsd->bs", None, "MatMul"),
        ("bsd,btd->bts", None, "MatMul"),
    ],
)
def test_einsum_is_a_product(equation, shape, op):
    net = Net("n", S, D)
    other = net.weights(*shape) if shape else "x"
    graph = joined(net.model(net.op("Einsum", "x", other, equation=equation)), X)
    assert op in ops_of(graph)
    assert "Einsum" not in ops_of(graph)


def test_other_einsums_are_onnxs():
    net = Net("n", S, D)
    graph = joined(net.model(net.op("Einsum", "x", equation="bsd->bds")), X)
    assert [node.op for node in graph] == ["Einsum"]


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "bias"])
def test_attention_of_onnx(four, mask):
    net = Net("n", S, D, opset=23)
    parts = [project(net, "x") for _ in range(3)]
    attrs: dict[str, Any] = {"is_causal": 1} if mask == "causal" else {"scale": 0.3}
    if four:
        parts = [split(net, part, [0, 2, 1, 3]) for part in parts]
    else:
        attrs |= {"q_num_heads": H, "kv_num_heads": H}
    if mask == "boolean":
        parts.append(net.const(TRIANGLE, bool))
    if mask == "bias":
        parts.append(net.const(net.random.normal(0, 1, (S, S))))
    y = net.op("Attention", *parts, **attrs)
    graph = joined(net.model(merged(net, y) if four else y), X)
    node = the_attention(graph)
    assert node.attrs["causal"] == int(mask in ("causal", "boolean"))


def test_attention_of_onnx_that_is_wrong():
    net = Net("n", S, D, opset=23)
    with pytest.raises(ModelError, match="q_num_heads and kv_num_heads are missing"):
        load_onnx(net.model(net.op("Attention", "x", "x", "x")))
    net = Net("n", S, D, opset=23)
    mask = net.const(np.zeros((S + 1, S)))
    y = net.op("Attention", "x", "x", "x", mask, q_num_heads=H, kv_num_heads=H)
    model = net.model()
    model.graph.output.append(onnx.ValueInfoProto(name=y))
    with pytest.raises(ShapeError, match="mask of shape"):
        load_onnx(model)


# Class tokens


def test_a_class_token_is_a_row_of_zeros():
    net = Net("n", S, D, opset=13)
    token = net.const(net.random.normal(0, 1, (1, 1, D)))
    token = net.op("Expand", token, net.const([1, 1, D], np.int64))
    y = net.op("Concat", token, "x", axis=1)
    y = net.op("Add", y, net.const(net.random.normal(0, 1, (1, S + 1, D))))
    x = images((1, S, D))
    graph = joined(net.model(y), x)
    assert ops_of(graph) == {"Pad": 1, "Add": 1}


def test_a_constant_joins_every_sample():
    net = Net("n", S, D, opset=13)
    y = net.op("Concat", net.const(np.ones((1, 2, D))), "x", axis=1)
    graph = fuse(load_onnx(net.model(y)))
    (found,) = evaluate(graph, {"x": X}).values()
    np.testing.assert_array_equal(found[:, 2:], X)
    np.testing.assert_array_equal(found[:, :2], 1)


# What PyTorch writes


def test_the_vit_that_pytorch_exported():
    graph = fuse(load_onnx(demo.MODELS / "vit_digits.onnx"))
    found = ops_of(graph)
    assert {op: found[op] for op in ("LayerNorm", "Attention", "Gelu")} == {
        "LayerNorm": 5,
        "Attention": 2,
        "Gelu": 2,
    }
    assert not {"MatMul", "Softmax", "Sqrt", "Erf", "Div"} & set(found)


def torch_modules(torch: Any) -> dict[str, tuple[Any, tuple[int, ...]]]:
    nn = torch.nn

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.qkv = nn.RMSNorm(D), nn.Linear(D, 3 * D)

        def forward(self, x: Any) -> Any:
            shaped = self.qkv(self.norm(x)).unflatten(-1, (3, H, D // H))
            q, k, v = shaped.permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).flatten(2)

    layer = nn.TransformerEncoderLayer(D, H, 24, batch_first=True, activation="gelu")
    return {
        "encoder": (nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (2, 2, 4)),
        "packed": (Packed(), (1, 0, 0)),
    }


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [17, 18, 20, 23])
@pytest.mark.parametrize("name", ["encoder", "packed"])
def test_torch_modules(name, opset):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    module, (attentions, gelus, norms) = torch_modules(torch)[name]
    if name == "packed" and opset == 17:
        pytest.skip("PyTorch's older exporter has no RMSNorm")
    module.eval()
    x = torch.tensor(X[:1])
    logging.disable(logging.WARNING)
    try:
        if opset == 17:
            target = io.BytesIO()
            torch.onnx.export(module, (x,), target, dynamo=False, opset_version=opset)
            data = target.getvalue()
        else:
            made = torch.onnx.export(module, (x,), dynamo=True, opset_version=opset, verbose=False)
            data = made.model_proto.SerializeToString()
    finally:
        logging.disable(logging.NOTSET)
    graph = fuse(load_onnx(data))
    (found,) = evaluate(graph, {graph.inputs[0]: X[:1]}).values()
    np.testing.assert_allclose(found, module(x).detach().numpy(), **TOLERANCE)
    counts = ops_of(graph)
    assert counts["Attention"] == attentions
    assert counts.get("Gelu", 0) == gelus
    assert counts.get("LayerNorm", 0) == norms
    assert not {"MatMul", "Softmax", "Sqrt", "Transpose"} & set(counts), counts
