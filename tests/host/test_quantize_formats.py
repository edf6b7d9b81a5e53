"""Quantized graphs in every number format: what their weights, biases and activations are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from weft import activation, ops
from weft.calibrate import CALIBRATORS
from weft.errors import InputError, ModelError, UsageError
from weft.formats import FORMATS, parse
from weft.graph import Graph, Node, Quant, Tensor
from weft.passes.quantize import quantize, simulate
from weft.passes.weights import finite
from weft.plan import LayerPlan, Plan, read
from weft.quantization import codec
from weft.quantization.methods import METHODS

WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
EACH = [*FORMATS, "int4:g32", "uint4:g64", "flint4:g32", "ternary2:g32", "ant4"]
RNG = np.random.default_rng(11)


def network(depthwise: bool = False, scale: float = 1.0) -> Graph:
    """conv (ReLU), perhaps a depthwise convolution, fc; inputs [1, 3, 6, 6]."""
    rng = np.random.default_rng(4)
    tensors, nodes, head = {"x": Tensor("x", (1, 3, 6, 6))}, [], "x"

    def add(op: str, name: str, *constants: np.ndarray, **attrs: Any) -> None:
        nonlocal head
        names = [head]
        for i, data in enumerate(constants):
            names.append(f"{name}_{'wb'[i]}")
            tensors[names[-1]] = Tensor(names[-1], data.shape, "float32", data.astype(np.float32))
        node = Node(op, name, tuple(names), (f"{name}_y",), attrs)
        nodes.append(node)
        tensors.update((t.name, t) for t in ops.describe_outputs(node, tensors))
        head = node.outputs[0]

    relu = {"activation": ("Relu",)}
    add("Conv", "conv", scale * rng.normal(size=(10, 3, 3, 3)), rng.normal(size=10),
        group=1, **relu, **WINDOW)  # fmt: skip
    if depthwise:
        add("Conv", "dw", rng.normal(size=(10, 1, 3, 3)), rng.normal(size=10),
            group=10, **relu, **WINDOW)  # fmt: skip
    add("Reshape", "flat", shape=(1, 360))
    add("Linear", "mid", rng.normal(size=(360, 24)) / 19, rng.normal(size=24), **relu)
    add("Linear", "fc", rng.normal(size=(24, 5)) / 5)
    return Graph("net", tensors, tuple(nodes), ("x",), (head,)).verify()


GRAPH = network()
DATA = {"x": RNG.normal(size=(20, 3, 6, 6)).astype(np.float32)}


def relative_error(graph: Graph, found: Graph) -> float:
    (name,) = graph.outputs
    y, z = ops.evaluate(graph, DATA)[name], simulate(found, DATA)[name]
    return float(np.square(y - z).sum() / np.square(y).sum())


@pytest.mark.parametrize("name", EACH)
def test_weights_are_operands_of_their_format(name):
    found = quantize(GRAPH, DATA, weights=name)
    for node in found:
        if node.op not in ("Conv", "Linear"):
            continue
        x, w = found[node.inputs[0]].quant, found[node.inputs[1]]
        fmt = parse(w.quant.format)
        assert name in (fmt.name, "ant4")
        dtype = {"int8": np.int8, "int16": np.int16, "bf16": np.float32}[fmt.operand]
        assert w.data.dtype == dtype
        canonical = codec.canonical(w.data, node.op)
        flat = canonical_quant(w.quant, canonical.shape)
        np.testing.assert_array_equal(fmt.decode(fmt.encode(canonical, flat), flat), canonical)
        if len(node.inputs) < 3:
            continue
        bias, real = found[node.inputs[2]], GRAPH[node.inputs[2]].data
        if fmt.operand == "bf16":
            assert bias.quant is None
            np.testing.assert_array_equal(bias.data, real)
        else:
            unit = np.float64(x.scale) * w.quant.scale
            assert bias.data.dtype == np.int32
            assert (np.abs(bias.data * unit - real) <= 0.51 * unit).all()


def canonical_quant(quant: Quant, shape: tuple[int, ...]) -> Quant:
    from dataclasses import replace

    n, taps, _ = shape
    groups, zeros = (
        a if a is None else a.reshape(n, taps, -1) for a in (quant.groups, quant.zeros)
    )
    return replace(quant, axis=0, groups=groups, zeros=zeros)


def test_groups_are_kept_in_the_taps_shape():
    found = quantize(GRAPH, DATA, weights="int4:g32")
    assert found["conv_w"].quant.groups.shape == (10, 3, 3, 1)
    assert found["mid_w"].quant.groups.shape == (24, 12)
    assert found["mid_w"].quant.axis == 1


@pytest.mark.parametrize("size", [32, 64, 128])
def test_smaller_groups_follow_the_weights_more_closely(size):
    tensors = dict(GRAPH.tensors)
    w = tensors["mid_w"].data * np.repeat(np.exp2(-np.arange(12.0)), 30)[:, None]
    tensors["mid_w"] = Tensor("mid_w", w.shape, "float32", w.astype(np.float32))
    graph = GRAPH.replace(tensors=tensors)
    errors = {}
    for name in ("int4", f"int4:g{size}"):
        kept = quantize(graph, DATA, weights=name)["mid_w"].real()
        errors[name] = np.abs(kept - w).sum()
    assert errors[f"int4:g{size}"] < {32: 0.5, 64: 0.7, 128: 0.9}[size] * errors["int4"]


@pytest.mark.parametrize("name", activation.ACTIVATIONS)
def test_activations_take_only_their_codes(name):
    weights = "bf16" if name == "bf16" else "int8"
    found = quantize(GRAPH, DATA, activations=name, weights=weights, calibrator="mse")
    assert found["x"].quant.format == found["mid_y"].quant.format == name
    assert found[found.outputs[0]].quant.format == "int8"  # no layer reads it
    x = RNG.normal(size=999).astype(np.float32) * 9
    quant = found["x"].quant
    codes = quant.quantize(x)
    if name == "bf16":
        assert codes.dtype == np.float32
        assert (np.abs(codes - x) <= np.abs(x) * 2.0**-8).all()
        assert not (codes.view(np.uint32) & 0xFFFF).any()
        return
    low, high = activation.limits(name)
    assert codes.dtype == np.int8
    assert codes.min() >= low
    assert codes.max() <= high
    allowed = activation.values(name) if name in activation.GRIDS else np.arange(low, high + 1)
    distance = np.abs(x[:, None] / quant.scale - (allowed - quant.zero_point)[None])
    own = np.abs(x / quant.scale - (codes.astype(float) - quant.zero_point))
    np.testing.assert_allclose(own, distance.min(axis=1), rtol=1e-4, atol=1e-4)


def test_more_bits_of_activations_are_better():
    errors = [
        relative_error(GRAPH, quantize(GRAPH, DATA, activations=name, calibrator="mse"))
        for name in ("int8", "int6", "int4", "int2")
    ]
    assert errors == sorted(errors)
    assert errors[0] < 1e-3


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("name", ["int8", "int4", "uint3", "flint4", "ternary"])
def test_calibrators_choose_for_the_format(calibrator, name):
    """The one that minimizes errors does so for the codes that there will be."""
    x = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
    collected = CALIBRATORS[calibrator](format=name)
    collected.observe(x)
    low, high = collected.range()
    assert x.min() <= low < 0 < high <= x.max()
    if calibrator == "mse":

        def loss(low: float, high: float) -> float:
            quant = activation.affine(low, high, name)
            return float((np.abs(quant.dequantize(quant.quantize(x)) - x) ** 2.4).sum())

        grid = [1 - step / 100 for step in range(80)]
        best = min(loss(x.min() * kept, x.max() * kept) for kept in grid)
        assert loss(low, high) <= 1.05 * best


def test_unknown_activations_are_listed():
    with pytest.raises(UsageError, match=r"no format of activations 'int9'.*flint4.*uint4"):
        quantize(GRAPH, DATA, activations="int9")
    with pytest.raises(UsageError, match="activations bf16 need weights whose values are bf16"):
        quantize(GRAPH, DATA, activations="bf16")
    with pytest.raises(UsageError, match=r"no number format 'int44'. Did you mean 'int4'"):
        quantize(GRAPH, DATA, weights="int44")


def test_plan_names_layers_and_defaults():
    plan = Plan("int4", None, "mse", {"mid": LayerPlan("flint4", "int6"), "fc": LayerPlan("int8")})
    found = quantize(GRAPH, DATA, plan=plan, weights="int2")
    formats = [found[n.inputs[1]].quant.format for n in found if n.op in ("Conv", "Linear")]
    assert formats == ["int4", "flint4", "int8"]
    assert found["conv_y"].quant.format == found["flat_y"].quant.format == "int6"
    assert found["x"].quant.format == "int8"
    kept = quantize(GRAPH, DATA, weights="int4", activations="int4", keep_first_last=True)
    formats = [found[n].quant.format for found in [kept] for n in ("conv_w", "mid_w", "fc_w")]
    assert formats == ["int8", "int4", "int8"]
    assert [kept[n].quant.format for n in ("x", "conv_y", "mid_y")] == ["int8", "int4", "int8"]


def test_one_activation_has_one_format():
    nodes = (*GRAPH.nodes, Node("Linear", "twin", ("mid_y", "fc_w"), ("twin_y",)))
    tensors = {**GRAPH.tensors, "twin_y": Tensor("twin_y", (1, 5))}
    graph = GRAPH.replace(nodes=nodes, tensors=tensors, outputs=("fc_y", "twin_y")).verify()
    plan = Plan(layers={"twin": LayerPlan(activations="int4")})
    with pytest.raises(UsageError, match=r"'fc' and 'twin' read the same activation 'mid_y'"):
        quantize(graph, DATA, plan=plan)
    assert quantize(graph, DATA, activations="int4")["mid_y"].quant.format == "int4"


@pytest.mark.parametrize("name", ["int4", "flint4", "int4:g32", "mxfp4"])
def test_depthwise_layers_take_int8_operands_only(name):
    found = quantize(network(depthwise=True), DATA, weights=name)
    (node,) = (n for n in found if n.name == "dw")
    fits = parse(name).operand == "int8"
    assert found["dw_w"].quant.format == (name if fits else "int8")
    assert bool(node.attrs.get("notes")) != fits
    assert found["conv_w"].quant.format == name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_layers_that_are_not_finite_stay_float(bad, method):
    """As in int8: what they give is infinite, too. What meets such weights names them."""
    tensors = dict(GRAPH.tensors)
    data = tensors["mid_w"].data.copy()
    data[3, 2] = bad
    tensors["mid_w"] = Tensor("mid_w", data.shape, "float32", data)
    graph = GRAPH.replace(tensors=tensors)
    found = quantize(graph, DATA, weights="ant4", weight_method=method, equalize=True, smooth=0.5)
    assert [found[n].quant is None for n in ("conv_w", "mid_w", "fc_w")] == [False, True, True]
    with pytest.raises(InputError, match="NaN or infinite"):
        quantize(GRAPH, {"x": np.full((2, 3, 6, 6), bad, np.float32)}, weights="int4")
    with pytest.raises(ModelError, match="Linear 'mid': 1 of 8640 values of 'mid_w'"):
        finite(graph["mid_w"], graph.producers()["mid_y"])


@pytest.mark.parametrize("name", ["int16", "flint8", "pot5"])
def test_sums_of_wide_operands_fit_int32(name):
    k = 4096
    w = np.ones((k, 3), np.float32)
    w[:, 1] = 0.01
    tensors = {
        "x": Tensor("x", (1, k)),
        "w": Tensor("w", w.shape, "float32", w),
        "b": Tensor("b", (3,), "float32", np.array([1, -2, 3], np.float32)),
        "y": Tensor("y", (1, 3)),
    }
    node = Node("Linear", "fc", ("x", "w", "b"), ("y",))
    graph = Graph("wide", tensors, (node,), ("x",), ("y",)).verify()
    x = np.random.default_rng(0).uniform(-1, 1, (8, k)).astype(np.float32)
    found = quantize(graph, {"x": x}, weights=name)
    weights, bias, source = found["w"], found["b"], found["x"].quant
    largest = max(128, 127 - source.zero_point, source.zero_point + 128)
    sums = np.abs(weights.data.astype(np.int64)).sum(axis=0) * largest
    assert (sums + np.abs(bias.data.astype(np.int64)) < 2**31).all()
    assert "sums fit int32" in found.nodes[0].attrs["notes"][0]
    np.testing.assert_allclose(weights.real(), w, rtol=0.02)  # the scales grew by powers of two


def test_dead_channels_have_no_effect():
    tensors = dict(GRAPH.tensors)
    for name, axis in (("conv_w", 0), ("mid_w", 1)):
        data = tensors[name].data.copy()
        data[(slice(None),) * axis + (2,)] = 0
        tensors[name] = Tensor(name, data.shape, "float32", data)
    graph = GRAPH.replace(tensors=tensors)
    for name in ("int8", "int4", "ternary", "binary", "olive4"):
        found = quantize(graph, DATA, weights=name)
        kept = found["mid_w"].real()[:, 2]
        assert np.abs(kept).max() < 1e-6
        assert abs(found["mid_b"].real()[2] - graph["mid_b"].data[2]) < 1e-3


@pytest.mark.parametrize("method", ["mse", "gptq", "awq", "adaround"])
def test_methods_beat_nearest_end_to_end(method):
    nearest = relative_error(GRAPH, quantize(GRAPH, DATA, weights="int4"))
    found = quantize(GRAPH, DATA, weights="int4", weight_method=method, correct_bias=True)
    assert relative_error(GRAPH, found) < nearest


def test_bias_correction_removes_the_shift():
    """Also from a layer without a bias, which gets one."""
    (name,) = GRAPH.outputs
    expected = ops.evaluate(GRAPH, DATA)[name].mean(axis=0)
    shifts = []
    for correct in (False, True):
        found = quantize(GRAPH, DATA, weights="int3", correct_bias=correct)
        assert len(found.nodes[-1].inputs) == 2 + correct
        shifts.append(np.abs(simulate(found, DATA)[name].mean(axis=0) - expected).sum())
    assert shifts[1] < 0.5 * shifts[0]


def test_equalizing_and_smoothing_help_uneven_channels():
    tensors = dict(GRAPH.tensors)
    uneven = np.exp2(np.linspace(-5, 5, 24)).astype(np.float32)
    for name, factor in (("mid_w", uneven), ("mid_b", uneven), ("fc_w", 1 / uneven[:, None])):
        data = tensors[name].data * factor
        tensors[name] = Tensor(name, data.shape, "float32", data)
    graph = GRAPH.replace(tensors=tensors)
    plain = relative_error(graph, quantize(graph, DATA))
    assert relative_error(graph, quantize(graph, DATA, equalize=True)) < 0.5 * plain
    assert relative_error(graph, quantize(graph, DATA, smooth=0.5)) < 0.5 * plain


def test_dynamic_layers_take_formats_and_no_data():
    found = quantize(GRAPH, {}, dynamic=True, weights="int4", weight_method="mse")
    assert found["mid_w"].quant.format == "int4"
    assert found["conv_w"].quant is None
    with pytest.raises(UsageError, match="'gptq' needs calibration data"):
        quantize(GRAPH, {}, dynamic=True, weights="int4", weight_method="gptq")
    with pytest.raises(UsageError, match="leave activations at int8"):
        quantize(GRAPH, {}, dynamic=True, activations="int4")


def test_a_quantized_model_keeps_its_formats():
    found = quantize(GRAPH, DATA)
    with pytest.raises(UsageError, match="'net' is quantized already and keeps its formats"):
        weft.compile(found, "tiny", weights="int4")
    with pytest.raises(UsageError, match="keeps its formats"):
        weft.compile(found, "tiny", plan=Plan())
    assert weft.compile(found, "tiny").name == "net"


def test_compile_passes_on_what_it_is_told(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('[layers.conv]\nweights = "int6"\n')
    given = {"weights": "int4", "weight_method": "gptq", "correct_bias": True, "equalize": True}
    program = weft.compile(GRAPH, "lab", calibration=DATA, plan=path, batch=1, **given)
    expected = quantize(GRAPH, DATA, plan=read(path), **given)
    with weft.open(program, "golden") as session:
        y = session.run(DATA["x"])
    again = weft.compile(expected, "lab", batch=1)
    with weft.open(again, "golden") as session:
        np.testing.assert_array_equal(session.run(DATA["x"]), y)
