"""Patterns of zeros and the criteria that choose them, against references that share no code."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import UsageError
from weft.pruning import magnitude, masks, sparsegpt, wanda
from weft.pruning.criteria import CRITERIA, NEED_DATA, criterion
from weft.pruning.spec import DENSE, Sparsity, parse
from weft.quantization.statistics import Statistics

RNG = np.random.default_rng(7)


def statistics(rows: np.ndarray) -> Statistics:
    """Of rows [n, K]."""
    found = Statistics.empty(1, rows.shape[1], rows.shape[1])
    found.add(rows[:, None, :], rows)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:4", Sparsity("nm", 2, 4)),
        ("1:16", Sparsity("nm", 1, 16)),
        ("64:2:8", Sparsity("venom", 2, 8, 64)),
        ("csc:0.9", Sparsity("csc", fraction=0.9)),
        ("eie:.9", Sparsity("csc", fraction=0.9)),
        ("snap:0.5", Sparsity("snap", fraction=0.5)),
        ("bitmask:0", Sparsity("bitmask", fraction=0.0)),
        ("dense", DENSE),
    ],
)
def test_texts_name_patterns_and_canonical_texts_come_back(text: str, expected: Sparsity) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4:4", "0 < N < M <= 16"),
        ("0:4", "0 < N < M <= 16"),
        ("2:17", "0 < N < M <= 16"),
        ("64:4:8", "64:2:8"),
        ("0:2:8", "V >= 1"),
        ("csc:1", "0 <= f < 1"),
        ("csc:nan", "0 <= f < 1"),
        ("csc", "csc:0.5"),
        ("snap:-0.5", "0 <= f < 1"),
        ("bitmsk:0.5", "Did you mean 'bitmask:0.5'"),
        ("", "no sparsity"),
    ],
)
def test_other_texts_are_usage_errors(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert said in str(caught.value)


@st.composite
def weights_and_pattern(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    m = draw(st.integers(2, 16))
    n = draw(st.integers(1, m - 1))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 40)))
    seed = draw(st.integers(0, 2**32 - 1))
    # Few different values, so that ties are common.
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32), n, m


@given(weights_and_pattern())
def test_each_group_keeps_its_n_largest(case: tuple[np.ndarray, int, int]) -> None:
    weights, n, m = case
    mask = masks.select(np.abs(weights), Sparsity("nm", n, m))
    flat = (a.reshape(-1, weights.shape[2]) for a in (weights, mask))
    for row, kept in zip(*flat, strict=True):
        for i in range(0, len(row), m):
            group, own = np.abs(row[i : i + m]), kept[i : i + m]
            assert own.sum() == min(n, len(group))
            assert sorted(group[own]) == sorted(group)[len(group) - own.sum() :]


def test_two_of_four_retains_as_much_as_the_best_of_the_six_patterns() -> None:
    weights = RNG.normal(size=(32, 1, 64)).astype(np.float32)
    kept = np.abs(magnitude.prune(weights, parse("2:4"))).reshape(-1, 4).sum(axis=1)
    groups = np.abs(weights).reshape(-1, 4)
    best = np.max([groups[:, list(p)].sum(axis=1) for p in itertools.combinations(range(4), 2)], 0)
    np.testing.assert_allclose(kept, best, rtol=1e-6)


def test_a_large_matrix_gets_its_mask_at_once() -> None:
    scores = RNG.random((4096, 1, 4096), np.float32)
    begin = time.perf_counter()
    mask = masks.select(scores, parse("2:4"))
    assert time.perf_counter() - begin < 3  # about 0.2 s on an idle core
    assert mask.mean() == 0.5


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.94])
def test_unstructured_magnitude_is_torchs(fraction: float) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune as reference

    weights = RNG.normal(size=(10, 3, 10)).astype(np.float32)
    layer = torch.nn.Linear(30, 10)
    layer.weight.data = torch.from_numpy(weights.reshape(10, 30))
    if fraction:
        reference.l1_unstructured(layer, "weight", fraction)
    expected = layer.weight.detach().numpy().reshape(weights.shape)
    np.testing.assert_array_equal(
        magnitude.prune(weights, Sparsity("csc", fraction=fraction)), expected
    )


def test_torch_takes_the_two_of_four_weights_as_semi_structured() -> None:
    pytest.importorskip("torch")
    import torch
    from torch.sparse import _semi_structured_conversions as torchs

    weights = RNG.normal(size=(64, 1, 128)).astype(np.float32)
    dense = torch.from_numpy(magnitude.prune(weights, parse("2:4"))[:, 0, :]).half()
    values, meta = torchs.sparse_semi_structured_from_dense_cutlass(dense)
    again = torchs.sparse_semi_structured_to_dense_cutlass(values, meta)
    assert torch.equal(again, dense)


def test_venom_keeps_four_columns_of_a_block_and_two_in_each_row() -> None:
    weights = RNG.normal(size=(10, 2, 19)).astype(np.float32)
    mask = magnitude.prune(weights, parse("4:2:8")) != 0
    for row in range(0, 10, 4):
        for tap in range(2):
            for i in range(0, 19, 8):
                block = mask[row : row + 4, tap, i : i + 8]
                assert block.any(axis=0).sum() <= 4
                np.testing.assert_array_equal(block.sum(axis=1), 2)


def test_wanda_prunes_what_the_papers_example_does() -> None:
    weights = np.array([0.5, -0.1, 0.3, 0.2], np.float32).reshape(1, 1, 4)
    seen = statistics(np.diag([1.0, 10, 1, 2]).astype(np.float32) * 2)  # norms 1 10 1 2
    np.testing.assert_allclose(wanda.scores(weights, seen).ravel(), [0.5, 1.0, 0.3, 0.4], rtol=1e-6)
    kept = wanda.prune(weights, parse("2:4"), seen).ravel() != 0
    np.testing.assert_array_equal(kept, [True, True, False, False])
    kept = magnitude.prune(weights, parse("2:4")).ravel() != 0
    np.testing.assert_array_equal(kept, [True, False, True, False])


def textbook_sparsegpt(w: np.ndarray, x: np.ndarray, n: int, m: int) -> np.ndarray:
    """Algorithm 1 without blocks: the inverse Hessian is reduced column by column."""
    w = w.astype(np.float64).copy()
    h = x.T @ x / len(x)
    h[np.diag_indices(len(h))] += 0.01 * np.diagonal(h).mean()
    inverses = []
    inverse = np.linalg.inv(h)
    for _ in range(len(h)):
        inverses.append(inverse)
        inverse = inverse[1:, 1:] - np.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    for k in range(len(h)):
        if k % m == 0:
            width = min(m, len(h) - k)
            pivots = np.array([inverses[k + j][0, 0] for j in range(width)])
            order = np.argsort(-(w[:, k : k + width] ** 2 / pivots), axis=1)
            dropped = order[:, n:]
        for row in range(len(w)):
            if k % m in dropped[row]:
                own = inverses[k]
                w[row, k:] -= w[row, k] / own[0, 0] * own[0]
                w[row, k] = 0
    return w


@pytest.mark.parametrize(("n", "m", "depth"), [(2, 4, 24), (1, 4, 150), (3, 7, 300)])
def test_sparsegpt_is_the_textbook_loop(n: int, m: int, depth: int) -> None:
    weights = RNG.normal(size=(6, 1, depth))
    x = (RNG.normal(size=(400, depth)) @ RNG.normal(size=(depth, depth))).astype(np.float32)
    found = sparsegpt.prune(weights, Sparsity("nm", n, m), statistics(x))[:, 0, :]
    expected = textbook_sparsegpt(weights[:, 0, :], x.astype(np.float64), n, m)
    np.testing.assert_array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("text", ["2:4", "4:8", "4:2:8", "csc:0.6"])
def test_criteria_with_data_cost_less_output_error_and_keep_the_pattern(text: str) -> None:
    weights = RNG.normal(size=(16, 3, 40)).astype(np.float32)
    x = RNG.normal(size=(500, 30)) @ RNG.normal(size=(30, 120)) * RNG.uniform(0.1, 3, 120)
    seen, sparsity = statistics(x.astype(np.float32)), parse(text)
    losses = {}
    for name, made in CRITERIA.items():
        pruned = made.prune(weights, sparsity, seen)
        assert masks.follows(pruned != 0, sparsity)
        assert pruned.dtype == np.float32
        losses[name] = seen.loss(weights - pruned).sum()
    assert losses["sparsegpt"] < losses["wanda"] < losses["magnitude"]


def test_criteria_have_names() -> None:
    assert set(NEED_DATA) < set(CRITERIA)
    with pytest.raises(UsageError, match="Did you mean 'magnitude'"):
        criterion("magnitud")
