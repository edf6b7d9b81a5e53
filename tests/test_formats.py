"""int8: scales, zero points, rounding, and the order of its tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft.errors import InputError
from weft.formats import int8
from weft.graph import Quant

LANES = [4, 8, 16]

reals = st.floats(-(2.0**40), 2.0**40, width=32)
shapes = hnp.array_shapes(min_dims=2, max_dims=4, max_side=13)


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Real weights [K, *taps, N]."""
    shape = draw(shapes)
    if draw(st.booleans()):
        return draw(hnp.arrays(np.float32, shape, elements=reals))
    seed = draw(st.integers(0, 99))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(x=weights())
def test_error_is_half_a_step_at_most(x: np.ndarray) -> None:
    quant = int8.symmetric(x, x.ndim - 1)
    assert quant.scale.shape == x.shape[-1:]
    again = int8.dequantize(int8.quantize(x, quant), quant).astype(np.float64)
    assert (np.abs(again - x) <= quant.scale * (0.5 + 2e-5)).all()


@given(x=weights())
def test_quantizing_what_was_dequantized_changes_nothing(x: np.ndarray) -> None:
    quant = int8.symmetric(x, x.ndim - 1)
    codes = int8.quantize(x, quant)
    np.testing.assert_array_equal(int8.quantize(int8.dequantize(codes, quant), quant), codes)


@pytest.mark.parametrize("lanes", LANES)
@given(shape=shapes, seed=st.integers(0, 9))
def test_codes_come_back_from_their_tiles(lanes: int, shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-128, 128, shape).astype(np.int8)
    np.testing.assert_array_equal(int8.unpack(int8.pack(codes, lanes), shape), codes)


@given(shape=hnp.array_shapes(min_dims=3, max_dims=4, max_side=9))
def test_tiles_lie_in_the_order_that_matmul_takes_them(shape: tuple[int, ...]) -> None:
    lanes = 4
    codes = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    k, *taps, n = shape
    tiles = int8.pack(codes, lanes)
    assert tiles.flags.c_contiguous
    expected = []
    for tile in range(-(-n // lanes)):
        for block in range(-(-k // lanes)):
            for tap in np.ndindex(*taps):
                one = np.zeros((lanes, lanes), np.int8)
                part = codes[(slice(block * lanes, (block + 1) * lanes), *tap)]
                part = part[:, tile * lanes : (tile + 1) * lanes]
                one[: part.shape[0], : part.shape[1]] = part
                expected.append(one)
    np.testing.assert_array_equal(tiles.reshape(-1, lanes, lanes), expected)


@pytest.mark.parametrize("lanes", LANES)
@given(
    shape=hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    seed=st.integers(0, 9),
    narrow=st.booleans(),
)
def test_quantize_and_pack_is_both(
    lanes: int, shape: tuple[int, int], seed: int, narrow: bool
) -> None:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x[:, 0] = 0
    quant = int8.symmetric(x, 1)
    if narrow:
        quant = Quant(quant.scale / 2, axis=1)
    tiles, own = int8.quantize_and_pack(x, lanes, quant if narrow else None)
    np.testing.assert_array_equal(own.scale, quant.scale)
    np.testing.assert_array_equal(tiles, int8.pack(int8.quantize(x, quant), lanes))


def test_quantize_and_pack_works_through_many_blocks() -> None:
    x = np.random.default_rng(0).normal(size=(70, 30_000)).astype(np.float32)
    tiles, quant = int8.quantize_and_pack(x, 32)
    plain = np.clip(np.rint(x / (np.abs(x).max(0) / np.float32(127))), -127, 127)
    np.testing.assert_array_equal(int8.unpack(tiles, x.shape), plain)
    np.testing.assert_array_equal(int8.quantize(x, quant), plain)


@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_scales_run_along_their_axis(axis: int | None) -> None:
    x = np.random.default_rng(3).normal(size=(5, 6, 7)).astype(np.float32)
    x[2], x[:, 3], x[:, :, 4] = 0, 0, 0
    quant = int8.symmetric(x, axis)
    others = tuple(a for a in range(3) if a != axis)
    largest = np.abs(x).max() if axis is None else np.abs(x).max(axis=others)
    np.testing.assert_array_equal(quant.scale, np.where(largest == 0, 1, largest / np.float32(127)))
    codes = int8.quantize(x, quant)
    assert np.abs(codes.astype(int)).max() == 127
    assert (np.abs(quant.dequantize(codes) - x) <= quant.scale.max() * 0.50001).all()


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (-1.0, 2.0, 0.0117647, 85 - 128),
        (-6.0, 6.0, 0.0470588, -1),  # -0.5 exactly: half away from zero
        (0.5, 6.0, 6 / 255, -128),  # extended to 0 first
        (-6.0, -0.5, 6 / 255, 127),
        (0.0, 0.0, 1.0, 0),
    ],
)
def test_published_scales_and_zero_points(low: float, high: float, scale: float, zero: int) -> None:
    quant = int8.affine(low, high)
    assert float(quant.scale) == pytest.approx(scale, rel=1e-5)
    assert quant.zero_point == zero


float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.tuples(float32s, float32s).map(sorted), st.booleans(), st.floats(0, 1))
def test_activation_ranges_are_covered(
    bounds: list[float], symmetric: bool, position: float
) -> None:
    low, high = bounds
    quant = int8.affine(low, high, symmetric)
    assert int8.quantize(0.0, quant) == quant.zero_point  # 0 is exact, always
    assert quant.zero_point == 0 or not symmetric
    x = np.float32(low + (high * position - low * position))
    with np.errstate(over="ignore"):
        again = float(quant.dequantize(int8.quantize(x, quant)))
    limit = float(np.finfo(np.float32).max)
    error = abs(min(max(again, -limit), limit) - float(x))
    assert error <= float(quant.scale) * 0.5001 + abs(float(x)) * 1e-6


@given(st.tuples(float32s, float32s).map(sorted), hnp.arrays(np.float32, 7, elements=float32s))
def test_quantize_is_the_graphs_quantize(bounds: list[float], x: np.ndarray) -> None:
    quant = int8.affine(*bounds)
    codes = int8.quantize(x, quant)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(codes, quant.quantize(x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.ones((3, 4), np.float32)
    x[1, 2] = bad
    with pytest.raises(InputError, match="1 of 4 channels"):
        int8.symmetric(x, 1)
    with pytest.raises(InputError):
        int8.symmetric(x)
    with pytest.raises(InputError, match="finite"):
        int8.affine(0.0, bad)
    with pytest.raises(InputError):
        int8.affine(2.0, 1.0)
