"""Sharing of weights, and the sizes that reports give."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_pruning_pass import network

from weft.errors import UsageError
from weft.passes.prune import prune
from weft.pruning import magnitude, report
from weft.pruning.share import Shared, share
from weft.pruning.spec import parse

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("bits", [2, 4, 5])
def test_shared_weights_are_lloyds_and_zeros_stay(bits: int) -> None:
    weights = magnitude.prune(RNG.normal(size=(20, 3, 32)).astype(np.float32), parse("csc:0.6"))
    made = share(weights, bits)
    assert made.codebook[0] == 0
    assert len(made.codebook) == 1 << bits
    np.testing.assert_array_equal(made.indices == 0, weights == 0)
    values = weights[weights != 0].astype(np.float64)
    centres = np.linspace(values.min(), values.max(), (1 << bits) - 1)
    for _ in range(30):
        nearest = np.abs(values[:, None] - centres).argmin(axis=1)
        for k in range(len(centres)):
            if (nearest == k).any():
                centres[k] = values[nearest == k].mean()
    np.testing.assert_allclose(made.codebook[1:], centres, atol=1e-5)


def test_few_values_are_kept_exactly() -> None:
    weights = np.array([[0, 1, -2.5], [1, 0, 0.25]], np.float32)
    np.testing.assert_array_equal(share(weights, 2).weights, weights)
    np.testing.assert_array_equal(share(np.zeros((2, 2)), 2).weights, np.zeros((2, 2)))
    with pytest.raises(UsageError, match="1 to 8"):
        share(weights, 9)


def test_centroids_move_with_the_summed_gradient() -> None:
    """The numbers of the paper's figure 3: four values, their gradients grouped and summed."""
    made = Shared(np.array([[1, 2], [1, 0]], np.uint8), np.array([0, 2.0, -1.0, 0], np.float32))
    gradient = np.array([[0.5, -1.0], [0.25, 9.0]])
    np.testing.assert_array_equal(made.gradient(gradient), [0, 0.75, -1, 0])
    np.testing.assert_array_equal(made.stepped(gradient, 1).codebook, [0, 1.25, 0, 0])


@pytest.mark.parametrize(
    ("text", "bits", "ratio"),
    [("2:4", 8, 0.625), ("2:4", 16, 0.5625), ("2:4", 4, 0.75), ("1:4", 8, 0.3125),
     ("1:4", 16, 0.28125), ("4:8", 8, 0.6875), ("4:8", 16, 0.59375)],
)  # fmt: skip
def test_groups_take_the_published_share_of_bytes(text: str, bits: int, ratio: float) -> None:
    weights = magnitude.prune(RNG.normal(size=(32, 1, 64)).astype(np.float32), parse(text))
    sizes = report.nbytes(weights != 0, bits, parse(text))
    assert sizes[text] == sizes["dense"] * ratio


@pytest.mark.parametrize(
    ("gap", "entries"), [(15, 1), (16, 2), (17, 2), (31, 2), (32, 3), (47, 3), (48, 4)]
)
def test_long_gaps_need_pads(gap: int, entries: int) -> None:
    column = np.zeros((gap + 20, 3), bool)
    column[gap, 1] = True
    assert report.eie_entries(column) == entries
    column[0, 2] = True
    assert report.eie_entries(column) == entries + 1
    assert report.eie_entries(0 * column) == 0


def test_rows_say_what_each_layer_has() -> None:
    made = prune(network(), "2:4")
    found = report.rows(made)
    assert [row.sparsity for row in found] == ["dense", "2:4", "dense", "2:4", "2:4"]
    for row in found:
        if row.sparsity == "2:4":
            assert row.density == 0.5
            assert row.histogram[:2] + row.histogram[3:] == (0, 0, 0, 0)
            assert row.nbytes["2:4"] < row.nbytes["dense"]
    json.dumps([row.as_dict() for row in found])
