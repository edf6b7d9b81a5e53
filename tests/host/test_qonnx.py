"""QONNX models against qonnx's executor: equal in every element."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from qonnx_models import DATA, DOMAIN, executed, model, quant

import weft
from weft import demo
from weft.errors import ModelError, UnsupportedError, WeftError
from weft.frontend.onnx import load_onnx
from weft.ops import evaluate
from weft.passes.requant_fit import Staircase, fit
from weft.passes.staircase import weight_bits
from weft.quant_ops import ROUNDINGS
from weft.units import requant

NETWORKS = ("w1a1", "w2a2", "w4a4")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return (demo.load_data().images / 16).astype(np.float32)


@pytest.fixture
def oracle():
    return pytest.importorskip("qonnx", reason="the qonnx package is not installed")


def run(program, x, device="golden"):
    with weft.open(program, device=device) as session:
        found = session.run(x)
    return np.asarray(next(iter(found.values())) if isinstance(found, dict) else found)


@pytest.mark.oracle
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("overlay", ["tiny", "edge"])
def test_brevitas_networks_equal_the_executor(name, overlay, images, oracle):
    path, x = DATA / f"digits_{name}.onnx", images[:40]
    wanted = executed(onnx.load(path), x)
    graph = load_onnx(path)
    last = graph.nodes[-1]
    unit = graph[last.inputs[0]].quant.scale * graph[last.inputs[1]].quant.scale
    program = weft.compile(path, overlay)
    for device in ("golden", "csim"):
        y = run(program, x, device)
        np.testing.assert_array_equal(np.rint(y / unit), np.rint(wanted / unit))
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_brevitas_networks_run_on_the_accelerator(name, images):
    path = DATA / f"digits_{name}.onnx"
    graph = load_onnx(path)
    bits = [n.attrs["weight_bits"] for n in graph if n.op in ("Conv", "Linear")]
    assert bits == [int(name[1])] * 3
    for node in graph:
        if node.op in ("Conv", "Linear"):
            codes = graph[node.inputs[1]].data
            assert codes.dtype == np.int8
            assert weight_bits(codes // node.attrs.get("weight_factor", 1)) <= int(name[1]) + 1
    wheres = {p.op: p.where for p in weft.compiler.preflight(path, "tiny")}
    assert wheres["Conv"] == "accelerator"
    assert wheres["LinearBytes"] == "accelerator"


@pytest.mark.oracle
@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(1, 9),
    signed=st.booleans(),
    narrow=st.booleans(),
    mode=st.sampled_from(sorted(ROUNDINGS)),
    zero=st.integers(-3, 40),
    per_channel=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_quant_equals_the_executor(bits, signed, narrow, mode, zero, per_channel, seed):
    pytest.importorskip("qonnx", reason="the qonnx package is not installed")
    if bits == 1 and narrow and not signed:
        return
    rng = np.random.default_rng(seed)
    scale = 2.0 ** rng.integers(-6, 2, (1, 3, 1) if per_channel else ())
    attrs = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": mode}
    node, constants = quant("x", "y", scale, zero, bits, **attrs)
    proto = model([node], constants, [1, 3, 8], [1, 3, 8])
    x = (rng.integers(-900, 900, (5, 3, 8)) / 16).astype(np.float32)
    graph = load_onnx(proto)
    wanted = executed(proto, x)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], wanted)
    if weft.compiler.is_quantized(graph):
        np.testing.assert_array_equal(run(weft.compile(graph, "tiny"), x), wanted)


def bipolar(x, y, scale):
    node = helper.make_node("BipolarQuant", [x, f"{y}.scale"], [y], y, domain=DOMAIN)
    return node, {f"{y}.scale": scale}


def others():
    """(name, node, constants, version) of the other quantizers."""
    node, constants = bipolar("x", "y", 0.25)
    yield "bipolar", node, constants, 2
    for version, names in (
        (1, {"s": 0.25, "z": 0, "b": 8, "o": 5}),
        (2, {"s": 0.25, "z": 0, "b": 8, "os": 1.0, "o": 5}),
    ):
        for mode in ("FLOOR", "ROUND", "CEIL"):
            node = helper.make_node(
                "Trunc", ["x", *names], ["y"], "t", domain=DOMAIN, rounding_mode=mode
            )
            yield f"trunc{version}-{mode}", node, names, version
    names = {"s": 0.5, "e": 4, "m": 3, "eb": 7, "max": 448}
    attrs = {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1}
    node = helper.make_node("FloatQuant", ["x", *names], ["y"], "f", domain=DOMAIN, **attrs)
    yield "float", node, names, 2
    rng = np.random.default_rng(5)
    for channels, layout in ((1, "NCHW"), (3, "NCHW"), (4, "NHWC")):
        steps = np.sort(rng.integers(-40, 40, (channels, 7)), axis=1) / 2
        attrs = {"out_dtype": "INT4", "out_scale": 0.5, "out_bias": -2.0, "data_layout": layout}
        node = helper.make_node("MultiThreshold", ["x", "t"], ["y"], "m", domain=DOMAIN, **attrs)
        yield f"thresholds{channels}", node, {"t": steps}, 2


@pytest.mark.oracle
@pytest.mark.parametrize("case", list(others()), ids=lambda c: c[0])
def test_other_quantizers_equal_the_executor(case, oracle):
    _, node, constants, version = case
    proto = model([node], constants, [1, 3, 5, 4], [1, 3, 5, 4], version)
    x = (np.random.default_rng(0).integers(-120, 120, (6, 3, 5, 4)) / 4).astype(np.float32)
    np.testing.assert_array_equal(evaluate(load_onnx(proto), {"x": x})["y"], executed(proto, x))


def layer(bits, out, *, seed=0, relu=False, channels=3, norm=True, signed=1):
    """x → Quant → Conv → BatchNormalization → Relu → quantizer `out`(name, y)."""
    rng = np.random.default_rng(seed)
    entry, constants = quant("x", "q", 0.125, 0, bits, signed=signed)
    span = 1 << (bits - 1)
    w = rng.integers(1 - span, span, (6, channels, 3, 3)) * 0.25
    weights, more = quant("w", "wq", 0.25 * np.ones((6, 1, 1, 1)), 0, bits, narrow=1)
    nodes = [entry, weights, helper.make_node("Conv", ["q", "wq"], ["c"], "c", pads=[1] * 4)]
    constants |= more | {"w": w}
    name = "c"
    if norm:
        constants |= {"g": rng.normal(0, 1, 6), "be": rng.normal(0, 1, 6)}
        constants |= {"mu": rng.normal(0, 2, 6), "var": rng.uniform(0.5, 9, 6)}
        nodes.append(
            helper.make_node("BatchNormalization", ["c", "g", "be", "mu", "var"], ["n"], "n")
        )
        name = "n"
    if relu:
        nodes.append(helper.make_node("Relu", [name], ["r"], "r"))
        name = "r"
    node, more = out(name, "y")
    return model([*nodes, node], constants | more, [1, channels, 6, 5], [1, 6, 6, 5])


def thresholds(x, y, even=False):
    rng = np.random.default_rng(3)
    steps = np.sort(rng.normal(0, 3, (6, 3)), axis=1)
    if even:
        steps = rng.normal(0, 1, (6, 1)) + rng.uniform(0.5, 2, (6, 1)) * np.arange(3)
    attrs = {"out_dtype": "UINT2", "out_scale": 1.0, "out_bias": -1.0, "data_layout": "NCHW"}
    node = helper.make_node("MultiThreshold", [x, "steps"], [y], y, domain=DOMAIN, **attrs)
    return node, {"steps": steps}


LAYERS = {
    "int4 → uint4": layer(4, lambda x, y: quant(x, y, 0.25, 0, 4, signed=0), relu=True),
    "int2 → int2 narrow": layer(2, lambda x, y: quant(x, y, 1.0, 0, 2, narrow=1)),
    "int3 → uint3 with zero point": layer(3, lambda x, y: quant(x, y, 0.5, 3, 3, signed=0)),
    "int2 → bipolar": layer(2, lambda x, y: bipolar(x, y, 0.5)),
    "int2 → floor": layer(2, lambda x, y: quant(x, y, 1.0, 0, 3, rounding_mode="FLOOR")),
    "int3 → thresholds": layer(3, thresholds),
    "int3 → even thresholds": layer(3, lambda x, y: thresholds(x, y, True)),
    "int8 → uint8": layer(8, lambda x, y: quant(x, y, 2.0, 0, 8, signed=0), relu=True),
    "uint8 → uint8": layer(8, lambda x, y: quant(x, y, 4.0, 0, 8, signed=0), signed=0),
    "uint3 → uint3": layer(3, lambda x, y: quant(x, y, 1.0, 0, 3, signed=0), relu=True, signed=0),
    "int8 → int8, no norm": layer(8, lambda x, y: quant(x, y, 4.0, 0, 8), norm=False),
}


# No line passes uneven steps, nor every step at exactly the sum that these batch norms give.
WHOLE = ("int3 → thresholds", "int8 → uint8", "uint8 → uint8")


@pytest.mark.oracle
@pytest.mark.parametrize("name", LAYERS)
def test_layers_equal_the_executor(name, oracle):
    proto = LAYERS[name]
    x = np.random.default_rng(1).normal(0, 1, (16, 3, 6, 5)).astype(np.float32)
    wanted = executed(proto, x)
    program = weft.compile(load_onnx(proto), "tiny")
    for device in ("golden", "csim"):
        np.testing.assert_array_equal(run(program, x, device), wanted)


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in WHOLE])
def test_layers_are_folded(name):
    graph = load_onnx(LAYERS[name])
    conv = next(n for n in graph if n.op == "Conv")
    assert conv.attrs["requant"] in ("single_round", "float_even")
    assert graph[conv.inputs[1]].data.dtype == np.int8


@pytest.mark.parametrize("name", WHOLE)
def test_other_layers_multiply_on_the_accelerator(name):
    graph = load_onnx(LAYERS[name])
    conv = next(n for n in graph if n.op == "Conv")
    assert conv.attrs["exact_sums"]
    where = {p.op: p.where for p in weft.compiler.preflight(graph, "tiny")}
    assert where["ConvBytes"] == "accelerator"


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([1, 4, 16]))
def test_fitted_requantization_is_exact(seed, count, factor):
    """Staircases of a line, checked at every sum that occurs."""
    rng = np.random.default_rng(seed)
    first, last = -rng.integers(1, 400, 5), rng.integers(1, 400, 5)
    slope = rng.uniform(0.01, 3, 5)
    offset = rng.uniform(-count, count, 5)
    sums = np.arange(-400, 401)
    level = np.clip(np.floor(sums * slope[:, None] + offset[:, None]), 0, count).astype(int)
    inside = (sums >= first[:, None]) & (sums <= last[:, None])
    steps = np.stack(
        [
            np.where(
                ((level >= k) & inside).any(1), sums[((level >= k) & inside).argmax(1)], last + 1
            )
            for k in range(1, count + 1)
        ],
        axis=1,
    )
    heights = np.arange(1, count + 1) - 0.5
    found = fit(Staircase(steps, heights, first, last), factor)
    if found is None:
        return
    bias, scale = found
    q, s = requant.encode(scale.astype(np.float32), "single_round")
    y = requant.requantize(sums * factor + bias[:, None], q[:, None], s[:, None], "single_round")
    np.testing.assert_array_equal(np.clip(y, 0, count)[inside], level[inside])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y.scale": -1.0}, "not positive"),
        ({"y.scale": np.nan}, "not finite"),
        ({"y.scale": np.ones(7)}, "a parameter of shape"),
        ({"y.bits": 2.5}, "bit width of 2.5"),
        ({"y.bits": 1e9}, "bit width"),
        ({"y.zero": np.inf}, "not finite"),
    ],
)
def test_impossible_parameters_are_named(changes, text):
    node, constants = quant("x", "y", 1.0, 0, 4)
    with pytest.raises(ModelError, match=text):
        load_onnx(model([node], constants | changes, [1, 3, 4], [1, 3, 4]))


def test_attributes_are_checked():
    for attrs, text in (
        ({"rounding_mode": "NEAREST"}, "no rounding mode"),
        ({"signed": 7}, "signed = 7"),
        ({"signed": 0, "narrow": 1, "bits": 1}, "single value"),
    ):
        bits = attrs.pop("bits", 4)
        node, constants = quant("x", "y", 1.0, 0, bits, **attrs)
        with pytest.raises(ModelError, match=text):
            load_onnx(model([node], constants, [1, 3, 4], [1, 3, 4]))
    node, constants = quant("x", "y", 1.0, 0, 4)
    node.input[1] = "x"
    with pytest.raises(UnsupportedError, match="run time"):
        load_onnx(model([node], constants, [1, 3, 4], [1, 3, 4]))


def mutated(rng) -> onnx.ModelProto:
    """A layer with something of its quantizers changed."""
    proto = onnx.ModelProto()
    proto.CopyFrom(LAYERS[list(LAYERS)[rng.integers(len(LAYERS))]])
    for _ in range(rng.integers(1, 4)):
        values = (0, 1, -1, 1e-38, 3e38, np.nan, np.inf, 255, 2.5, rng.normal())
        if rng.random() < 0.5:
            target = proto.graph.initializer[rng.integers(len(proto.graph.initializer))]
            shape = [(), (1,), (6,), (0,), (6, 1, 1, 1), (2, 3)][rng.integers(6)]
            array = np.full(shape, values[rng.integers(len(values))], np.float32)
            target.CopyFrom(onnx.numpy_helper.from_array(array, target.name))
            continue
        node = proto.graph.node[rng.integers(len(proto.graph.node))]
        if node.attribute and rng.random() < 0.7:
            attribute = node.attribute[rng.integers(len(node.attribute))]
            value = [7, -1, "", "CEIL", 1.5, [1, 2]][rng.integers(6)]
            attribute.CopyFrom(helper.make_attribute(attribute.name, value))
        elif len(node.input) > 1:
            node.input[rng.integers(len(node.input))] = ["", "x", "q"][rng.integers(3)]
    return proto


def fuzz(count: int, first: int = 0) -> None:
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        try:
            graph = load_onnx(mutated(rng))
            evaluate(graph, {n: np.ones((1, *graph[n].shape[1:]), "f4") for n in graph.inputs})
        except WeftError:
            continue


def test_fuzz():
    fuzz(60)


@pytest.mark.slow
def test_fuzz_long():
    fuzz(2000, 60)
