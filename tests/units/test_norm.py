"""LayerNorm and RMSNorm by every method: stated bounds, exact statistics, degenerate rows."""

from __future__ import annotations

import numpy as np
import pytest

import rows
from weft.errors import InputError
from weft.nonlinear import METHODS
from weft.units.fixed import ONE
from weft.units.norm import INorm, Norm

NORMS = [m for m in METHODS.values() if m.of.row and m.function != "softmax"]
every_method = pytest.mark.parametrize("method", NORMS, ids=lambda m: f"{m.function}-{m.name}")


@every_method
def test_rows_are_within_their_bounds(method):
    checked = 0
    for n in (*rows.LENGTHS, 4096):
        for what, x in rows.elements(n):
            if isinstance(method.unit, INorm):
                x = x[x.std(-1) >= 100] if n >= 32 else x[:0]
            z = method.of.real(x.astype(np.float64))
            inside = np.abs(z) < 7.99
            error = np.abs(method.output.decode(method.golden(x)) - z)[inside]
            checked += error.size
            assert (error <= method.error).all(), f"{what}, {n}: {error.max()}"
    assert checked > 100_000


@every_method
def test_rows_without_deviation_are_zero(method):
    value = 0 if method.function == "rmsnorm" else 77
    for n in (1, 7, 768):
        assert not method.golden(np.full((1, n), value)).any()


@pytest.mark.parametrize("name", [m.name for m in NORMS if m.function == "layernorm"])
def test_a_layer_norm_does_not_see_the_mean(name):
    """The mean is never rounded (but by I-BERT, where a whole mean moves with the row)."""
    x = np.random.default_rng(0).integers(-3000, 3000, (20, 97))
    golden = METHODS["layernorm", name].golden
    np.testing.assert_array_equal(golden(x), golden(x + 12_345))


def test_mean_and_variance_are_exact_where_float32_fails():
    """sigma 1 about a mean of 10,000: E[x²] − mean² in float32 is negative, here it is exact."""
    x = np.random.default_rng(0).normal(10_000, 1, (10, 768)).round().astype(np.int64)
    narrow = x.astype(np.float32)
    assert ((narrow * narrow).mean(-1) - narrow.mean(-1) ** 2 <= 0).any()
    method = METHODS["layernorm", "pwl"]
    z = method.of.real(x.astype(np.float64))
    assert np.abs(method.output.decode(method.golden(x)) - z).max() <= method.error


def test_ibert_is_within_the_published_bound():
    """|g|(0.5/sigma + |z|/(sigma sqrt n) + |z|/(8 sigma²)), before the output's rounding."""
    for n in (32, 768):
        for sigma in (5, 20, 100, 1000):
            x = np.random.default_rng(n).normal(3, sigma, (200, n)).round().astype(np.int64)
            z = METHODS["layernorm", "ibert"].of.real(x.astype(np.float64))
            got = INorm().raw(x) * np.sqrt(n) / 2**30
            s = x.std(-1, keepdims=True)
            bound = 0.5 / s + np.abs(z) / (s * np.sqrt(n)) + np.abs(z) / (8 * s * s)
            assert (np.abs(got - z) <= 1.02 * bound).all()


def test_gamma_beta_and_epsilon():
    x = np.random.default_rng(0).normal(0, 3000, (5, 64)).round().astype(np.int64)
    unit = METHODS["layernorm", "pwl"].unit
    assert isinstance(unit, Norm)
    gamma, beta = np.linspace(-2, 2, 64), np.linspace(-1, 1, 64)
    got = unit(x, np.rint(gamma * 4096), np.rint(beta * (1 << 22)))
    z = METHODS["layernorm", "pwl"].of.real(x.astype(np.float64))
    assert np.abs(got / 4096 - (z * gamma + beta)).max() < 2 * 0.0024 + 2 * 2.0**-12
    # An epsilon as large as the variance divides by sqrt 2.
    variance = int(64**2 * x[0].var())
    halved = unit.normal(x[:1], epsilon=variance) / 1024
    assert np.abs(halved - z[0] / np.sqrt(2)).max() < 0.003
    assert ONE == 1 << 15


def test_rows_that_are_too_long_are_named():
    with pytest.raises(InputError, match="a row of 4097 elements: norms take 1 to 4096"):
        METHODS["rmsnorm", "pwl"].golden(np.zeros((1, 4097), np.int64))
