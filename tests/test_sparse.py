"""Every sparse format of the registry: round trips, sizes, number formats, and corrupt arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparse_matrices as matrices
from weft.errors import InputError, SparseError, UsageError, WeftError
from weft.formats import FORMATS
from weft.graph import Quant
from weft.sparse import SPARSE, Packed, SparseFormat, parse
from weft.sparsity_format import decoded, encoded

each_format = pytest.mark.parametrize("fmt", SPARSE.values(), ids=lambda f: f.name)
shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))
densities = st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
GAPS = (0, 1, 15, 16, 17, 31, 32, 47, 48, 255, 256, 257)
NUMBERS = ("int8", "int4", "int3", "flint4", "pot4", "ternary", "ternary2", "e2m1", "apot4")


def cases(fmt: SparseFormat) -> list[matrices.Options]:
    return matrices.OPTIONS.get(fmt.name, [{}])


def packed(fmt: SparseFormat, matrix: np.ndarray, options: matrices.Options) -> Packed:
    """Packed, with arrays of its own."""
    return fmt.pack(matrices.fitting(fmt.name, matrix, options), **options)


def same(one: Packed, other: Packed) -> None:
    assert (one.format, one.shape, dict(one.options)) == (
        other.format, other.shape, dict(other.options),
    )  # fmt: skip
    np.testing.assert_array_equal(one.values, other.values)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


def round_trip(fmt: SparseFormat, matrix: np.ndarray, options: matrices.Options) -> None:
    fit = matrices.fitting(fmt.name, matrix, options)
    kept = fit.copy()
    made = fmt.pack(fit, **options)
    fmt.check(made)
    again = fmt.unpack(made)
    assert again.dtype == fit.dtype
    np.testing.assert_array_equal(again, fit)
    np.testing.assert_array_equal(fit, kept)
    same(fmt.pack(again, **options), made)
    assert (made.rows, made.cols) == fit.shape


@each_format
@given(
    shape=shapes, density=densities, seed=st.integers(0, 99), kind=st.sampled_from("bh"),
    data=st.data(),
)  # fmt: skip
@settings(deadline=None)
def test_matrices_come_back(fmt, shape, density, seed, kind, data):
    options = data.draw(st.sampled_from(cases(fmt)))
    round_trip(fmt, matrices.random(seed, shape, density, np.dtype(kind)), options)


@each_format
@pytest.mark.parametrize("gap", GAPS)
def test_gaps_come_back(fmt, gap):
    for options in cases(fmt):
        pes = options.get("pes", 1)
        for rows in (gap + 1, gap + 2, (gap + 1) * pes + 3):
            matrix = np.zeros((rows, 3), np.int8)
            matrix[min(gap * pes, rows - 1), 0] = 5
            matrix[rows - 1, 2] = -7
            matrix[0, 2] = 1
            round_trip(fmt, matrix, options)
            round_trip(fmt, np.ascontiguousarray(matrix.T), options)


@each_format
def test_single_elements_and_empty_lines_come_back(fmt):
    for options in cases(fmt):
        for shape in ((1, 1), (1, 9), (9, 1), (33, 34)):
            round_trip(fmt, np.zeros(shape, np.int8), options)
            for at in np.ndindex(min(shape[0], 10), min(shape[1], 10)):
                one = np.zeros(shape, np.int8)
                one[at] = -128
                one[-1, -1] = 127
                round_trip(fmt, one, options)


@each_format
def test_views_are_packed_as_copies_are(fmt):
    whole = matrices.fitting(fmt.name, matrices.random(1, (24, 40), 0.2), {})
    same(fmt.pack(np.asfortranarray(whole)), fmt.pack(whole))
    wide = np.zeros((24, 80), whole.dtype)
    wide[:, ::2] = whole
    same(fmt.pack(wide[:, ::2]), fmt.pack(whole))
    for shape in ((1, 40), (24, 1)):
        part = np.ascontiguousarray(whole[: shape[0], : shape[1]])
        same(fmt.pack(np.asfortranarray(part)), fmt.pack(part))
        same(fmt.pack(np.asarray(part.T).copy().T), fmt.pack(part))


@each_format
@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32), np.zeros(4, np.int8),
     np.zeros((0, 4), np.int8), np.zeros((1, 2, 2), np.int8), np.zeros((2, 2), np.uint8)],
    ids=str,
)  # fmt: skip
def test_what_is_no_matrix_of_integers_is_refused(fmt, bad):
    with pytest.raises(InputError, match="int8 or int16"):
        fmt.pack(bad)


def operands_of(name: str, fmt: SparseFormat) -> tuple[Any, np.ndarray, Quant]:
    """A number format, and a matrix of its values that fits the sparse format."""
    number = FORMATS[name]
    quant = Quant(np.asarray(1, np.float32), axis=0, format=name)
    values = number.quantize(np.asarray(number.grid)[~np.isnan(number.grid)], quant)
    rng = np.random.default_rng(3)
    matrix = np.where(rng.random((37, 41)) < 0.3, rng.choice(values, (37, 41)), 0)
    return number, matrices.fitting(fmt.name, matrix.astype(number.operand), {}), quant


@each_format
@pytest.mark.parametrize("name", NUMBERS)
def test_number_formats_go_with_it(fmt, name):
    number, matrix, quant = operands_of(name, fmt)
    made = fmt.pack(matrix)
    if fmt.value_bits:
        with pytest.raises(UsageError, match="codebook of its own"):
            encoded(made, number, quant)
        return
    codes = encoded(made, number, quant)
    fmt.check(codes)
    assert codes.number_format == name
    assert codes.values.max() < 1 << number.bits
    np.testing.assert_array_equal(fmt.unpack(decoded(codes, number, quant)), matrix)
    with pytest.raises(SparseError, match="decoded"):
        fmt.unpack(codes)
    index = fmt.nbits(made, 0)
    own = -(-made.values.size // 5) * 8 if name == "ternary" else made.values.size * number.bits
    assert fmt.nbytes(codes, number) == -(-(index + own) // 8)


def test_codebooks_go_with_it():
    number = FORMATS["codebook16"]
    x = np.random.default_rng(0).normal(size=(40, 50)) * (matrices.random(0, (40, 50), 0.3) != 0)
    quant = number.fit(x, 0)
    operands = number.quantize(x, quant)
    for name in ("csc", "csr", "coo", "bitmask", "eie8"):
        fmt = SPARSE[name]
        codes = encoded(fmt.pack(operands), number, quant)
        np.testing.assert_array_equal(fmt.unpack(decoded(codes, number, quant)), operands)
        plain = fmt.nbits(codes, 4)
        assert fmt.nbytes(codes, number) == -(-(plain + 16 * 16) // 8)
    eie = SPARSE["eie"].pack(operands)
    np.testing.assert_array_equal(SPARSE["eie"].unpack(eie), operands)


@pytest.mark.parametrize("name", ["binary", "olive4", "mxfp4", "bf16", "e4m3", "int4:g32"])
def test_number_formats_that_do_not_stand_alone_are_refused(name):
    from weft.formats import parse as number_format

    with pytest.raises(UsageError, match="can't be stored sparse"):
        encoded(
            SPARSE["csr"].pack(np.eye(4, dtype=np.int8)), number_format(name), Quant(np.ones(1))
        )


def test_codes_are_not_taken_for_others():
    made = SPARSE["csr"].pack(np.eye(4, dtype=np.int8))
    quant = Quant(np.float32(1))
    codes = encoded(made, FORMATS["int4"], quant)
    with pytest.raises(UsageError, match="codes of int4 already"):
        encoded(codes, FORMATS["int4"], quant)
    with pytest.raises(UsageError, match="'int4', not 'int3'"):
        decoded(codes, FORMATS["int3"], quant)
    with pytest.raises(SparseError, match=r"values\[0\] = 16 is not within 0..15"):
        decoded(replace(codes, values=codes.values + np.uint8(15)), FORMATS["int4"], quant)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("1:4", "nm", {"n": 1, "m": 4}),
        ("7:16", "nm", {"n": 7, "m": 16}),
        ("64:2:8", "venom", {"v": 64, "m": 8}),
        ("eie:16", "eie", {"pes": 16}),
        ("eie8:3", "eie8", {"pes": 3, "index_bits": 8}),
        ("2:4", "2:4", {}),
        ("csc", "csc", {}),
    ],
)
def test_names_are_parsed(name, kind, options):
    fmt = parse(name)
    assert parse(name) is fmt
    assert fmt.name == kind
    assert dict(fmt.pack(np.zeros((8, 16), np.int8)).options) == options


@pytest.mark.parametrize("name", ["cs", "1:2:3:4", "64:3:8", "eie:", "eie:x", "", "2:", "csc:3"])
def test_unknown_names_are_explained(name):
    with pytest.raises(UsageError, match="no sparse format"):
        parse(name)


@pytest.mark.parametrize("name", ["4:4", "0:4", "2:17", "0:2:8", "4:2:4", "eie:0"])
def test_sizes_that_make_no_sense_are_refused(name):
    with pytest.raises(SparseError, match="is not within"):
        parse(name).pack(np.zeros((4, 32), np.int8))


# What may be done to packed arrays: the result is refused, or decodes to some matrix of the shape.
def damage(rng: np.random.Generator, made: Packed) -> Packed:
    names = ["values", *made.arrays]
    name = names[rng.integers(len(names))]
    array = np.array(made.values if name == "values" else made.arrays[name])
    kind = rng.integers(5)
    if kind == 0 and array.size:  # flip a bit
        raw = array.reshape(-1).view(np.uint8)
        raw[rng.integers(len(raw))] ^= np.uint8(1 << rng.integers(8))
    elif kind == 1:  # cut off
        array = array[: rng.integers(len(array) + 1)]
    elif kind == 2:  # anything at all
        array = rng.integers(0, 256, array.nbytes, np.uint8).view(array.dtype).reshape(array.shape)
    elif kind == 3:  # another type
        array = array.astype(rng.choice(["int8", "int64", "uint64", "float32", "int16", "bool"]))
    elif rng.random() < 0.5:  # longer, or another number of dimensions
        array = np.concatenate([array, array])
    else:
        array = array[None]
    if name == "values":
        return replace(made, values=array)
    return made.replaced(**{name: array})


def damaged_head(rng: np.random.Generator, made: Packed) -> Packed:
    values = (-1, 0, 1, 2, 3, 5, 1 << 20, 1 << 40, None, 2.5, "x")
    value = values[rng.integers(len(values))]
    if made.options and rng.random() < 0.5:
        name = rng.choice(sorted(made.options))
        return replace(made, options={**made.options, name: value})
    at = rng.integers(2)
    return replace(made, shape=tuple(value if i == at else s for i, s in enumerate(made.shape)))


def survives(fmt: SparseFormat, seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = cases(fmt)[rng.integers(len(cases(fmt)))]
    shape = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    density = rng.choice([0.02, 0.2, 0.7])
    made = packed(
        fmt, matrices.random(seed, shape, density, rng.choice(["int8", "int16"])), options
    )
    for _ in range(rng.integers(1, 4)):
        made = damaged_head(rng, made) if rng.random() < 0.15 else damage(rng, made)
    try:
        matrix = fmt.unpack(made)
    except SparseError:
        with pytest.raises(SparseError):
            fmt.check(made)
        return
    fmt.check(made)
    assert matrix.shape == made.shape
    # What is accepted means one matrix: every value of it is a value that was stored.
    stored = made.arrays["codebook"] if fmt.value_bits else made.values
    assert np.isin(matrix[matrix != 0], stored).all()
    if not fmt.value_bits:
        assert np.count_nonzero(matrix) == np.count_nonzero(made.values)
    try:
        again = fmt.pack(matrix, **made.options)
    except WeftError:
        return  # scrambled values may need more than the defaults give
    np.testing.assert_array_equal(fmt.unpack(again), matrix)


@each_format
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_corrupt_arrays_are_refused_or_make_sense(fmt, seed):
    survives(fmt, seed)


@each_format
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None)
def test_corrupt_codes_are_refused_or_make_sense(fmt, seed):
    if fmt.value_bits:
        return
    rng = np.random.default_rng(seed)
    number, matrix, quant = operands_of(NUMBERS[seed % len(NUMBERS)], fmt)
    broken = damage(rng, encoded(fmt.pack(matrix), number, quant))
    try:
        fmt.check(broken)
        found = fmt.unpack(decoded(broken, number, quant))
    except SparseError:
        return
    assert found.shape == broken.shape
    assert np.isin(found[found != 0], number.decode(np.arange(1 << number.bits), quant)).all()


@pytest.mark.slow
@each_format
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=2000, deadline=None)
def test_corrupt_arrays_are_refused_or_make_sense_at_length(fmt, seed):
    survives(fmt, seed)


@each_format
def test_other_formats_and_missing_arrays_are_refused(fmt):
    made = packed(fmt, matrices.random(0, (9, 12), 0.2), {})
    with pytest.raises(SparseError, match="packed as"):
        fmt.unpack(replace(made, format="other"))
    for name in made.arrays:
        left = {key: array for key, array in made.arrays.items() if key != name}
        with pytest.raises(SparseError, match=name):
            fmt.unpack(replace(made, arrays=left))
    with pytest.raises(SparseError, match="shape"):
        fmt.unpack(replace(made, shape=(1 << 20, 1 << 20)))
