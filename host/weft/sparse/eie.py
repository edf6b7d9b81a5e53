"""EIE: CSC per processing element, with 4-bit relative row indices (Han et al., EIE, ISCA 2016).

Row i belongs to PE i mod P, where it is row i // P. An entry of a column is (v, z): the value, and
the zeros before it. A gap of g zeros is g >> bits pads (0, largest z), which take a row each, then
the entry with what is left. Zeros after the last entry of a column are not stored.

`eie` has indices of a codebook of 16 int16 values whose first is 0, `eie8` values and z in a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import CapacityError, SparseError
from weft.graph import Array
from weft.sparse.nonzeros import Nonzeros, interleaved, lines
from weft.sparsity_format import (
    Packed,
    SparseFormat,
    bits_for,
    check_head,
    dense,
    fail,
    indices,
    operands,
    option,
    pointers,
    sized,
    within,
)

PES = 64  # of the paper's design
MOST_PES = 1 << 12
MOST_ENTRIES = (1 << 16) - 1  # of a PE: pointers have 16 bits
CODES = 16


@dataclass(frozen=True, eq=False)
class Load:
    """What a packed matrix asks of the PEs.

    `entries` of each PE; `padding`: entries per non-zero (1 is best); `balance`: the mean PE's
    entries as a share of the fullest one's.
    """

    entries: NDArray[np.int64]
    padding: float
    balance: float


def load(packed: Packed) -> Load:
    """Entries per PE, padding and balance of a matrix in `eie` or `eie8`."""
    ends = np.asarray(packed.arrays["pointers"])[:, -1].astype(np.int64)
    nonzeros = max(int(np.count_nonzero(packed.values)), 1)
    total, most = int(ends.sum()), max(int(ends.max()), 1)
    return Load(ends, max(total, 1) / nonzeros, total / len(ends) / most)


def relative(found: Nonzeros, bits: int) -> tuple[Array, Array, Array]:
    """Pointers, zero counts and values of a PE's entries, pads among them."""
    before = np.zeros(len(found.indices), np.int64)
    before[1:] = found.indices[:-1]
    before[1:] += 1
    before[found.pointers[:-1][np.diff(found.pointers) > 0]] = 0
    gaps = found.indices - before
    ends = np.concatenate([[0], np.cumsum((gaps >> bits) + 1)])
    zeros = np.full(ends[-1], (1 << bits) - 1, np.uint8)
    values = np.zeros(ends[-1], found.values.dtype)
    at = ends[1:] - 1
    zeros[at], values[at] = gaps & (1 << bits) - 1, found.values
    return ends[found.pointers], zeros, values


def _entries(name: str, whole: Array, pes: int, bits: int) -> tuple[Array, Array, Array]:
    """Pointers uint16 [pes, cols + 1], zero counts and values of all PEs, one PE after another."""
    starts = np.zeros((pes, whole.shape[1] + 1), np.int64)
    zeros, values = [], []
    for pe, found in enumerate(interleaved(whole, pes)):
        starts[pe], z, v = relative(found, bits)
        zeros.append(z)
        values.append(v)
    full = int(starts[:, -1].argmax())
    if starts[full, -1] > MOST_ENTRIES:
        raise CapacityError(
            f"{name}: PE {full} of {pes} gets {starts[full, -1]} entries, but 16-bit pointers "
            f"reach {MOST_ENTRIES}: use more PEs, or pack parts of the columns"
        )
    return starts.astype(np.uint16), np.concatenate(zeros), np.concatenate(values)


def _book(values: Array) -> NDArray[np.int16]:
    """A codebook of the different values, in order after the 0. Raises SparseError beyond 15."""
    seen = np.zeros(1 << 16, bool)
    seen[values.view(np.uint16)] = True
    seen[0] = False
    found = np.sort(np.flatnonzero(seen).astype(np.uint16).view(np.int16))
    if len(found) >= CODES:
        raise SparseError(
            f"eie: {len(found)} different values besides 0, but a codebook holds {CODES - 1}: "
            "quantize to 15 values first, or use eie8"
        )
    return np.concatenate(
        [np.zeros(1, np.int16), found, np.zeros(CODES - 1 - len(found), np.int16)]
    )


def _check_book(book: Array) -> NDArray[np.int16]:
    if book.shape != (CODES,) or book.dtype != np.int16:
        raise SparseError(f"eie: codebook {book.shape} of {book.dtype} is not int16 ({CODES},)")
    if book[0] != 0:
        raise SparseError(f"eie: codebook[0] = {book[0]} is not 0, which pads decode to")
    return book


def pack(matrix: Array, pes: int = PES, codebook: Array | None = None) -> Packed:
    """Entries of [rows, cols]: `pointers` uint16 [pes, cols + 1], `zeros` uint8, `codebook` int16.

    Values are codes (uint8), the matrix that comes back is int16; the entries of PE 0 come first.
    Raises SparseError for values that the codebook has not (without one: more than 15),
    CapacityError for more entries than 16-bit pointers reach.
    """
    whole = dense(matrix)
    pes = within("eie", "pes", pes, 1, MOST_PES)
    starts, zeros, values = _entries("eie", whole, pes, 4)
    wide = values.astype(np.int16)
    book = _book(wide) if codebook is None else _check_book(np.asarray(codebook))
    table = np.full(1 << 16, CODES, np.uint8)
    table[book[::-1].view(np.uint16)] = np.arange(CODES - 1, -1, -1)  # the first of equal ones
    codes = table[wide.view(np.uint16)]
    if codes.max(initial=0) == CODES:
        raise SparseError(f"eie: value {wide[codes == CODES][0]} is not in the codebook {book}")
    arrays = {"pointers": starts, "zeros": zeros, "codebook": book}
    return Packed("eie", whole.shape, codes, arrays, {"pes": pes})


def pack8(matrix: Array, pes: int = PES, index_bits: int = 8) -> Packed:
    """Entries of [rows, cols] with values as they are, and z of `index_bits`, 8 at most."""
    whole = dense(matrix)
    pes = within("eie8", "pes", pes, 1, MOST_PES)
    bits = within("eie8", "index_bits", index_bits, 1, 8)
    starts, zeros, values = _entries("eie8", whole, pes, bits)
    arrays = {"pointers": starts, "zeros": zeros}
    return Packed("eie8", whole.shape, values, arrays, {"pes": pes, "index_bits": bits})


def _index_bits(packed: Packed) -> int:
    return 4 if packed.format == "eie" else option(packed, "index_bits", 1, 8)


def _checked(packed: Packed) -> tuple[Array, Array]:
    """Row and column of each entry. Raises SparseError as `check` does."""
    pes, bits, count = option(packed, "pes", 1, MOST_PES), _index_bits(packed), packed.values.size
    starts = pointers(packed, "pointers", (pes, packed.cols + 1))
    values = sized(packed, "values", (count,))
    zeros = indices(packed, "zeros", (count,), 1 << bits)
    offsets = np.concatenate([[0], np.cumsum(starts[:, -1])])
    flat = np.append((starts[:, :-1] + offsets[:-1, None]).reshape(-1), count)
    pe, column = np.divmod(lines(flat), packed.cols)
    passed = np.concatenate([[0], np.cumsum(zeros + 1)])
    begun = np.repeat(passed[flat[:-1]], np.diff(flat))
    rows = (passed[1:] - begun - 1) * pes + pe
    fail(packed, "row of entry", rows, rows >= packed.rows, f"is not below {packed.rows}")
    if not packed.number_format:
        last = np.zeros(count, bool)
        last[flat[1:][np.diff(flat) > 0] - 1] = True
        pad = values == 0
        fail(
            packed, "zeros", zeros, pad & (zeros != (1 << bits) - 1), "belongs to a pad of value 0"
        )
        fail(packed, "values", values, pad & last, "is a pad that ends a column")
    return rows, column


def _check_eie(packed: Packed) -> tuple[Array, Array]:
    check_head(packed, "eie", ("pointers", "zeros", "codebook"), indexed=True)
    _check_book(np.asarray(packed.arrays["codebook"]))
    values = np.asarray(packed.values)
    fail(packed, "values", values, values >= CODES, f"is not below {CODES}, the codes there are")
    return _checked(packed)


def check(packed: Packed) -> None:
    """Raises SparseError for wrong pointers, codes, codebooks, pads, and rows past the last."""
    _check_eie(packed)


def check8(packed: Packed) -> None:
    """Raises SparseError for wrong pointers, zero counts, pads, and rows past the last."""
    check_head(packed, "eie8", ("pointers", "zeros"))
    _checked(packed)


def unpack(packed: Packed) -> Array:
    """The matrix, int16 [rows, cols]. Raises SparseError as `check` does."""
    at = _check_eie(packed)
    operands(packed)
    matrix = np.zeros(packed.shape, np.int16)
    matrix[at] = packed.arrays["codebook"][packed.values]
    return matrix


def unpack8(packed: Packed) -> Array:
    """The matrix [rows, cols]. Raises SparseError as `check8` does."""
    check_head(packed, "eie8", ("pointers", "zeros"))
    at = _checked(packed)
    matrix = np.zeros(packed.shape, packed.values.dtype)
    matrix[at] = operands(packed)
    return matrix


def _widths(packed: Packed) -> dict[str, int]:
    own = {"pointers": 16, "zeros": _index_bits(packed)}
    return {**own, "codebook": 16} if packed.format == "eie" else own


DOC = "EIE, Han et al., ISCA 2016"
EIE = SparseFormat("eie", pack, unpack, check, _widths, DOC, value_bits=bits_for(CODES))
EIE8 = SparseFormat("eie8", pack8, unpack8, check8, _widths, f"{DOC}; values, and zeros in a byte")
EIES = [EIE, EIE8]
