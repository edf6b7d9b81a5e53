"""Every operator with random attributes: ONNX Runtime, and load_onnx, fuse and evaluate, agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import Net, run_onnx

from weft.errors import ModelError
from weft.frontend.onnx import load_onnx
from weft.ops import evaluate
from weft.passes.fuse import fuse

pytestmark = pytest.mark.oracle
Draw = Callable[[Any], Any]


class Skip(Exception):
    """Attributes that ONNX Runtime does not take."""


def pairs(draw: Draw, low: int, high: int, count: int = 2) -> list[int]:
    return [draw(st.integers(low, high)) for _ in range(count)]


def window(draw: Draw, kernel: list[int]) -> dict[str, Any]:
    rank = len(kernel)
    attrs: dict[str, Any] = {"strides": pairs(draw, 1, 3, rank)}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attrs["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attrs["dilations"] = pairs(draw, 1, 2, rank)
    else:
        attrs["auto_pad"] = auto
    return attrs


def spatial(draw: Draw, *sizes: int) -> list[int]:
    return [draw(st.integers(5, 9)) for _ in sizes]


def conv(draw: Draw, rank: int) -> tuple[Net, str]:
    group = draw(st.sampled_from([1, 1, 2, 4]))
    net = Net("n", 4, *spatial(draw, *range(rank)), seed=draw(st.integers(0, 99)))
    kernel = pairs(draw, 1, 3, rank)
    outputs = group * draw(st.integers(1, 3))
    inputs = ["x", net.weights(outputs, 4 // group, *kernel)]
    if draw(st.booleans()):
        inputs.append(net.weights(outputs))
    return net, net.op("Conv", *inputs, group=group, **window(draw, kernel))


def conv_transpose(draw: Draw) -> tuple[Net, str]:
    group = draw(st.sampled_from([1, 2]))
    net = Net("n", 4, *spatial(draw, 0, 1), seed=draw(st.integers(0, 99)))
    kernel, strides = pairs(draw, 1, 3), pairs(draw, 1, 3)
    attrs: dict[str, Any] = {"strides": strides, "dilations": pairs(draw, 1, 2)}
    if draw(st.booleans()):
        attrs["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attrs["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    elif draw(st.booleans()):
        attrs |= {"auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))}
        attrs["dilations"] = [1, 1]
        if any(k < s for k, s in zip(kernel, strides, strict=True)):
            raise Skip
    w = net.weights(4, draw(st.integers(1, 3)), *kernel)
    return net, net.op("ConvTranspose", "x", w, group=group, **attrs)


def gemm(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 6, seed=draw(st.integers(0, 99)))
    trans = draw(st.booleans())
    inputs = ["x", net.weights(*((5, 6) if trans else (6, 5)))]
    shape = draw(st.sampled_from([None, (5,), (1, 5), (1,), (), (1, 1)]))
    if shape is not None:
        inputs.append(net.const(net.random.standard_normal(shape)))
    alpha, beta = (draw(st.sampled_from([1.0, 0.5, 2.0])) for _ in range(2))
    return net, net.op("Gemm", *inputs, transB=int(trans), alpha=alpha, beta=beta)


def matmul(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 3, 6, seed=draw(st.integers(0, 99)))
    shape = draw(st.sampled_from([(6, 5), (6,), (1, 6, 2), (1, 1)]))
    if shape == (1, 1):  # two activations
        turned = net.op("Transpose", "x", perm=[0, 2, 1])
        return net, net.op("MatMul", "x", turned)
    y = net.op("MatMul", "x", net.weights(*shape))
    if shape == (6, 5) and draw(st.booleans()):
        y = net.op("Add", net.weights(5), y)
    return net, y


def batch_norm(draw: Draw) -> tuple[Net, str]:
    rank = draw(st.integers(0, 2))
    net = Net("n", 3, *[4] * rank, seed=draw(st.integers(0, 99)))
    r = net.random
    stats = [r.normal(size=3), r.normal(size=3), r.normal(size=3), r.uniform(0.1, 2, 3)]
    eps = draw(st.sampled_from([1e-5, 1e-3]))
    return net, net.op("BatchNormalization", "x", *map(net.const, stats), epsilon=eps)


UNARY: dict[str, dict[str, float]] = {
    **{op: {} for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Exp", "Erf", "Softplus", "Abs")},
    **{
        op: {} for op in ("Neg", "Ceil", "Floor", "Round", "Sign", "Sin", "Cos", "Softsign", "Mish")
    },
    **{op: {"alpha": 0.3} for op in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Selu": {"alpha": 1.5, "gamma": 1.1},
    "Identity": {},
    "Dropout": {},
    "Gelu": {"approximate": "tanh"},  # type: ignore[dict-item]
}


def unary(draw: Draw) -> tuple[Net, str]:
    op = draw(st.sampled_from(sorted(UNARY)))
    net = Net("n", 3, 5, opset=20)
    attrs = UNARY[op] if draw(st.booleans()) else {}
    return net, net.op(op, "x", **attrs)


def positive(draw: Draw) -> tuple[Net, str]:
    op = draw(st.sampled_from(["Sqrt", "Log", "Reciprocal"]))
    net = Net("n", 3, 5)
    y = net.op("Add", net.op("Abs", "x"), net.const(0.25))
    return net, net.op(op, y)


def clip(draw: Draw) -> tuple[Net, str]:
    old = draw(st.booleans())
    net = Net("n", 4, opset=7 if old else 13)
    bounds = [draw(st.sampled_from([None, -0.5, 0.0])), draw(st.sampled_from([None, 0.7, 6.0]))]
    if old:
        attrs = {k: v for k, v in zip(("min", "max"), bounds, strict=True) if v is not None}
        return net, net.op("Clip", "x", **attrs)
    names = ["" if v is None else net.const(v) for v in bounds]
    while names and not names[-1]:
        names.pop()
    return net, net.op("Clip", "x", *names)


def prelu(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 3, 4, 4)
    slope = net.weights(*draw(st.sampled_from([(3, 1, 1), (1, 1, 1), (1, 3, 1, 1), (1,)])))
    y = net.op("Conv", "x", net.weights(3, 3, 1, 1)) if draw(st.booleans()) else "x"
    return net, net.op("PRelu", y, slope)


def binary(draw: Draw) -> tuple[Net, str]:
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Min", "Max"]))
    net = Net("n", 3, 4, 5, seed=draw(st.integers(0, 99)))
    shape = draw(st.sampled_from([None, (), (1,), (3, 1, 1), (5,), (4, 5), (1, 3, 4, 5)]))
    if shape is None:
        return net, net.op(op, "x", net.op("Exp", "x"))
    constant = net.const(net.random.uniform(0.5, 2, shape))
    inputs = ["x", constant] if draw(st.booleans()) or op == "Div" else [constant, "x"]
    return net, net.op(op, *inputs)


def rank_mix(draw: Draw) -> tuple[Net, str]:
    """Activations of different rank: what a stacked batch must not confuse."""
    net = Net("n", 3, 4)
    keep = draw(st.integers(0, 1))
    mean = net.op("ReduceMean", "x", axes=[1], keepdims=keep)
    if not keep:  # [n, 4] against [n, 3, 4] would mix batch and channels for n = 3 only
        return net, net.op("Add", net.op("Flatten", "x"), net.op("Concat", *[mean] * 3, axis=1))
    return net, net.op("Mul", "x", mean) if draw(st.booleans()) else net.op("Neg", mean)


def pool(draw: Draw) -> tuple[Net, str]:
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net = Net("n", 3, *spatial(draw, 0, 1), opset=17)
    kernel = pairs(draw, 1, 3)
    attrs = window(draw, kernel)
    if any(k < s for k, s in zip(kernel, attrs["strides"], strict=True)) and "pads" not in attrs:
        raise Skip  # ONNX Runtime works out negative pads
    if op == "AveragePool":
        attrs.pop("dilations", None)
        attrs["count_include_pad"] = draw(st.integers(0, 1))
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = draw(st.integers(0, 1))
    return net, net.op(op, "x", kernel_shape=kernel, **attrs)


def global_pool(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 3, *[5] * draw(st.integers(1, 2)))
    return net, net.op(draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"])), "x")


def reduce(draw: Draw) -> tuple[Net, str]:
    op = draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]))
    net = Net("n", 3, 4, 5, opset=18)
    axes = draw(st.sampled_from([[2, 3], [-1], [1], [1, 2, 3], [-2, -1]]))
    keep = draw(st.integers(0, 1))
    return net, net.op(op, "x", net.const(axes, np.int64), keepdims=keep)


def concat(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 3, 4)
    axis = draw(st.sampled_from([1, 2, -1]))
    return net, net.op("Concat", "x", net.op("Neg", "x"), "x", axis=axis)


def split(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 5, 4)
    sizes = draw(st.sampled_from([[1, 4], [2, 3], [4, 1]]))
    a, b = net.op("Split", "x", net.const(sizes, np.int64), outputs=2, axis=1)
    return net, net.op("Concat", b, a, axis=1)


def slice_(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 5, 6)
    step = draw(st.sampled_from([1, 2, -1, -2]))
    start, end = (0, 100) if step > 0 else (-1, -100)
    if draw(st.booleans()):
        start, end = (1, -1) if step > 0 else (4, 0)
    inputs = [net.const([v], np.int64) for v in (start, end, draw(st.integers(1, 2)), step)]
    return net, net.op("Slice", "x", *inputs)


def pad(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 3, 5, 5)
    pads = [0, 0, *pairs(draw, -1, 2), 0, draw(st.integers(0, 1)), *pairs(draw, 0, 2)]
    mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
    if mode != "constant":
        pads = [max(p, 0) for p in pads]
        pads[5] = 0
    value = net.const(draw(st.sampled_from([0.0, 1.5])))
    y = net.op("Pad", "x", net.const(pads, np.int64), value, mode=mode)
    kind = draw(st.sampled_from(["none", "conv", "average", "max"]))
    if kind == "conv" and pads[5] == 0:
        y = net.op("Conv", y, net.weights(2, 3, 3, 3), pads=[1, 0, 1, 0])
    elif kind == "average":
        y = net.op("AveragePool", y, kernel_shape=[2, 2], count_include_pad=1)
    elif kind == "max":
        y = net.op("MaxPool", y, kernel_shape=[2, 2])
    return net, y


def resize(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 2, 3, 4)
    mode = draw(st.sampled_from(["nearest", "nearest", "linear"]))
    attrs = {
        "mode": mode,
        "coordinate_transformation_mode": draw(
            st.sampled_from(["half_pixel", "asymmetric", "align_corners"])
        ),
    }
    if mode == "nearest":
        attrs["nearest_mode"] = draw(
            st.sampled_from(["floor", "round_prefer_floor", "round_prefer_ceil"])
        )
    fractions = [] if "align" in attrs["coordinate_transformation_mode"] else [[1, 1, 1.5, 2]]
    scales = draw(st.sampled_from([[1, 1, 2, 2], [1, 1, 3, 1], *fractions]))
    if draw(st.booleans()):
        sizes = draw(st.sampled_from([[6, 8], [9, 4], [3, 4]]))
        x = net.op("Shape", "x", start=0, end=2)
        target = net.op("Concat", x, net.const(sizes, np.int64), axis=0)
        return net, net.op("Resize", "x", "", "", target, **attrs)
    return net, net.op("Resize", "x", "", net.const(scales), **attrs)


def upsample(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 2, 3, 4, opset=9)
    scales = net.const(draw(st.sampled_from([[1, 1, 2, 2], [1, 1, 2, 3]])))
    return net, net.op("Upsample", "x", scales, mode=draw(st.sampled_from(["nearest", "linear"])))


def moves(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 4, 3, 2)
    kind = draw(st.integers(0, 7))
    if kind == 0:
        mode = draw(st.sampled_from(["DCR", "CRD"]))
        return net, net.op("DepthToSpace", "x", blocksize=2, mode=mode)
    if kind == 1:
        return net, net.op("Flatten", "x", axis=1)
    if kind == 2:
        y = net.op("Unsqueeze", "x", net.const([1, -1], np.int64))
        return net, net.op("Squeeze", y, net.const([1], np.int64))
    if kind == 3:
        return net, net.op("Reshape", "x", net.const([0, -1, 2], np.int64))
    if kind == 4:
        return net, net.op(
            "Transpose", "x", perm=draw(st.permutations([1, 2, 3]).map(lambda p: [0, *p]))
        )
    if kind == 5:  # x.view(x.size(0), -1) as torch writes it
        n = net.op("Gather", net.op("Shape", "x"), net.const(0, np.int64), axis=0)
        n = net.op("Unsqueeze", n, net.const([0], np.int64))
        shape = net.op("Concat", n, net.const([-1], np.int64), axis=0)
        return net, net.op("Reshape", "x", shape)
    if kind == 6:
        return net, net.op(
            "SpaceToDepth", net.op("Tile", "x", net.const([1, 1, 2, 1], np.int64)), blocksize=2
        )
    index = draw(st.sampled_from([0, -1, [1], [2, 0]]))
    return net, net.op("Gather", "x", net.const(index, np.int64), axis=2)


def softmax(draw: Draw) -> tuple[Net, str]:
    opset = draw(st.sampled_from([11, 13]))
    net = Net("n", 3, 4, opset=opset)
    op = draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    return net, net.op(op, "x", axis=draw(st.sampled_from([1, 2, -1])))


def others(draw: Draw) -> tuple[Net, str]:
    net = Net("n", 4, 5)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        y = net.op("ArgMax", "x", axis=1, keepdims=draw(st.integers(0, 1)))
        return net, net.op("Cast", y, to=1)
    if kind == 1:
        return net, net.op("Where", net.op("Greater", "x", net.const(0.0)), "x", net.const(-1.0))
    if kind == 2:
        return net, net.op("LayerNormalization", "x", net.weights(5), net.weights(5))
    if kind == 3:
        return net, net.op(
            "Expand", net.op("ReduceMax", "x", axes=[2]), net.const([1, 4, 5], np.int64)
        )
    if kind == 4:
        return net, net.op("Pow", net.op("Abs", "x"), net.const(draw(st.sampled_from([2.0, 0.5]))))
    return net, net.op("CumSum", "x", net.const(2, np.int64))


CASES: dict[str, Callable[[Draw], tuple[Net, str]]] = {
    "Conv1d": lambda draw: conv(draw, 1),
    "Conv2d": lambda draw: conv(draw, 2),
    "Conv3d": lambda draw: conv(draw, 3),
    **{
        f.__name__: f
        for f in (conv_transpose, gemm, matmul, batch_norm, unary, positive, clip, prelu, rank_mix)
    },
    **{f.__name__: f for f in (pool, global_pool, reduce, concat, split, slice_, pad, resize)},
    **{f.__name__: f for f in (binary, upsample, moves, softmax, others)},
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_operator_agrees_with_onnxruntime(case: str, data: Any) -> None:
    try:
        net, y = CASES[case](data.draw)
    except Skip:
        return
    model = net.model(y)
    dims = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(3).standard_normal(dims).astype(np.float32)
    try:
        expected = run_onnx(model, {"x": x})[0]
    except Exception:  # attributes that make no output
        with pytest.raises(ModelError):
            evaluate(load_onnx(model), {"x": x})
        return
    graph = load_onnx(model)
    for candidate in (graph, fuse(graph)):
        written = [name for node in candidate for name in node.outputs]
        values = evaluate(candidate, {"x": x}, keep=written)
        for name in written:
            declared = candidate[name]
            assert values[name].shape == (2 * declared.shape[0], *declared.shape[1:])
            assert values[name].dtype == declared.dtype
        result = values[candidate.outputs[0]]
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)
