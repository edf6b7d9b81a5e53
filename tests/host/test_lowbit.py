"""Quantizers of training against the papers' vectors, and the identities that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import InputError
from weft.lowbit import binary, ternary, vision

VECTOR = np.array([0.9, -0.8, 0.1, -0.05, 0.6, -0.02, 0.3, 0])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_twn_of_the_vector() -> None:
    codes, scale = ternary.twn(VECTOR)
    np.testing.assert_array_equal(codes, [1, -1, 0, 0, 1, 0, 1, 0])
    assert scale == np.float32(0.65)
    assert pytest.approx(0.242375, rel=1e-12) == ternary.THRESHOLD * np.abs(VECTOR).mean()


def test_channels_are_ternarized_alone() -> None:
    w = normal(5, 3, 3, 4)
    for rule in (ternary.twn, ternary.lat, ternary.bitnet):
        codes, scale = rule(w, per_channel=True)
        assert codes.shape == w.shape
        assert scale.shape == (5,)
        for channel in range(5):
            alone, own = rule(w[channel])
            np.testing.assert_array_equal(codes[channel], alone)
            assert scale[channel] == own


def test_lat_is_a_fixed_point_and_better_than_twn() -> None:
    w, d = normal(40, 50), np.abs(normal(40, 50, seed=1))
    for curvature, weight in ((None, np.ones_like(w)), (d, d)):
        codes, scale = ternary.lat(w, curvature, steps=50)
        again = np.rint(np.clip(w / scale, -1, 1))
        np.testing.assert_array_equal(codes, again)
        first, alpha = ternary.twn(w)
        error = (weight * (w - scale * codes) ** 2).sum()
        assert error <= (weight * (w - alpha * first) ** 2).sum()


def test_zeros_stay_zero() -> None:
    for rule in (ternary.twn, ternary.lat, ternary.bitnet):
        codes, scale = rule(np.zeros((2, 3)))
        assert not codes.any()
        assert np.isfinite(scale)
    with pytest.raises(InputError, match=r"\(2, 3\) are all zero"):
        binary.split(np.zeros((2, 3)))


def test_bitnet_rule() -> None:
    codes, scale = ternary.bitnet(np.array([0.1, -1.0, 0.4, 0.5]))
    np.testing.assert_array_equal(codes, [0, -1, 1, 1])
    assert scale == np.float32(0.5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_split_ternary_weights_are_two_binary_ones(seed: int, size: int) -> None:
    w = normal(size, seed=seed)
    first, second = binary.split(w)
    np.testing.assert_allclose(first + second, w, rtol=0, atol=1e-15)
    codes, alpha = ternary.twn(w)
    (a, s), (b, t) = binary.binarize(first), binary.binarize(second)
    assert s == pytest.approx(t, rel=1e-6)
    np.testing.assert_allclose(s * a.astype(float) + t * b, alpha * codes, atol=1e-6 * alpha)
    np.testing.assert_array_equal((a.astype(int) + b) // 2, codes)


def test_split_of_the_vector_is_exact() -> None:
    first, second = binary.split(VECTOR)
    assert np.abs(first + second - VECTOR).max() <= 2e-16
    np.testing.assert_array_equal(
        binary.sign(first).astype(int) + binary.sign(second), [2, -2, 0, 0, 2, 0, 2, 0]
    )


def test_sign_of_zero_is_plus_one() -> None:
    np.testing.assert_array_equal(binary.sign(np.array([-1e-30, -0.0, 0.0, 1e-30])), [-1, 1, 1, 1])
    assert binary.binarize(np.zeros(3))[0].tolist() == [1, 1, 1]
    assert binary.elastic(np.array([0.5]), 2.0, 0.5)[0] == 2


def test_centred_binary_weights() -> None:
    w = np.array([[1.0, 2.0, 6.0], [-1.0, 0.0, 1.0]])
    codes, scale = binary.binarize(w, per_channel=True, centred=True)
    np.testing.assert_array_equal(codes, [[-1, -1, 1], [-1, 1, 1]])
    np.testing.assert_array_equal(scale, np.float32([3, 2 / 3]))


def test_elastic_binarization() -> None:
    x = np.array([-3, -0.2, 0.3, 0.9, 5])
    np.testing.assert_array_equal(binary.elastic(x, 0.5, 0.25), [-0.5, -0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(binary.elastic(x, 0.5, 0.25, unit=True), [0, 0, 0, 0.5, 0.5])


def test_twin_softmax_vectors() -> None:
    twin = vision.TwinSoftmax(8, 4)
    x = np.array([0.001, 0.03, 0.0625, 0.0626, 0.25, 1.0])
    r, q = twin.quantize(x)
    np.testing.assert_array_equal(r, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(q, [2, 61, 127, 8, 32, 127])
    every = np.linspace(0, 1, 20001)
    assert np.abs(twin.dequantize(*twin.quantize(every)) - every).max() <= 0.5 / 127 + 1e-12


def test_twin_gelu() -> None:
    x = np.concatenate([np.linspace(-0.16997, 0, 50), np.abs(normal(500))])
    twin = vision.twin_gelu(x, 8)
    again = twin.dequantize(twin.quantize(x))
    assert np.abs(again - x)[x < 0].max() <= vision.GELU_LOWEST / 127 / 2 + 1e-12
    for step in (0.5, 1.1):
        other = vision.TwinGelu(twin.positive * step)
        assert np.sum((again - x) ** 2) <= np.sum((other.dequantize(other.quantize(x)) - x) ** 2)


def test_power_of_two_factors_fit_each_channel() -> None:
    x = normal(200, 4) * [0.1, 0.9, 0.3, 1.7]
    found = vision.power_of_two_factors(x)
    assert found.scale * 8 == pytest.approx((x.max() - x.min()) / 255)
    again = found.dequantize(found.quantize(x))
    for channel in range(4):
        for factor in vision.FACTORS:
            other = found.factor.copy()
            other[channel] = factor
            tried = vision.Factors(found.scale, found.zero, other)
            error = np.sum((tried.dequantize(tried.quantize(x)) - x)[:, channel] ** 2)
            assert np.sum((again - x)[:, channel] ** 2) <= error
    assert found.factor[0] < found.factor[3]
    with pytest.raises(InputError, match="NaN"):
        vision.power_of_two_factors(np.array([[np.nan]]))


def test_log_softmax_codes() -> None:
    r = np.array([1, 2, 3, 5, 6, 11, 12, 23, 24])
    np.testing.assert_array_equal(vision.log_codes(r), [0, 1, 2, 2, 3, 3, 4, 4, 5])
    whole = np.arange(1, 1 << 15)
    k = np.floor(np.log2(whole))
    np.testing.assert_array_equal(vision.log_codes(whole), k + (whole >= 1.5 * 2**k))
    ratio = vision.log_values(vision.log_codes(whole)) * whole
    assert ratio.min() >= 0.75
    assert ratio.max() <= 1.5
    assert vision.log_values(vision.log_codes(np.array([1 << 16])))[0] == 0


def test_log_softmax_of_scores() -> None:
    p = vision.log_softmax_values(np.array([[0.0, 0.0], [0.0, -50.0]]))
    np.testing.assert_array_equal(p, [[0.5, 0.5], [1, 0]])
