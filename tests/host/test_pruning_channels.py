"""Channels that change places or go: the function of the network must not notice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_quantize import POOL, Net

from weft import ops
from weft.graph import Graph
from weft.passes.prune import decide, prune, weighted
from weft.pruning import channels, permute
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
