"""Every number format of the registry: round trips, bad input, errors, and the tiles of memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft import tiles
from weft.errors import InputError, UsageError
from weft.format import Format, aligned, error
from weft.formats import BY_NUMBER, FORMATS, NUMBERS, parse
from weft.graph import Quant

GROUPED = (
    "int2:g32",
    "int4:g32",
    "int7:g64",
    "uint4:g128",
    "flint4:g32",
    "e2m1:g64",
    "ternary2:g128",
)
ALL = (*FORMATS.values(), *(parse(n) for n in GROUPED))
each_format = pytest.mark.parametrize("fmt", ALL, ids=lambda f: f.name)
few = settings(max_examples=3, deadline=None)
reals = st.floats(-(2.0**40), 2.0**40, width=32)
shapes = hnp.array_shapes(min_dims=2, max_dims=4, max_side=37).filter(lambda s: np.prod(s) < 6000)


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Real weights [N, *taps, I]."""
    shape = draw(shapes)
    if draw(st.booleans()):
        return draw(hnp.arrays(np.float32, shape, elements=reals))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.standard_t(3, size=shape).astype(np.float32) * np.float32(
        10.0 ** rng.integers(-6, 6)
    )


def parts(fmt: Format, x: np.ndarray, axis: int | None = 0, method: str = "max"):
    quant = fmt.fit(x, axis, method)
    return quant, fmt.quantize(x, quant)


def test_numbers_and_names_are_one_to_one():
    assert list(BY_NUMBER.values()) == list(FORMATS.values())
    assert NUMBERS["int8"] == 0
    for name, fmt in FORMATS.items():
        assert fmt.name == name
        assert BY_NUMBER[NUMBERS[name]] is fmt
        assert 1 <= fmt.bits <= 16


@pytest.mark.parametrize("name", ["int4", "int4:g32", "uint3:g128", "mxfp4"])
def test_names_are_parsed(name):
    assert parse(name).name == name
    assert parse(name) is parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("imt4", "Did you mean 'int4'"), ("int4:g31", ":g32, :g64 or :g128"), ("mxfp4:g32", "of int")],
)
def test_unknown_names_are_explained(name, message):
    with pytest.raises(UsageError, match=message):
        parse(name)


@each_format
@given(x=weights(), axis=st.sampled_from([0, None]), method=st.sampled_from(["max", "mse"]))
@few
def test_codes_come_back(fmt, x, axis, method):
    quant, operands = parts(fmt, x, axis, method)
    assert quant.format == fmt.name
    assert quant.scale.dtype == np.float32
    assert quant.scale.shape == ((len(x),) if axis == 0 else ())
    kinds = {"int8": np.int8, "int16": np.int16, "bf16": np.float32}
    assert operands.dtype == kinds[fmt.operand]
    assert np.isfinite(quant.scale).all()
    assert (quant.scale > 0).all()
    codes = fmt.encode(operands, quant)
    assert codes.dtype == (np.uint16 if fmt.bits == 16 else np.uint8)
    assert codes.max(initial=0) < 1 << fmt.bits
    np.testing.assert_array_equal(fmt.decode(codes, quant), operands)
    if fmt.operand == "bf16":
        assert not (np.abs(operands).view(np.uint32) & 0xFFFF).any()


@each_format
@given(x=weights(), axis=st.sampled_from([0, None]))
@few
def test_the_search_never_makes_it_worse(fmt, x, axis):
    most, least = (error(fmt, x, fmt.fit(x, axis, m))[0] for m in ("max", "mse"))
    assert least <= most * (1 + 1e-6)


@each_format
@pytest.mark.parametrize("axis", [0, None])
def test_each_operand_is_the_nearest_value(fmt, axis):
    """Where codes are independent of one another; groups are divided out."""
    if fmt.grid is None or fmt.asymmetric:
        pytest.skip("values depend on the neighbours")
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, size=(3, 2, 80)).astype(np.float32)
    quant, operands = parts(fmt, x, axis)
    unit = np.broadcast_to(aligned(quant.scale, 3), x.shape).astype(np.float64)
    if quant.groups is not None:
        each = fmt.decode(np.full(x.shape, one_code(fmt), np.uint8), quant)
        unit = unit * each / fmt.grid[one_code(fmt)]
    values = fmt.grid[~np.isnan(fmt.grid)]
    if fmt.name.startswith("int"):
        values = values[values > -values.max() - 1]
    least = np.abs(x[..., None] / unit[..., None] - values).min(axis=-1)
    found = np.abs(x / unit - operands / (unit / aligned(quant.scale, 3)))
    assert (found <= least + np.abs(x / unit) * 1e-6).all()


def one_code(fmt: Format) -> int:
    """Some code that is not 0."""
    return int(np.flatnonzero(np.nan_to_num(fmt.grid) > 0)[0])


@each_format
def test_codes_of_the_grid_are_its_own(fmt):
    if fmt.grid is None or fmt.group or fmt.asymmetric:
        pytest.skip("codes depend on more than the grid")
    used = np.flatnonzero(~np.isnan(fmt.grid)).astype(np.uint8)
    if fmt.name in FORMATS and fmt.name.startswith("int") and fmt.bits < 8:
        used = used[used != 1 << (fmt.bits - 1)]
    quant = Quant(np.float32(1), format=fmt.name)
    operands = fmt.decode(used, quant)
    np.testing.assert_array_equal(operands, fmt.grid[used])
    np.testing.assert_array_equal(fmt.encode(operands, quant), used)


@each_format
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(fmt, bad):
    x = np.ones((3, 2, 33), np.float32)
    quant = fmt.fit(x, 0)
    x[1, 1, 7] = bad
    for method in ("max", "mse"):
        with pytest.raises(InputError, match="NaN or infinite"):
            fmt.fit(x, 0, method)
    with pytest.raises(InputError, match="NaN or infinite"):
        fmt.quantize(x, quant)


@each_format
@pytest.mark.parametrize("method", ["max", "mse"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3, 35)], ids=str)
def test_extreme_constants(fmt, method, shape):
    for value in (0.0, -0.0, 1.0, -3.5, 1e-42, -1e-38, 2.0**-100, 3.4e38, -3.4e38):
        for axis in (0, None):
            check_constant(fmt, axis, method, value, shape)


def check_constant(fmt, axis, method, value, shape):
    x = np.full(shape, value, np.float32)
    quant, operands = parts(fmt, x, axis, method)
    assert np.isfinite(quant.scale).all()
    assert (quant.scale > 0).all()
    assert np.isfinite(operands.astype(np.float64)).all()
    np.testing.assert_array_equal(fmt.decode(fmt.encode(operands, quant), quant), operands)
    if value == 0 and fmt.name != "binary":
        assert not operands.any()
        if fmt.record == "none":
            assert (quant.scale == 1).all()
    if fmt.name == "binary" and value == 0:
        assert (quant.scale == np.float32(2.0**-60)).all()


@each_format
def test_a_channel_of_zeros_among_others(fmt):
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    x[1] = 0
    _, operands = parts(fmt, x)
    assert fmt.name == "binary" or not operands[1].any()


@each_format
def test_operands_that_are_no_values_are_refused(fmt):
    if fmt.operand == "bf16":
        wrong = np.full((1, 32), 1.0009765625, np.float32)
    elif fmt.bits >= 8 and fmt.grid is not None and fmt.operand == "int8":
        pytest.skip("every int8 is a value")
    else:
        wrong = np.full((1, 32), 32003, np.int32)
    quant = fmt.fit(np.linspace(-1, 1, 32, dtype=np.float32)[None], 0)
    if fmt.bits == 16 and fmt.operand == "int16":
        pytest.skip("every int16 is a value")
    with pytest.raises(InputError, match="no values of"):
        fmt.encode(wrong, quant)


@each_format
@pytest.mark.parametrize("lanes", [8, 16, 32, 64])
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 3), st.integers(1, 150)),
    seed=st.integers(0, 99),
)
@settings(max_examples=1, deadline=None)
def test_memory_gives_back_what_was_packed(fmt, lanes, shape, seed):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    quant, operands = parts(fmt, x)
    codes = fmt.encode(operands, quant)
    rows = tiles.pack(codes, quant, fmt, lanes)
    group, zeros = tiles.group_of(fmt, quant, shape[2]), quant.zeros is not None
    assert rows.dtype == np.int8
    assert rows.shape == (tiles.stored_rows(shape, fmt, lanes, group, zeros), lanes)
    again, carried = tiles.unpack(rows, shape, fmt, lanes, group, zeros)
    np.testing.assert_array_equal(again, codes)
    for name in ("groups", "zeros", "codebook"):
        own = getattr(quant, name)
        assert (own is None) == (getattr(carried, name) is None), name
        if own is not None:
            np.testing.assert_array_equal(getattr(carried, name), own)


def test_errors_are_those_of_the_definition():
    fmt, x = FORMATS["int4"], np.array([[7.0, 0.25, -3.0, 1.5]], np.float32)
    quant = replace(fmt.fit(x, 0), scale=np.ones(1, np.float32))
    mse, ratio = error(fmt, x, quant)
    assert mse == (0.25**2 + 0.5**2) / 4
    assert ratio == pytest.approx(10 * np.log10((49 + 0.0625 + 9 + 2.25) / 4 / mse))
    assert error(fmt, np.zeros((1, 4), np.float32), quant) == (0.0, float("inf"))
