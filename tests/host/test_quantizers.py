"""Weight methods and graph rewrites: what each promises, on layers small enough to judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft import ops
from weft.errors import UsageError
from weft.formats import FORMATS, parse
from weft.graph import Graph, Node, Tensor
from weft.quantization import adaround, ant, awq, codec, equalize, fold, gptq, hadamard, methods
from weft.quantization import smooth as smoothing
from weft.quantization.statistics import Statistics, layer_rows, observe

WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
POOL = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1),
        "count_include_pad": 0}  # fmt: skip
EACH = [*FORMATS, "int4:g32", "uint4:g32", "flint4:g32"]


def correlated(rows: int, depth: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, depth)) @ rng.normal(size=(depth, depth))
    return (mixed + 0.5).astype(np.float32)


def seen_of(x: np.ndarray, channels: int, groups: int = 1) -> Statistics:
    found = Statistics.empty(groups, x.shape[1] // groups, channels)
    found.add(x.reshape(len(x), groups, -1), x[:, :channels])
    return found


def weights_of(n: int, taps: int, channels: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, taps, channels)).astype(np.float32)


def error(x: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> float:
    return float(np.square(x @ codec.matrix(weights - kept).T).sum())


def test_loss_is_the_error_of_the_outputs():
    x, w = correlated(50, 24), weights_of(6, 3, 8)
    e = np.random.default_rng(2).normal(size=w.shape)
    found = seen_of(x, 8).loss(e)
    np.testing.assert_allclose(found, np.square(x @ codec.matrix(e).T).mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("op", ["Conv", "Linear"])
def test_canonical_order_and_back(op):
    shape = (5, 3, 2, 4) if op == "Conv" else (7, 5)
    w = np.random.default_rng(0).normal(size=shape)
    again = codec.canonical(w, op)
    assert again.shape == ((5, 8, 3) if op == "Conv" else (5, 1, 7))
    np.testing.assert_array_equal(codec.restored(again, op, shape), w)


@pytest.mark.parametrize("group", [1, 2])
def test_rows_times_columns_is_the_convolution(group):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    w = rng.normal(size=(6, 4 // group, 3, 2)).astype(np.float32)
    attrs = {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2), "group": group}
    node = Node("Conv", "c", ("x", "w"), ("y",), attrs)
    rows, channels = layer_rows(node, x, w)
    columns = codec.matrix(codec.canonical(w, "Conv")).reshape(group, 6 // group, -1)
    y = np.einsum("rgk,gnk->rgn", rows, columns).reshape(len(rows), -1)
    expected = np.moveaxis(ops.OPS["Conv"].reference(node, [x, w])[0], 1, -1).reshape(-1, 6)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert channels.shape == (2 * 5 * 6, 4)


@pytest.mark.parametrize("name", EACH)
def test_columns_agree_with_the_whole(name):
    fmt = parse(name)
    w = weights_of(4, 2, 37)
    quant = fmt.fit(w, 0)
    columns = codec.Columns(fmt, quant, w.shape)
    whole = fmt.quantize(w, quant).reshape(4, -1)
    flat = w.reshape(4, -1)
    for step in columns.steps:
        np.testing.assert_array_equal(columns.operands(step, flat[:, step]), whole[:, step])


@pytest.mark.parametrize("name", EACH)
def test_gptq_and_adaround_beat_nearest_on_the_output(name):
    fmt = parse(name)
    w, x = weights_of(8, 3, 33), correlated(400, 99)
    seen = seen_of(x, 33)
    quant = methods.fit(w, fmt, "gptq", seen)
    losses = {}
    for method in ("mse", "gptq", "adaround"):
        operands = methods.solve(w, quant, fmt, method, seen)
        losses[method] = error(x, w, codec.real(operands, quant))
        np.testing.assert_array_equal(fmt.decode(fmt.encode(operands, quant), quant), operands)
    assert losses["gptq"] <= losses["mse"]
    assert losses["adaround"] <= losses["gptq"] * (1 + 1e-6)
    if name not in ("int16", "bf16", "binary01"):  # too fine to matter; no code below 0
        assert losses["gptq"] < 0.95 * losses["mse"]
        assert losses["adaround"] < 0.9 * losses["mse"]


def test_gptq_alone_is_the_papers_algorithm():
    """Column by column with the inverse recomputed, as section 3 derives it."""
    fmt = parse("int4")
    w, x = weights_of(3, 1, 12), correlated(200, 12)
    gram = seen_of(x, 12).gram[0]
    quant = fmt.fit(w, 0)
    found = gptq.solve(w, codec.Columns(fmt, quant, w.shape), gram)[:, 0]
    h = gram + 0.01 * np.diagonal(gram).mean() * np.eye(12)
    rest = codec.matrix(w)
    for k in range(12):
        inverse = np.linalg.inv(h[k:, k:])
        q = np.clip(np.rint(rest[:, k].astype(np.float32) / quant.scale), -7, 7)
        np.testing.assert_array_equal(q, found[:, k])
        missed = (rest[:, k] - q * quant.scale) / inverse[0, 0]
        rest[:, k:] -= np.outer(missed, inverse[0])


def test_inputs_that_are_always_zero_are_no_obstacle():
    fmt = parse("int3")
    w, x = weights_of(4, 1, 20), correlated(60, 20)
    x[:, 3:9] = 0
    seen = seen_of(x, 20)
    for method in ("gptq", "adaround", "awq"):
        quant = methods.fit(w, fmt, method, seen)
        assert np.isfinite(codec.real(methods.solve(w, quant, fmt, method, seen), quant)).all()
    silent = seen_of(0 * x, 20)
    quant = methods.fit(w, fmt, "gptq", silent)
    assert np.isfinite(methods.solve(w, quant, fmt, "gptq", silent)).all()


@pytest.mark.parametrize("name", ["int4", "flint4", "olive4", "mxfp4"])
def test_adaround_improves_any_start(name):
    """From anywhere the error falls, and a second run never raises it."""
    fmt = parse(name)
    w, x = weights_of(5, 1, 30), correlated(300, 30)
    quant = fmt.fit(w, 0, "mse")
    columns = codec.Columns(fmt, quant, w.shape)
    gram = seen_of(x, 30).gram[0]
    for start in (fmt.quantize(weights_of(5, 1, 30, seed=9), quant), fmt.quantize(0 * w, quant)):
        before = error(x, w, codec.real(start, quant))
        found = adaround.solve(w, start, columns, gram)
        after = error(x, w, codec.real(found, quant))
        assert after < 0.3 * before
        again = adaround.solve(w, found, columns, gram)
        assert error(x, w, codec.real(again, quant)) <= after * (1 + 1e-9)


def test_clipping_is_never_worse():
    fmt = parse("int4")
    w, x = weights_of(6, 1, 40), correlated(200, 40)
    w[:, 0, 0] = 12  # an outlier that the input hardly uses
    x[:, 0] *= 0.001
    seen = seen_of(x, 40)
    before = fmt.fit(w, 0)
    after = awq.clip(w, before, fmt, seen)
    losses = [seen.loss(w - codec.real(fmt.quantize(w, quant), quant)) for quant in (before, after)]
    assert (losses[1] <= losses[0]).all()
    assert losses[1].sum() < 0.7 * losses[0].sum()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "laplace", "uniform", "outliers"]),
    st.integers(1, 6),
    st.integers(1, 40),
)
def test_ant_is_never_worse_than_a_single_type(seed, kind, n, channels):
    rng = np.random.default_rng(seed)
    draw = {"outliers": rng.standard_cauchy}.get(kind) or getattr(rng, kind)
    w = np.asarray(draw(size=(n, 2, channels)), np.float32)
    best = ant.squared_error(w, ant.choose(w))
    assert all(best <= ant.squared_error(w, parse(name)) for name in ant.TYPES)


def test_ant_takes_different_types():
    rng = np.random.default_rng(0)
    shapes = {
        "uniform": rng.uniform(-1, 1, (8, 1, 256)),
        "powers": np.exp2(rng.integers(-6, 1, (8, 1, 256))) * rng.choice([-1, 1], (8, 1, 256)),
    }
    found = {name: ant.choose(w.astype(np.float32)).name for name, w in shapes.items()}
    assert found["uniform"] == "int4"
    assert found["powers"] == "pot4"


@pytest.mark.parametrize("method", ["nearest", "mse"])
def test_olive_beats_int4_with_planted_outliers(method):
    w = weights_of(16, 1, 512) * 0.1
    rng = np.random.default_rng(5)
    for row in w:
        row[0, rng.choice(512, 4, replace=False)] = rng.choice([-1, 1], 4) * 1.2
    errors = {}
    for name in ("int4", "olive4"):
        fmt = parse(name)
        quant = methods.fit(w, fmt, method, None)
        errors[name] = float(np.square(w - codec.real(fmt.quantize(w, quant), quant)).sum())
    assert errors["olive4"] < 0.7 * errors["int4"], errors


def test_unknown_methods_name_the_nearest():
    with pytest.raises(UsageError, match=r"no method 'gtpq'. Did you mean 'gptq'"):
        methods.check("gtpq")


# Graph rewrites: the float function stays.


def network(seed: int, kinds: list[str], activation: str | None) -> tuple[Graph, np.ndarray]:
    """Convolutions (some depthwise), pooling, then linear layers."""
    rng = np.random.default_rng(seed)
    tensors, nodes, head = {"x": Tensor("x", (1, 3, 8, 8))}, [], "x"

    def add(op: str, *constants: np.ndarray, **attrs: Any) -> None:
        nonlocal head
        names = [head]
        for i, data in enumerate(constants):
            names.append(f"{op}{len(nodes)}_{i}")
            tensors[names[-1]] = Tensor(names[-1], data.shape, "float32", data.astype(np.float32))
        node = Node(op, f"n{len(nodes)}", tuple(names), (f"t{len(nodes)}",), attrs)
        nodes.append(node)
        tensors.update((t.name, t) for t in ops.describe_outputs(node, tensors))
        head = node.outputs[0]

    fused = {"LeakyRelu": ("LeakyRelu", 0.1), None: None}.get(activation, (activation,))
    for kind in kinds:
        channels = tensors[head].shape[1]
        if kind == "pool":
            if tensors[head].shape[-1] > 1:
                add("MaxPool", **POOL)
        elif kind == "depthwise":
            w = rng.normal(size=(channels, 1, 3, 3)) * rng.lognormal(0, 2, (channels, 1, 1, 1))
            add("Conv", w, rng.normal(size=channels), activation=fused,
                **{**WINDOW, "group": channels})  # fmt: skip
        else:
            w = rng.normal(size=(5, channels, 3, 3)) * rng.lognormal(0, 2, (5, 1, 1, 1))
            add("Conv", w / np.sqrt(9 * channels), rng.normal(size=5), activation=fused, **WINDOW)
    size = int(np.prod(tensors[head].shape))
    add("Reshape", shape=(1, size))
    for n in (8, 6, 4):
        k = tensors[head].shape[-1]
        last = fused if n == 8 else None
        add("Linear", rng.normal(size=(k, n)) / np.sqrt(k), rng.normal(size=n), activation=last)
    graph = Graph("net", tensors, tuple(nodes), ("x",), (head,)).verify()
    return graph, rng.normal(size=(6, 3, 8, 8)).astype(np.float32)


def same_function(before: Graph, after: Graph, x: np.ndarray) -> None:
    after.verify()
    expected = ops.evaluate(before, {"x": x})[before.outputs[0]]
    found = ops.evaluate(after, {"x": x})[after.outputs[0]]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


networks = given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(["conv", "depthwise", "pool"]), min_size=1, max_size=4),
    st.sampled_from(["Relu", "LeakyRelu", None]),
)


@settings(max_examples=25, deadline=None)
@networks
def test_equalization_changes_no_output(seed, kinds, activation):
    graph, x = network(seed, kinds, activation)
    after = equalize.equalize(graph)
    same_function(graph, after, x)
    for pair in fold.pairs(after):
        before, behind = fold.output_ranges(after, pair.first), fold.input_ranges(after, pair)
        alive = (before > 1e-6) & (behind > 1e-6)
        np.testing.assert_allclose(np.log(before / behind)[alive], 0, atol=0.1)


@settings(max_examples=15, deadline=None)
@networks
def test_smoothing_changes_no_output(seed, kinds, activation):
    graph, x = network(seed, kinds, activation)
    same_function(graph, smoothing.smooth(graph, [{"x": x}]), x)


@settings(max_examples=15, deadline=None)
@networks
def test_awq_factors_change_no_output(seed, kinds, activation):
    graph, x = network(seed, kinds, activation)
    for name in [pair.second.outputs[0] for pair in fold.pairs(graph)]:
        node = graph.producers()[name]
        seen = observe(graph, [{"x": x}], [node])[name]
        after = awq.scale_layer(graph, node, parse("int4"), seen)
        same_function(graph, after, x)


@settings(max_examples=15, deadline=None)
@networks
def test_rotation_changes_no_output(seed, kinds, activation):
    graph, x = network(seed, kinds, activation)
    after = hadamard.rotate(graph)
    same_function(graph, after, x)
    turned = [n for n, t in after.tensors.items() if t.data is not None and t is not graph[n]]
    assert len(turned) >= 3  # both sides of the pair of linear layers, and the bias between


def test_smoothing_moves_outliers_into_the_weights():
    graph, x = network(3, ["conv", "conv"], "Relu")
    after = smoothing.smooth(graph, [{"x": x}], 0.5)
    name = graph.nodes[0].outputs[0]
    spread = []
    for g in (graph, after):
        largest = np.abs(ops.evaluate(g, {"x": x}, keep=[name])[name]).max(axis=(0, 2, 3))
        spread.append(largest.max() / largest[largest > 0].min())
    assert spread[1] < 0.7 * spread[0]
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        smoothing.smooth(graph, [{"x": x}], 1.5)


def test_rotation_is_orthogonal_and_spreads_a_spike():
    for n in (8, 12, 7):
        q = hadamard.rotation(n)
        np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-12)
    assert np.abs(np.eye(8)[0] @ hadamard.rotation(8)).max() == pytest.approx(8**-0.5)


def test_no_factor_moves_past_what_it_would_change():
    """A second reader, a sigmoid, a clip and a graph output all stop it."""
    graph, _ = network(0, ["conv", "conv"], "Relu")
    assert len(list(fold.pairs(graph))) == 4
    first = graph.nodes[0]
    read_twice = graph.replace(outputs=(*graph.outputs, first.outputs[0]))
    assert all(pair.first is not first for pair in fold.pairs(read_twice))
    for attrs in ({"activation": ("Clip", 0.0, 6.0)},):
        nodes = (first.with_attrs(**attrs), *graph.nodes[1:])
        assert len(list(fold.pairs(graph.replace(nodes=nodes)))) == 3
