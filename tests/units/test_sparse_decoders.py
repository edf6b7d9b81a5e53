"""The hardware's decoders of sparse formats on what weft.sparse packs, against scipy and torch.

Corrupted arrays end in a status exactly where weft.sparse refuses them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

import sparse_hls as hls
import sparse_matrices as matrices
from weft.errors import SparseError
from weft.sparse import SPARSE, Packed

DONE, BAD = 0, 10
CONSTRUCTORS = {"coo": sparse.coo_array, "csr": sparse.csr_array, "csc": sparse.csc_array}
SHAPES = ((1, 1), (1, 40), (40, 1), (17, 33), (64, 65))
DENSITIES = (0.0, 0.02, 0.1, 0.5, 1.0)
each_form = pytest.mark.parametrize("form", hls.FORMS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def decode(form: str, packed: Packed) -> tuple[int, int, np.ndarray]:
    """What the decoder of a packed matrix's format makes of it."""
    a, options = packed.arrays, (0, 0)
    if packed.format == "coo":
        arrays = [a["rows"], a["columns"]]
    elif packed.format in ("csr", "csc"):
        arrays = [a["pointers"], a["columns" if packed.format == "csr" else "rows"]]
    else:
        per_word = 8 if a["metadata"].dtype == np.int32 else 4
        words = a["metadata"].view(np.uint32 if per_word == 8 else np.uint16)
        arrays, options = [words], (per_word, 0)
        if packed.format == "venom":
            arrays = [a["columns"], words]
            options = (packed.options["v"] * 100 + packed.options["m"], per_word)
    name = {"2:4": "two_four"}.get(packed.format, packed.format)
    return hls.decode(form, name, packed.shape, arrays, packed.values, options)


def cases(name: str) -> list[matrices.Options]:
    return matrices.OPTIONS.get(name, [{}])


@each_form
@each_shape
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_what_scipy_keeps_comes_out(form, shape, name):
    for seed, density in enumerate(DENSITIES):
        for dtype in (np.int8, np.int16):
            matrix = matrices.random(seed, shape, density, dtype)
            theirs = CONSTRUCTORS[name](matrix)
            arrays = [theirs.row, theirs.col] if name == "coo" else [theirs.indptr, theirs.indices]
            status, _, found = hls.decode(form, name, shape, arrays, theirs.data)
            assert status == DONE
            np.testing.assert_array_equal(found, matrix)
            status, _, found = decode(form, SPARSE[name].pack(matrix))
            assert status == DONE
            np.testing.assert_array_equal(found, theirs.toarray())


@each_form
@each_shape
@pytest.mark.parametrize("name", ["2:4", "venom"])
def test_patterns_come_out(form, shape, name):
    for options in cases(name):
        for seed, density in enumerate(DENSITIES):
            for dtype in (np.int8, np.int16):
                whole = matrices.random(seed, shape, density, dtype)
                matrix = matrices.fitting(name, whole, options)
                status, _, found = decode(form, SPARSE[name].pack(matrix, **options))
                assert status == DONE
                np.testing.assert_array_equal(found, matrix)


@each_form
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_what_torch_keeps_of_2_4_comes_out(form, dtype):
    """Its metadata lies in another order of words, which its own function gives."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch.sparse import _semi_structured_conversions as theirs

    rows, cols = 64, 128
    matrix = matrices.as_nm(matrices.random(3, (rows, cols), 0.6, dtype))
    # torch packs int8 and 16-bit numbers: of these float16, whose integers are exact to 2048.
    small = matrix if dtype == np.int8 else (matrix // 32).astype(dtype)
    small = np.where(matrix != 0, np.where(small == 0, 1, small), 0).astype(dtype)
    dense = torch.from_numpy(small).to(torch.int8 if dtype == np.int8 else torch.float16)
    values, metadata = theirs.sparse_semi_structured_from_dense_cutlass(dense)
    word = metadata.dtype
    order = theirs._calculate_meta_reordering_scatter_offsets(
        *metadata.shape, word, metadata.device
    )
    logical = metadata.reshape(-1)[order].reshape(metadata.shape).numpy()
    per_word = 8 if dtype == np.int8 else 4
    words = logical.view(np.uint32 if per_word == 8 else np.uint16)
    kept = values.to(torch.int32).numpy()
    status, _, found = hls.decode(form, "two_four", (rows, cols), [words], kept, (per_word, 0))
    assert status == DONE
    np.testing.assert_array_equal(found, small)


def corrupted(packed: Packed, rng: np.random.Generator) -> Packed:
    """One element of one index array is another number; some have no effect."""
    name = rng.choice(sorted(packed.arrays))
    array = packed.arrays[name].copy()
    at = tuple(rng.integers(0, size) for size in array.shape)
    if name == "metadata":
        array[at] ^= np.asarray(1 << int(rng.integers(0, 8 * array.itemsize - 1)), array.dtype)
    elif rng.random() < 0.5:
        array[at] = min(int(rng.integers(0, 80)), np.iinfo(array.dtype).max)
    else:
        array[at] += np.asarray(1, array.dtype)
    return packed.replaced(**{str(name): array})


@each_form
@pytest.mark.parametrize("name", ["coo", "csr", "csc", "2:4", "venom"])
def test_what_contradicts_itself_ends_with_a_status(form, name):
    """Exactly where weft.sparse raises; what it accepts comes out as it unpacks it."""
    rng, refused, taken = np.random.default_rng(7), 0, 0
    for trial in range(300):
        shape, options = SHAPES[trial % len(SHAPES)], cases(name)[trial % len(cases(name))]
        matrix = matrices.fitting(name, matrices.random(trial, shape, 0.2), options)
        good = SPARSE[name].pack(matrix, **options)
        if not all(array.size for array in good.arrays.values()):
            continue
        packed = corrupted(good, rng)
        status, word, found = decode(form, packed)
        try:
            expected = SPARSE[name].unpack(packed)
        except SparseError:
            refused += 1
            assert status == BAD, (trial, packed)
            assert 0 <= word < sum(array.size for array in packed.arrays.values())
            continue
        taken += 1
        assert status == DONE, (trial, packed, word)
        np.testing.assert_array_equal(found, expected)
    assert refused > 20
    assert taken > 10


def in_rows(*parts: Any) -> np.ndarray:
    """Bytes of a weight stream, each part beginning a row; [rows, lanes]."""
    lanes, made = hls.overlay().lanes, []
    for part in parts:
        flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        made.append(np.pad(flat, (0, -len(flat) % lanes)))
    return np.concatenate(made).reshape(-1, lanes)


def eie_rows(packed: Packed) -> np.ndarray:
    """The stream of engine eie: pointers of all PEs, low bytes first, then the PEs' entries."""
    pes, starts = packed.options["pes"], packed.arrays["pointers"]
    low_high = np.stack([starts.T & 0xFF, starts.T >> 8], axis=1).astype(np.uint8)
    zeros, values = packed.arrays["zeros"], packed.values.view(np.uint8)
    coded = packed.format == "eie"
    whole = [values | zeros << 4] if coded else [values, zeros]
    ends = np.cumsum(starts[:, -1].astype(np.int64))
    most = int(starts[:, -1].max())
    bytes_of = np.zeros((most, len(whole), pes), np.uint8)
    for pe, end in enumerate(ends):
        count = int(starts[pe, -1])
        for byte, part in enumerate(whole):
            bytes_of[:count, byte, pe] = part[end - count : end]
    book = [packed.arrays["codebook"]] if coded else []
    return in_rows(*book, low_high, bytes_of)


@each_form
@pytest.mark.parametrize("name", ["eie", "eie8"])
def test_eie_reads_what_is_packed(form, name):
    lanes, pes = hls.overlay().lanes, hls.overlay().eie_pes
    for seed, density in enumerate(DENSITIES):
        for tiles, blocks in ((1, 1), (5, 2)):
            whole = matrices.random(seed, (tiles * lanes, blocks * lanes), density)
            matrix = matrices.as_eie(whole) if name == "eie" else whole
            packed = SPARSE[name].pack(matrix, pes=pes)
            rows = eie_rows(packed)
            status, _, found = hls.stream(form, "eie", matrix.shape, rows, int(name == "eie"))
            assert status == DONE
            np.testing.assert_array_equal(found, sparse.csc_array(matrix).toarray())
            cut = rows[: -1 if density else 1]
            status, row, _ = hls.stream(form, "eie", matrix.shape, cut, int(name == "eie"))
            assert (status, row <= len(cut)) == (BAD, True)


def test_eie_pointers_that_fall_end_with_their_row():
    lanes, pes = hls.overlay().lanes, hls.overlay().eie_pes
    matrix = matrices.random(1, (2 * lanes, lanes), 0.5)
    packed = SPARSE["eie8"].pack(matrix, pes=pes)
    starts = packed.arrays["pointers"].copy()
    starts[pes - 1, 4] = starts[pes - 1, 3] - 1
    rows = eie_rows(packed.replaced(pointers=starts))
    status, row, _ = hls.stream("cycle", "eie", matrix.shape, rows, 0)
    groups = pes // lanes
    assert (status, row) == (BAD, 4 * 2 * groups + 2 * groups - 1)


def bitmask_rows(packed: Packed) -> np.ndarray:
    """Packets of engine gather: a row of masks, then the rows of values that begin there."""
    lanes = hls.overlay().lanes
    mask = in_rows(packed.arrays["mask"])
    values = in_rows(packed.values)
    counts = np.unpackbits(mask, axis=1).sum(axis=1).cumsum()
    made, taken = [], 0
    for packet, count in zip(mask, counts, strict=True):
        due = -(-int(count) // lanes)
        made += [packet, *values[taken:due]]
        taken = due
    return np.stack(made)


@each_form
def test_gather_reads_a_packed_bitmask(form):
    lanes = hls.overlay().lanes
    for seed, density in enumerate(DENSITIES):
        for tiles, blocks in ((1, 1), (1, 3), (2, 8)):
            matrix = matrices.random(seed, (tiles * lanes, blocks * lanes), density)
            packed = SPARSE["bitmask"].pack(matrix)
            rows = bitmask_rows(packed)
            status, _, found = hls.stream(form, "bitmask", matrix.shape, rows, 0)
            assert status == DONE
            np.testing.assert_array_equal(found, sparse.csr_array(matrix).toarray())
            status, row, _ = hls.stream(form, "bitmask", matrix.shape, rows[:-1], 0)
            assert (status, row) == (BAD, len(rows) - 1)
            more = np.concatenate([rows, rows[:1]])
            status, row, _ = hls.stream(form, "bitmask", matrix.shape, more, 0)
            assert (status, row) == (BAD, len(rows))


def planes(positions: np.ndarray, bits: int) -> np.ndarray:
    """Positions [lanes, lanes] of a tile as rows of bytes: planes of 4, 2 and 1 bits."""
    made = []
    for eight in positions.reshape(-1, 8, positions.shape[1]).astype(np.uint8):
        shift = 0
        for width in (w for w in (4, 2, 1) if bits & w):
            part = eight >> shift & (1 << width) - 1
            each = part.reshape(width, 8 // width, -1)  # rows that share a byte
            places = width * np.arange(8 // width)[:, None]
            made.append((each << places).sum(axis=1).astype(np.uint8))
            shift += width
    return np.concatenate(made)


@each_form
@pytest.mark.parametrize(("n", "log_m"), [(1, 1), (1, 2), (2, 2), (2, 3), (4, 3), (1, 4), (8, 4)])
def test_positions_of_packed_n_m_come_out(form, n, log_m):
    lanes, m = hls.overlay().lanes, 1 << log_m
    if m > hls.overlay().nm_group:
        pytest.skip(f"overlay lab has groups of {hls.overlay().nm_group} channels at most")
    words = max(w for w in (1, 2, 4) if w * n <= m)
    used = n * words * lanes // m  # rows of a tile
    matrix = matrices.as_nm(matrices.random(n, (lanes, used // n * m), 0.4), n, m)
    positions = SPARSE["nm"].pack(matrix, n=n, m=m).arrays["positions"]
    tile = np.zeros((lanes, lanes), np.uint8)
    tile[:used] = positions.reshape(lanes, -1).T
    found = hls.nm_positions(form, n, log_m, words, planes(tile, log_m))
    np.testing.assert_array_equal(found[:used], tile[:used])
    if n > 1:
        tile[1] = tile[0]
        falls = hls.nm_positions(form, n, log_m, words, planes(tile, log_m))
        assert (falls[1] == -1).all()
        np.testing.assert_array_equal(falls[0], tile[0])
