"""LayerNorm, RMSNorm and Attention of the host, against onnxruntime and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import Net, run_onnx

from weft.errors import ShapeError
from weft.graph import Graph, Node, Tensor
from weft.ops import describe_outputs, evaluate

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
sizes = st.integers(1, 9)


def graph_of(op: str, arrays: dict[str, Any], fed: tuple[str, ...], **attrs: Any) -> Graph:
    """A graph of one operator: arrays in `fed` are inputs of the graph, others constants."""
    tensors = {}
    for name, a in arrays.items():
        if a is not None:
            data = None if name in fed else a
            tensors[name] = Tensor(name, (1, *a.shape[1:]) if name in fed else a.shape, data=data)
    names = tuple(name if a is not None else "" for name, a in arrays.items())
    node = Node(op, "n", names, ("y",), attrs)
    (out,) = describe_outputs(node, tensors)
    return Graph("g", {**tensors, "y": out}, (node,), fed, ("y",)).verify()


def run(op: str, arrays: dict[str, Any], fed: tuple[str, ...], **attrs: Any) -> np.ndarray:
    graph = graph_of(op, arrays, fed, **attrs)
    return evaluate(graph, {name: arrays[name] for name in fed})["y"]


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, scale, shape)).astype(np.float32)


def onnx_y(kind: str, arrays: list[Any], opset: int, **attrs: Any) -> np.ndarray:
    net = Net(opset=opset)
    names = ["" if a is None else net.add_input(f"x{i}", *a.shape) for i, a in enumerate(arrays)]
    model = net.model(net.op(kind, *names, **attrs))
    feeds = {name: a for name, a in zip(names, arrays, strict=True) if name}
    return np.asarray(run_onnx(model, feeds)[0])


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, st.integers(1, 70), st.booleans(), st.sampled_from([1e-12, 1e-5, 0.1]))
def test_layer_norm_is_onnxruntimes(n, rows, width, with_beta, epsilon):
    x, gamma = normal(n, n, rows, width, scale=3), normal(1, width)
    beta = normal(2, width) if with_beta else None
    found = run("LayerNorm", {"x": x, "g": gamma, "b": beta}, ("x",), epsilon=epsilon)
    known = [x, gamma] if beta is None else [x, gamma, beta]
    wanted = onnx_y("LayerNormalization", known, 17, epsilon=epsilon)
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, st.integers(1, 70), st.sampled_from([1e-12, 1e-5, 0.1]))
def test_rms_norm_is_its_definition(n, rows, width, epsilon):
    x, gamma = normal(n, n, rows, width, scale=3), normal(1, width)
    found = run("RMSNorm", {"x": x, "g": gamma}, ("x",), epsilon=epsilon)
    wide = x.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * gamma
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


def test_a_row_of_equal_values_is_beta_without_nan():
    x = np.full((2, 3, 8), 7.5, np.float32)
    beta = normal(0, 8)
    found = run("LayerNorm", {"x": x, "g": np.ones(8, np.float32), "b": beta}, ("x",), epsilon=0.0)
    np.testing.assert_array_equal(found, np.broadcast_to(beta, x.shape))
    zero = run("RMSNorm", {"x": x * 0, "g": np.ones(8, np.float32)}, ("x",), epsilon=0.0)
    np.testing.assert_array_equal(zero, 0)


attention_cases = given(
    st.integers(1, 3),
    sizes,
    sizes,
    st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from(["none", "shared", "per head"]),
)


def attention_arrays(n, rows, columns, heads, width, value_width, bias):
    shapes = {"none": None, "shared": (1, rows, columns), "per head": (heads[0], rows, columns)}
    return {
        "q": normal(1, n, rows, heads[0] * width, scale=2),
        "k": normal(2, n, columns, heads[1] * width, scale=2),
        "v": normal(3, n, columns, heads[1] * value_width),
        "bias": None if shapes[bias] is None else normal(4, *shapes[bias]),
    }


@pytest.mark.oracle
@settings(max_examples=40, deadline=None)
@attention_cases
def test_attention_is_onnxruntimes(n, rows, columns, heads, width, value_width, bias):
    arrays = attention_arrays(n, rows, columns, heads, width, value_width, bias)
    attrs = {"heads": heads[0], "kv_heads": heads[1], "scale": 0.3}
    found = run("Attention", arrays, ("q", "k", "v"), **attrs)
    added = arrays["bias"]
    if added is not None:
        added = np.broadcast_to(added, (n, heads[0], rows, columns))
    known = [arrays["q"], arrays["k"], arrays["v"], *([] if added is None else [added])]
    wanted = onnx_y("Attention", known, 23, q_num_heads=heads[0], kv_num_heads=heads[1], scale=0.3)
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


@pytest.mark.oracle
@settings(max_examples=20, deadline=None)
@given(sizes, st.sampled_from([(1, 1), (4, 2)]), st.integers(1, 8), st.integers(0, 4))
def test_causal_attention_and_windows_are_masks(rows, heads, width, reach):
    """The mask that an attribute means, given to onnxruntime as numbers."""
    arrays = attention_arrays(2, rows, rows, heads, width, width, "none")
    attrs = {"heads": heads[0], "kv_heads": heads[1], "scale": 1.0}
    away = np.arange(rows) - np.arange(rows)[:, None]
    for own, seen in (
        ({"causal": 1}, away <= 0),
        ({"left": -reach, "right": reach}, abs(away) <= reach),
        ({"left": -reach, "causal": 1}, (away <= 0) & (away >= -reach)),
    ):
        found = run("Attention", arrays, ("q", "k", "v"), **attrs, **own)
        mask = np.where(seen, 0, -1e30).astype(np.float32)
        known = [arrays["q"], arrays["k"], arrays["v"], np.broadcast_to(mask, (2, 1, *mask.shape))]
        wanted = onnx_y(
            "Attention", known, 23, q_num_heads=heads[0], kv_num_heads=heads[1], scale=1.0
        )
        np.testing.assert_allclose(found, wanted, **TOLERANCE)


def with_keys(counts: list[int], rows: int = 5) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    arrays: dict[str, Any] = attention_arrays(len(counts), rows, rows, (4, 4), 3, 3, "none")
    arrays["keys"] = np.asarray(counts, np.int64).reshape(-1, 1)
    graph = graph_of(
        "Attention", arrays, ("q", "k", "v", "keys"), heads=4, kv_heads=4, scale=0.5, causal=0
    )
    feeds = {name: arrays[name] for name in graph.inputs}
    return evaluate(graph, feeds)["y"], arrays


def test_keys_of_a_sample_are_those_that_are_there():
    counts = [5, 3, 1]
    found, arrays = with_keys(counts)
    for i, count in enumerate(counts):
        part = {n: arrays[n][i : i + 1] for n in "qkv"}
        part |= {"k": part["k"][:, :count], "v": part["v"][:, :count], "bias": None}
        alone = run("Attention", part, ("q", "k", "v"), heads=4, kv_heads=4, scale=0.5)
        np.testing.assert_allclose(found[i : i + 1], alone, **TOLERANCE)


def test_a_sample_of_nothing_but_padding_is_zero():
    found, _ = with_keys([0, 5])
    np.testing.assert_array_equal(found[0], 0)
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("level", [0.0, 1e30, -1e30])
def test_equal_scores_give_the_mean_of_the_values(level):
    arrays: dict[str, Any] = attention_arrays(1, 3, 7, (1, 1), 4, 4, "none")
    arrays |= {"q": arrays["q"] * 0, "bias": np.full((1, 3, 7), level, np.float32)}
    found = run("Attention", arrays, ("q", "k", "v"), heads=1, kv_heads=1, scale=1.0)
    mean = arrays["v"].mean(1, keepdims=True)
    np.testing.assert_allclose(found, np.broadcast_to(mean, found.shape), **TOLERANCE)


def test_a_norm_of_heads_is_that_of_each_one():
    """The channels behind those that have a factor are none of it, and 0."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 4, 15)).astype(np.float32)
    gamma = random.normal(size=3).astype(np.float32)
    names = ("x", "gamma")
    found = run("RMSNorm", {"x": x, "gamma": gamma}, names[:1], epsilon=1e-5, heads=3)
    for head in range(3):
        part = {"x": x[..., 5 * head : 5 * head + 3], "gamma": gamma}
        expected = run("RMSNorm", part, names[:1], epsilon=1e-5)
        np.testing.assert_allclose(found[..., 5 * head : 5 * head + 3], expected, **TOLERANCE)
        assert not found[..., 5 * head + 3 : 5 * head + 5].any()
    with pytest.raises(ShapeError, match="gamma of shape"):
        run("RMSNorm", {"x": x, "gamma": gamma}, names[:1], epsilon=1e-5, heads=15)


def test_a_bias_by_distance_is_that_of_every_pair():
    """Written out, and masked as it is causal."""
    arrays: dict[str, Any] = attention_arrays(1, 5, 5, (2, 2), 4, 4, "none")
    biases = np.random.default_rng(3).normal(size=(2, 9)).astype(np.float32)
    whole = np.zeros((2, 5, 5), np.float32)
    for head, query, key in np.ndindex(whole.shape):
        whole[head, query, key] = biases[head, query - key] if key <= query else 7.0
    attrs = {"heads": 2, "kv_heads": 2, "scale": 0.5, "causal": 1}
    expected = run("Attention", {**arrays, "bias": whole}, ("q", "k", "v"), **attrs)
    found = run("Attention", {**arrays, "bias": biases}, ("q", "k", "v"), **attrs, cache=9)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": (1, 5)}, r"\[1, S, width\]"),
        ({"v": (1, 6, 8)}, r"twice \[1, T"),
        ({"k": (1, 5, 12)}, "heads of one width"),
        ({"bias": (2, 5, 5)}, r"bias of shape \(2, 5, 5\), expected \(1, 5, 5\) or \(4, 5, 5\)"),
        ({"keys": (1, 5)}, "keys of shape"),
    ],
)
def test_attention_that_does_not_fit(change, words):
    shapes = {"q": (1, 5, 8), "k": (1, 5, 8), "v": (1, 5, 8), "bias": None, "keys": None} | change
    arrays = {n: None if s is None else np.zeros(s, np.float32) for n, s in shapes.items()}
    with pytest.raises(ShapeError, match=words):
        graph_of("Attention", arrays, ("q", "k", "v"), heads=4, kv_heads=4, scale=1.0)


def test_heads_in_uneven_groups_and_wrong_norms():
    arrays: dict[str, Any] = attention_arrays(1, 2, 2, (4, 4), 2, 2, "none")
    with pytest.raises(ShapeError, match="4 heads in groups of 3"):
        graph_of("Attention", arrays, ("q",), heads=4, kv_heads=3, scale=1.0)
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(ShapeError, match="gamma of shape"):
        graph_of("RMSNorm", {"x": x, "g": np.ones(3, np.float32)}, ("x",), epsilon=0.0)
    with pytest.raises(ShapeError, match="epsilon = -1"):
        graph_of("RMSNorm", {"x": x, "g": np.ones(4, np.float32)}, ("x",), epsilon=-1.0)


@pytest.mark.oracle
def test_torch_agrees():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch.nn import functional

    x, gamma, beta = normal(0, 3, 5, 48, scale=4), normal(1, 48), normal(2, 48)
    t = torch.tensor
    wanted = functional.layer_norm(t(x), (48,), t(gamma), t(beta), 1e-12).numpy()
    found = run("LayerNorm", {"x": x, "g": gamma, "b": beta}, ("x",), epsilon=1e-12)
    np.testing.assert_allclose(found, wanted, **TOLERANCE)
    wanted = functional.rms_norm(t(x), (48,), t(gamma), 1e-6).numpy()
    found = run("RMSNorm", {"x": x, "g": gamma}, ("x",), epsilon=1e-6)
    np.testing.assert_allclose(found, wanted, **TOLERANCE)
    for form in ("none", "tanh"):
        wanted = functional.gelu(t(x), approximate=form).numpy()
        np.testing.assert_allclose(
            run("Gelu", {"x": x}, ("x",), approximate=form), wanted, **TOLERANCE
        )
    heads = [t(normal(i, 3, 5, 4, 12)).transpose(1, 2) for i in range(3)]
    for causal in (False, True):
        wanted = functional.scaled_dot_product_attention(*heads, is_causal=causal)
        arrays: dict[str, Any] = {
            name: h.transpose(1, 2).reshape(3, 5, 48).numpy()
            for name, h in zip("qkv", heads, strict=True)
        }
        attrs = {"heads": 4, "kv_heads": 4, "scale": 12**-0.5, "causal": int(causal)}
        found = run("Attention", arrays, ("q", "k", "v"), **attrs)
        np.testing.assert_allclose(
            found, wanted.transpose(1, 2).reshape(3, 5, 48).numpy(), **TOLERANCE
        )
