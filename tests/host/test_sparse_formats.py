"""Sparse formats against what others define: scipy, torch, and the tables of papers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sparse_matrices as matrices
from weft.errors import CapacityError, SparseError
from weft.sparse import SPARSE, nonzeros
from weft.sparse import eie as eie_format

COO, CSR, CSC, BITMASK, EIE, EIE8, NM, TWO_FOUR, VENOM = SPARSE.values()


@pytest.mark.parametrize("density", [0, 0.05, 0.4, 1])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.oracle
def test_scipy_has_the_same_arrays(density, dtype):
    scipy = pytest.importorskip("scipy.sparse")
    matrix = matrices.random(7, (53, 71), density, dtype)
    expected = scipy.coo_array(matrix)
    found = COO.pack(matrix)
    np.testing.assert_array_equal(found.arrays["rows"], expected.row)
    np.testing.assert_array_equal(found.arrays["columns"], expected.col)
    np.testing.assert_array_equal(found.values, expected.data)
    for fmt, minor, kind in ((CSR, "columns", scipy.csr_array), (CSC, "rows", scipy.csc_array)):
        expected = kind(matrix)
        expected.sum_duplicates()
        expected.sort_indices()
        found = fmt.pack(matrix)
        np.testing.assert_array_equal(found.arrays["pointers"], expected.indptr)
        np.testing.assert_array_equal(found.arrays[minor], expected.indices)
        np.testing.assert_array_equal(found.values, expected.data)
        assert found.values.dtype == expected.data.dtype


@pytest.mark.parametrize(
    "shape", [(70_000, 17), (3, 70_001), (1025, 1024), (1 << 20, 1), (1, 1 << 20)]
)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_the_kernel_gathers_what_numpy_does(shape, dtype):
    matrix = matrices.random(5, shape, 0.1, dtype)
    library = nonzeros.kernel()
    assert library is not None
    for part in (matrix, matrix[2::3], matrix[:, : shape[1] // 2 + 1]):
        if not part.size:
            continue
        ours, plain = nonzeros.gathered(library, part), nonzeros.sorted_by_column(part)
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_without_a_compiler_numpy_packs(tmp_path, monkeypatch):
    matrix = matrices.random(5, (1024, 1100), 0.1)
    expected = CSC.pack(matrix)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "file"))
    nonzeros.kernel.cache_clear()
    try:
        assert nonzeros.kernel() is None
        found = CSC.pack(matrix)
    finally:
        nonzeros.kernel.cache_clear()
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.arrays["rows"], expected.arrays["rows"])


# (gap before a 7 | column, codes, zero counts): EIE, section III, and what follows from its rule.
GAPS = [
    (15, [7], [15]),
    (16, [0, 7], [15, 0]),
    (17, [0, 7], [15, 1]),
    (31, [0, 7], [15, 15]),
    (32, [0, 0, 7], [15, 15, 0]),
    (47, [0, 0, 7], [15, 15, 15]),
    (48, [0, 0, 0, 7], [15, 15, 15, 0]),
]
BOOK = np.array([0, *range(1, 16)], np.int16)


@pytest.mark.parametrize(("gap", "codes", "zeros"), GAPS, ids=lambda v: str(v))
@pytest.mark.parametrize("behind", [0, 1, 40])
def test_eie_pads_gaps(gap, codes, zeros, behind):
    column = np.zeros((gap + 1 + behind, 1), np.int8)
    column[gap] = 7
    packed = EIE.pack(column, pes=1, codebook=BOOK)
    assert packed.values.tolist() == codes
    assert packed.arrays["zeros"].tolist() == zeros
    assert packed.arrays["pointers"].tolist() == [[0, len(codes)]]
    plain = EIE8.pack(column, pes=1, index_bits=4)
    assert (plain.values.tolist(), plain.arrays["zeros"].tolist()) == (codes, zeros)


def test_eie_packs_the_example_of_the_paper():
    column = np.array([0, 0, 1, 2, *[0] * 18, 3], np.int8)[:, None]
    packed = EIE.pack(column, pes=1)
    assert packed.values.tolist() == [1, 2, 0, 3]
    assert packed.arrays["zeros"].tolist() == [2, 0, 15, 2]
    assert packed.arrays["codebook"].tolist() == [0, 1, 2, 3, *[0] * 12]


def test_eie_stores_nothing_of_empty_columns():
    packed = EIE.pack(np.zeros((40, 3), np.int8), pes=1)
    assert packed.values.size == packed.arrays["zeros"].size == 0
    assert packed.arrays["pointers"].tolist() == [[0, 0, 0, 0]]


def decoded(packed: Any, values: np.ndarray) -> np.ndarray:
    """The decoder of the paper, entry by entry."""
    matrix = np.zeros(packed.shape, values.dtype)
    pes, at = packed.options["pes"], 0
    for pe in range(pes):
        first = at
        for column in range(packed.cols):
            row = -1
            begin, end = packed.arrays["pointers"][pe, column : column + 2].tolist()
            assert first + begin == at
            for _ in range(begin, end):
                row += int(packed.arrays["zeros"][at]) + 1
                matrix[row * pes + pe, column] = values[at]
                at += 1
    assert at == len(values)
    return matrix


@pytest.mark.parametrize("pes", [1, 2, 4, 7, 64])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.6])
def test_eie_decodes_as_the_paper_says(pes, density):
    matrix = matrices.as_eie(matrices.random(3, (230, 19), density))
    packed = EIE.pack(matrix, pes=pes)
    assert packed.arrays["codebook"][0] == 0
    values = packed.arrays["codebook"][packed.values]
    np.testing.assert_array_equal(decoded(packed, values), matrix)
    for bits in (1, 4, 8):
        packed = EIE8.pack(matrix, pes=pes, index_bits=bits)
        np.testing.assert_array_equal(decoded(packed, packed.values), matrix)


@pytest.mark.parametrize(
    ("rows", "density", "low", "high"),
    [(4096, 0.09, 1.18, 1.20), (4096, 0.04, 1.54, 1.58), (600, 0.10, 1.0, 1.005)],
)
def test_eie_pads_as_much_as_published_layers(rows, density, low, high):
    """Alex-7, VGG-7 and NT-We of EIE, table III, with random places."""
    rng = np.random.default_rng(0)
    matrix = (rng.random((rows, 1024)) < density).astype(np.int8)
    load = eie_format.load(EIE.pack(matrix, pes=64))
    assert low <= load.padding <= high
    assert 0.88 < load.balance <= 1  # 600 rows are no multiple of 64
    packed = EIE.pack(matrix, pes=64)
    assert load.entries.sum() == packed.values.size
    assert load.padding == packed.values.size / np.count_nonzero(matrix)


def test_eie_knows_its_limits():
    many = np.arange(-8, 8, dtype=np.int8)[None]
    assert EIE.unpack(EIE.pack(many)).tolist() == many.tolist()  # 0 and 15 more
    with pytest.raises(SparseError, match="16 different values besides 0, but a codebook holds 15"):
        EIE.pack(np.arange(1, 17, dtype=np.int8)[None])
    with pytest.raises(SparseError, match="value 99 is not in the codebook"):
        EIE.pack(np.array([[1, 99]], np.int8), codebook=BOOK)
    with pytest.raises(SparseError, match=r"codebook\[0\] = 1 is not 0"):
        EIE.pack(many, codebook=BOOK[::-1] - np.int16(14))
    with pytest.raises(SparseError, match=r"codebook \(15,\)"):
        EIE.pack(many, codebook=BOOK[:15])
    full = np.ones((512, 256), np.int8)
    full[0, 0] = 0  # PE 0 just fits
    with pytest.raises(CapacityError, match="PE 1 of 2 gets 65536 entries, but 16-bit pointers"):
        EIE.pack(full, pes=2)


def test_bitmask_is_little_endian():
    matrix = np.zeros((2, 11), np.int8)
    matrix[0, [0, 3, 10]] = 1, -2, 3
    matrix[1, 8] = 4
    packed = BITMASK.pack(matrix)
    assert packed.arrays["mask"].tolist() == [[0b1001, 0b100], [0, 1]]
    assert packed.values.tolist() == [1, -2, 3, 4]
    wide = matrices.random(0, (13, 64), 0.3)
    bits = np.packbits((wide != 0).reshape(-1), bitorder="little")
    np.testing.assert_array_equal(BITMASK.pack(wide).arrays["mask"].reshape(-1), bits)


def log2(count: int) -> int:
    return math.ceil(math.log2(count))


@pytest.mark.parametrize("shape", [(64, 128), (100, 40)])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_sizes_are_those_of_the_formulas(shape, bits):
    rows, cols = shape
    matrix = matrices.random(0, shape, 0.1)
    count = np.count_nonzero(matrix)
    sizes = {
        "coo": count * (bits + log2(rows) + log2(cols)),
        "csr": count * (bits + log2(cols)) + (rows + 1) * log2(count + 1),
        "csc": count * (bits + log2(rows)) + (cols + 1) * log2(count + 1),
        "bitmask": rows * cols + count * bits,
    }
    for name, size in sizes.items():
        assert SPARSE[name].nbits(SPARSE[name].pack(matrix), bits) == size
    eie = EIE.pack(matrices.as_eie(matrix), pes=4)
    assert EIE.nbits(eie, bits) == eie.values.size * 8 + 4 * (cols + 1) * 16 + 16 * 16


@pytest.mark.parametrize(
    ("n", "m", "bits", "ratio"),
    [(2, 4, 8, 0.625), (2, 4, 16, 0.5625), (2, 4, 4, 0.75), (1, 4, 8, 0.3125),
     (1, 4, 16, 0.28125), (4, 8, 8, 0.6875), (4, 8, 16, 0.59375)],
)  # fmt: skip
def test_ratios_of_n_of_m(n, m, bits, ratio):
    packed = NM.pack(np.zeros((16, 64), np.int8), n=n, m=m)
    assert NM.nbits(packed, bits) == 16 * 64 * bits * ratio
    if (n, m) == (2, 4) and bits != 4:
        matrix = np.zeros((16, 64), f"int{bits}")
        assert TWO_FOUR.nbits(TWO_FOUR.pack(matrix), bits) == 16 * 64 * bits * ratio


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 3), (2, 4), (3, 8), (5, 9), (15, 16)])
def test_nm_keeps_the_lowest_unused_places_free(n, m):
    matrix = matrices.as_nm(matrices.random(n, (9, 3 * m + 1), 0.4), n, m)
    packed = NM.pack(matrix, n=n, m=m)
    for row in range(9):
        for group in range(4):
            part = np.zeros(m, np.int8)
            own = matrix[row, group * m : group * m + m]
            part[: len(own)] = own
            used = np.flatnonzero(part).tolist()
            free = [i for i in range(m) if i not in used]
            places = sorted(used + free[: n - len(used)])
            assert packed.arrays["positions"][row, group].tolist() == places
            assert packed.values[row, group].tolist() == part[places].tolist()


def test_groups_that_are_too_full_are_named():
    matrix = np.zeros((3, 12), np.int8)
    matrix[2, 5:8] = 1
    message = r"row 2, group 1 \(columns 4..7\) has 3 non-zeros, but 2:4 keeps 2: prune to 2:4"
    for fmt in (NM, TWO_FOUR):
        with pytest.raises(SparseError, match=message):
            fmt.pack(matrix)
    with pytest.raises(SparseError, match=r"row 2, group 2 .* but 1:3 keeps 1"):
        NM.pack(np.roll(matrix, 1, axis=1), n=1, m=3)


# Places of the non-zeros → nibble (Mishra et al. 2021; torch for fewer than two).
NIBBLES = {
    (0, 1): 4, (0, 2): 8, (1, 2): 9, (0, 3): 0xC, (1, 3): 0xD, (2, 3): 0xE,
    (): 0xE, (3,): 0xE, (2,): 0xE, (1,): 9, (0,): 8,
}  # fmt: skip


@pytest.mark.parametrize(("places", "nibble"), NIBBLES.items(), ids=str)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_two_four_has_these_nibbles(places, nibble, dtype):
    matrix = np.zeros((1, 4), dtype)
    matrix[0, list(places)] = np.iinfo(dtype).min + np.arange(len(places))
    packed = TWO_FOUR.pack(matrix)
    assert packed.arrays["metadata"][0, 0] & 15 == nibble
    pair = [matrix[0, nibble & 3], matrix[0, nibble >> 2]]
    assert packed.values[0, :2].tolist() == pair
    assert not packed.values[0, 2:].any()


@pytest.mark.parametrize("places", [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3)])
def test_two_four_cuts_nothing(places):
    matrix = np.zeros((1, 4), np.int8)
    matrix[0, list(places)] = 1
    with pytest.raises(SparseError, match="prune"):
        TWO_FOUR.pack(matrix)


def test_two_four_fills_words_from_the_low_nibble():
    patterns = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 1), (0, 2)]
    row = np.zeros(32, np.int8)
    for group, places in enumerate(patterns):
        row[[4 * group + p for p in places]] = 1
    word = TWO_FOUR.pack(row[None]).arrays["metadata"]
    assert word.dtype == np.int32
    assert word.view(np.uint32).tolist() == [[0x84EDC984]]
    word = TWO_FOUR.pack(row[None, :16].astype(np.int16)).arrays["metadata"]
    assert word.dtype == np.int16
    assert word.view(np.uint16).tolist() == [[0xC984]]


@pytest.mark.oracle
@pytest.mark.parametrize(("kind", "rows", "cols"), [("int8", 64, 128), ("int16", 96, 64)])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_torch_has_the_same_words(kind, rows, cols, density):
    torch = pytest.importorskip("torch")
    from torch.sparse import _semi_structured_conversions as theirs

    matrix = matrices.as_nm(matrices.random(1, (rows, cols), density, np.int8)).astype(kind)
    # torch has no int16: the values are exact in half precision.
    dense = torch.from_numpy(matrix) if kind == "int8" else torch.from_numpy(matrix).half()
    values, metadata = theirs.sparse_semi_structured_from_dense_cutlass(dense)
    offsets = theirs._calculate_meta_reordering_scatter_offsets(
        rows, metadata.shape[1], metadata.dtype, "cpu"
    )
    logical = metadata.reshape(-1)[offsets].reshape(metadata.shape)
    packed = TWO_FOUR.pack(matrix)
    np.testing.assert_array_equal(packed.values, values.numpy().astype(kind))
    np.testing.assert_array_equal(packed.arrays["metadata"], logical.numpy())
    assert packed.arrays["metadata"].dtype == logical.numpy().dtype


def test_venom_lists_columns_of_blocks():
    matrix = np.zeros((4, 16), np.int8)
    matrix[0, [1, 6]] = 1, 2
    matrix[1, [3, 7]] = 3, 4
    matrix[3, 10] = 5
    packed = VENOM.pack(matrix, v=2, m=8)
    lists = [[[1, 3, 6, 7], [0, 1, 2, 3]], [[0, 1, 2, 3], [0, 1, 2, 3]]]
    assert packed.arrays["columns"].tolist() == lists
    nibbles = packed.arrays["metadata"][:, 0] & 0xFF
    assert nibbles.tolist() == [0xE8, 0xED, 0xEE, 0xEE]  # (0, 2); (1, 3); none; element 2
    assert packed.values[:, :4].tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0]]
    np.testing.assert_array_equal(VENOM.unpack(packed), matrix)


def test_venom_blocks_that_are_too_full_are_named():
    matrix = np.zeros((8, 16), np.int8)
    matrix[np.arange(4, 8), np.arange(8, 12)] = 1
    VENOM.pack(matrix, v=4, m=8)
    matrix[7, 13] = 1
    with pytest.raises(SparseError, match=r"block \(1, 1\) of 4 x 8 has 5 columns .* 4:2:8"):
        VENOM.pack(matrix, v=4, m=8)
    matrix[7, 8:14] = [1, 1, 0, 1, 0, 0]
    with pytest.raises(SparseError, match=r"row 7, group 1 .* has 3 non-zeros"):
        VENOM.pack(matrix, v=4, m=8)


def changed(array: Any, at: Any, value: int) -> np.ndarray:
    made = np.array(array)
    made[at] = value
    return made


MATRIX = np.array([[0, 5, 0, 0], [7, 0, 0, 9], [0, 3, 0, 1]], np.int8)
TALL = np.zeros((40, 2), np.int8)
TALL[[3, 35], 0] = 2, 3
FOURS = np.zeros((2, 6), np.int8)
FOURS[0, [1, 3]], FOURS[1, 5] = (1, 2), 3
# (format, matrix, array, place, value, message)
DAMAGE = [
    (CSC, MATRIX, "rows", 0, 3, r"rows\[0\] = 3 is not within 0..2"),
    (CSC, MATRIX, "rows", 2, 0, r"rows\[2\] = 0 does not exceed the one before it"),
    (CSC, MATRIX, "rows", 4, 1, r"rows\[4\] = 1 does not exceed"),
    (CSC, MATRIX, "pointers", 0, 1, r"pointers\[0\] = 1 is not 0"),
    (CSC, MATRIX, "pointers", 3, 1, r"pointers\[3\] = 1 is below the one before it"),
    (CSC, MATRIX, "pointers", 4, 4, "pointers end at 4, but there are 5 values"),
    (CSC, MATRIX, "pointers", 4, 6, r"pointers\[4\] = 6 is not within 0..5"),
    (CSR, MATRIX, "columns", 1, 4, r"columns\[1\] = 4 is not within 0..3"),
    (CSR, MATRIX, "columns", 2, 0, r"columns\[2\] = 0 does not exceed"),
    (COO, MATRIX, "rows", 0, 1, r"= 4 does not exceed the one before it: sort"),
    (BITMASK, MATRIX, "mask", (0, 0), 0b110, r"'values' has shape \(5,\), not \(6,\)"),
    (BITMASK, MATRIX, "mask", (0, 0), 0b100010, r"mask\[\(0, 0\)\] = 34 has bits past column 3"),
    (NM, FOURS, "positions", (0, 0, 1), 4, r"positions\[\(0, 0, 1\)\] = 4 is not within 0..3"),
    (NM, FOURS, "positions", (0, 0, 1), 1, "= 1 does not exceed the one before it"),
    (NM, FOURS, "positions", (1, 1, 1), 2, "= 3 belongs to a column past 5"),
    (TWO_FOUR, FOURS, "metadata", (0, 0), 0x7D, r"nibbles\[\(0, 1\)\] = 7 is not one of"),
    (TWO_FOUR, FOURS, "metadata", (1, 0), -1, "is not one of"),
    (VENOM, FOURS, "columns", (0, 0, 3), 8, r"columns\[\(0, 0, 3\)\] = 8 is not within 0..7"),
    (VENOM, FOURS, "columns", (0, 0, 3), 1, "does not exceed"),
    (EIE, TALL, "codebook", 0, 1, r"codebook\[0\] = 1 is not 0"),
    (EIE, TALL, "zeros", 0, 8, r"row of entry\[2\] = 40 is not below 40"),
    (EIE, TALL, "zeros", 1, 14, r"zeros\[1\] = 14 belongs to a pad of value 0"),
    (EIE, TALL, "zeros", 0, 16, r"zeros\[0\] = 16 is not within 0..15"),
    (EIE, TALL, "values", 0, 16, r"values\[0\] = 16 is not below 16"),
    (EIE, TALL, "values", 2, 0, r"values\[2\] = 0 is a pad that ends a column"),
    (EIE, TALL, "pointers", (0, 1), 2, "is a pad that ends a column"),
    (EIE8, TALL, "pointers", (0, 2), 1, "is below the one before it"),
    (EIE8, TALL, "values", 0, 0, "belongs to a pad of value 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fmt", "matrix", "name", "at", "value", "message"), DAMAGE,
    ids=[f"{d[0].name}-{d[2]}-{d[3]}-{d[4]}" for d in DAMAGE],
)  # fmt: skip
def test_damage_is_named(fmt, matrix, name, at, value, message):
    packed = fmt.pack(matrix, **({"pes": 1} if fmt in (EIE, EIE8) else {}))
    if name == "values":
        broken = replace(packed, values=changed(packed.values, at, value))
    else:
        broken = packed.replaced(**{name: changed(packed.arrays[name], at, value)})
    for call in (fmt.check, fmt.unpack):
        with pytest.raises(SparseError, match=message):
            call(broken)


@pytest.mark.parametrize(
    ("fmt", "options", "message"),
    [
        (NM, {"n": 4, "m": 4}, r"nm: n = 4 is not within 1..3"),
        (NM, {"n": 2, "m": 17}, "m = 17 is not within 2..16"),
        (NM, {"n": 2}, "m = None"),
        (EIE, {"pes": 0}, "pes = 0"),
        (EIE, {"pes": 5}, r"'pointers' has shape \(64, 7\), not \(5, 7\)"),
        (VENOM, {"v": 1, "m": 8}, r"'columns' has shape \(1, 1, 4\), not \(2, 1, 4\)"),
    ],
)
def test_options_are_checked(fmt, options, message):
    with pytest.raises(SparseError, match=message):
        fmt.unpack(replace(fmt.pack(FOURS), options=options))


@pytest.mark.parametrize(
    ("size", "message"), [(15, r"codebook \(15,\)"), (17, r"codebook \(17,\)")]
)
def test_codebooks_have_sixteen_values(size, message):
    packed = EIE.pack(TALL)
    with pytest.raises(SparseError, match=message):
        EIE.unpack(packed.replaced(codebook=np.zeros(size, np.int16)))
