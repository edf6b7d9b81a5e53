"""Channels that change places or go: the function of the network must not notice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from test_quantize import POOL, Net

from weft import ops
from weft.errors import UsageError
from weft.graph import Graph
from weft.passes.prune import decide, prune, weighted
from weft.pruning import channels, permute, structured
from weft.quantization import codec

RNG = np.random.default_rng(3)
WINDOW = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}


def network(residual: bool = False) -> Graph:
    """Convolutions with what channels go through between them, then flattened into a Linear."""
    net = Net(1, 3, 8, 8)
    y = net.conv("x", 16)
    norm = [RNG.uniform(0.5, 2, 16).astype(np.float32) for _ in range(4)]
    y = net.add("Relu", net.add("BatchNormalization", y, *norm, epsilon=1e-3))
    taps = RNG.normal(size=(16, 1, 3, 3)).astype(np.float32)
    y = net.add("Conv", y, taps, RNG.normal(size=16).astype(np.float32), group=16, **WINDOW)
    y = net.add("MaxPool", y, **POOL)
    z = net.add("Relu", net.conv(y, 16, 1))
    if residual:
        z = net.add("Add", z, net.conv(y, 16, 1))
    y = net.add("Clip", net.conv(z, 8, 1), min=0.0, max=6.0)
    y = net.add("Reshape", y, shape=(1, int(np.prod(net.tensors[y].shape))))
    y = net.add("Relu", net.linear(y, 12, RNG.normal(size=12).astype(np.float32)))
    return net.graph(net.linear(y, 4))


def outputs(graph: Graph) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (y,) = ops.evaluate(graph, {"x": x}).values()
    return y


def same(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("residual", [False, True])
def test_any_order_of_channels_is_the_same_function(residual: bool) -> None:
    graph = network(residual)
    expected = outputs(graph)
    reasons = []
    for name in [node.outputs[0] for node in weighted(graph)]:
        path = channels.follow(graph, graph.producers()[name])
        reasons.append(path.reason)
        if not path.reason:
            graph = channels.take(graph, path, RNG.permutation(path.channels))
    same(outputs(graph), expected)
    assert sum(not r for r in reasons) == (3 if residual else 4)
    assert "output" in reasons[-1]
    assert any("joins" in r for r in reasons) == residual


def best_retained(matrix: np.ndarray) -> float:
    """2:4 of eight columns: all 35 ways to split them."""
    found = []
    for rest in itertools.combinations(range(1, 8), 3):
        one = [0, *rest]
        other = [i for i in range(8) if i not in one]
        found.append(permute.retained(matrix[:, one + other], 2, 4))
    return max(found)


def test_swaps_find_nearly_the_best_of_all_splits() -> None:
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        matrix = np.abs(rng.normal(size=(6, 8)) * rng.exponential(size=8)).astype(np.float32)
        order = permute.search(matrix, 2, 4)
        assert sorted(order) == list(range(8))
        found = permute.retained(matrix[:, order], 2, 4)
        assert found >= permute.retained(matrix, 2, 4)
        shares.append(found / best_retained(matrix))
    assert max(shares) <= 1 + 1e-6
    assert np.mean(shares) > 0.995


@pytest.mark.parametrize("text", ["2:4", "1:4", "2:8"])
def test_permutation_retains_more_and_changes_no_function(text: str) -> None:
    graph = network()
    chosen = {name: d.sparsity for name, d in decide(graph, text).items()}
    ordered = permute.permuted(graph, chosen)
    same(outputs(ordered), outputs(graph))

    def kept(made: Graph) -> float:
        layers = [n for n in weighted(made) if "sparsity" in n.attrs]
        parts = [codec.canonical(np.asarray(made[n.inputs[1]].data), n.op) for n in layers]
        return float(sum(np.abs(part).sum() for part in parts))

    assert kept(prune(graph, text, permute=True)) > 1.005 * kept(prune(graph, text))


def masked(graph: Graph, gone: dict[str, list[int]]) -> Graph:
    """The full graph whose readers have zeros for channels that are gone (by layer name)."""
    tensors = dict(graph.tensors)
    for name in [n.outputs[0] for n in weighted(graph)]:
        path = channels.follow(graph, graph.producers()[name])
        for reader, repeat in path.readers:
            key = reader.inputs[1]
            data = np.array(tensors[key].data)
            axis = 0 if reader.op == "Linear" else 1
            for channel in gone.get(path.first.name, []):
                index = [slice(None)] * data.ndim
                index[axis] = slice(channel * repeat, (channel + 1) * repeat)
                data[tuple(index)] = 0
            tensors[key] = replace(tensors[key], data=data)
    return graph.replace(tensors=tensors)


@pytest.mark.parametrize("criterion", structured.CRITERIA)
@pytest.mark.parametrize("residual", [False, True])
def test_the_smaller_graph_is_the_masked_one(criterion: str, residual: bool) -> None:
    graph = network(residual)
    made = structured.filters(graph, 0.5, criterion=criterion)
    gone = {}
    for node in weighted(graph):
        if node.name not in made.kept:
            continue
        path = channels.follow(graph, node)
        # Norms as they are when a layer's turn comes: its inputs are fewer by then.
        weights = np.asarray(masked(graph, gone)[node.inputs[1]].data)
        axes = (1, 2, 3) if node.op == "Conv" else (0,)
        norms = np.abs(weights.astype(np.float64)).sum(axis=axes)
        if criterion == "gain":
            norms = np.abs(np.asarray(graph[path.passing[0].inputs[1]].data))
        gone[node.name] = sorted(np.argsort(norms)[: path.channels // 2].tolist())
    same(outputs(made.graph), outputs(masked(graph, gone)))
    assert made.kept
    assert all(2 * one == total for one, total in made.kept.values())
    size = sum(np.asarray(made.graph[n.inputs[1]].data).size for n in weighted(made.graph))
    assert size < 0.8 * sum(np.asarray(graph[n.inputs[1]].data).size for n in weighted(graph))
    assert any("joins" in reason for reason in made.reasons.values()) == residual


def test_shares_per_layer_and_what_can_not_be() -> None:
    graph = network()
    names = list(structured.filters(graph, 0.0).kept)
    made = structured.filters(graph, 0.0, layers={names[0]: 0.99})
    assert made.kept[names[0]] == (1, 16)
    assert all(one == total for n, (one, total) in made.kept.items() if n != names[0])
    for arguments in ({"fraction": 1.0}, {"fraction": 0.5, "criterion": "l2"},
                      {"fraction": 0.5, "layers": {"nosuch": 0.5}}):  # fmt: skip
        with pytest.raises(UsageError):
            structured.filters(graph, **arguments)


def test_kernels_with_the_smallest_norm_are_zero() -> None:
    graph = network()
    made = structured.prune_kernels(graph, 0.75)
    for before, after in zip(weighted(graph), weighted(made), strict=True):
        one, other = (np.asarray(g[n.inputs[1]].data) for g, n in ((graph, before), (made, after)))
        if one.ndim < 4 or one.shape[2:] == (1, 1):
            np.testing.assert_array_equal(one, other)
            continue
        norms, kept = np.abs(one).sum(axis=(2, 3)), (other != 0).any(axis=(2, 3))
        assert kept.sum() == norms.size // 4
        assert norms[kept].min() > norms[~kept].max()
        np.testing.assert_array_equal(other[kept], one[kept])
