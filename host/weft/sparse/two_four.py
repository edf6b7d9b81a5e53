"""2:4 as sparse tensor cores keep it (Mishra et al., Accelerating Sparse DNNs, 2021).

Two values of each four columns, and a nibble: idx0 + 4 idx1, idx0 < idx1. A word of metadata holds
8 groups for int8 (int32) or 4 for int16 (int16), the first in the low nibble. Words are in logical
order, row by row (CUTLASS permutes them). A row is filled up with columns of zeros to whole words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import SparseError
from weft.graph import Array
from weft.sparse.nm import grouped, require
from weft.sparsity_format import Packed, SparseFormat, check_head, dense, fail, operands, sized

# Nibble by which of the elements 0..3 (bits 0..3) are not 0; of fewer than two, as torch has it.
NIBBLES = np.array([0xE, 8, 9, 4, 0xE, 8, 9, 0, 0xE, 0xC, 0xD, 0, 0xE, 0, 0, 0], np.uint8)
COUNTS = np.array([bin(mask).count("1") for mask in range(16)], np.uint8)
VALID = np.isin(np.arange(16), NIBBLES[COUNTS <= 2])
BLOCK = 1 << 18  # elements that are worked on at a time: they stay in cache
WORDS = {np.dtype(np.int16): 4, np.dtype(np.int32): 8}  # type of a word → groups in it


def _masks(groups: Array) -> Array:
    """Which elements of groups [rows, groups, 4] are not 0, in bits 0..3."""
    four: Array = (groups != 0).view(np.uint32)[..., 0]
    # Byte i is moved to bit 24 + i; no two bytes meet on the way.
    four *= np.uint32(1 << 24 | 1 << 17 | 1 << 10 | 1 << 3)
    four >>= np.uint32(24)
    return np.asarray(four.astype(np.uint8) & np.uint8(15))


def _kept(groups: Array, nibbles: Array) -> Array:
    """The two values of each group, [rows, groups, 2]."""
    bits = 8 * groups.dtype.itemsize
    wide: Any = np.uint32 if bits == 8 else np.uint64
    pair: Any = np.uint16 if bits == 8 else np.uint32
    four = groups.view(wide)[..., 0]
    at = np.arange(16)
    mask = wide((1 << bits) - 1)
    kept: Array = four >> ((at & 3) * bits).astype(wide)[nibbles] & mask
    # idx1 is at least 1: a place less, and the value ends up above the first one.
    kept |= four >> (((at >> 2) - 1) % 4 * bits).astype(wide)[nibbles] & mask << wide(bits)
    return np.asarray(kept.astype(pair)[..., None].view(groups.dtype))


def pack(matrix: Array) -> Packed:
    """Values [rows, 2 groups] and `metadata` words [rows, words].

    Raises SparseError for a group with more than two non-zeros.
    """
    whole = dense(matrix)
    word = np.dtype(np.int32 if whole.dtype == np.int8 else np.int16)
    rows, per_word = len(whole), WORDS[word]
    groups = grouped(grouped(whole, 4 * per_word).reshape(rows, -1), 4)
    count = groups.shape[1]
    values = np.empty((rows, count, 2), whole.dtype)
    nibbles = np.empty((rows, count), np.uint8)
    step = max(1, BLOCK // (4 * count))
    for first in range(0, rows, step):
        part = groups[first : first + step]
        masks = _masks(part)
        if (COUNTS[masks] > 2).any():
            require("2:4", COUNTS[_masks(groups)], 2, 4)
        nibbles[first : first + step] = own = NIBBLES[masks]
        values[first : first + step] = _kept(part, own)
    metadata = (nibbles[:, ::2] | nibbles[:, 1::2] << np.uint8(4)).view(word)
    return Packed("2:4", whole.shape, values.reshape(rows, -1), {"metadata": metadata})


def check_metadata(packed: Packed, cols: int) -> NDArray[np.uint8]:
    """Nibbles [rows, groups] of rows of `cols` columns. Raises SparseError for others than six."""
    words = np.asarray(packed.arrays["metadata"])
    if words.dtype not in WORDS:
        raise SparseError(f"{packed.format}: metadata is {words.dtype}, not int16 or int32")
    per_word = WORDS[words.dtype]
    count = -(-cols // (4 * per_word))
    sized(packed, "metadata", (packed.rows, count))
    sized(packed, "values", (packed.rows, count * per_word * 2))
    pairs = np.ascontiguousarray(words).view(np.uint8)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(packed.rows, -1)
    fail(packed, "nibbles", nibbles, ~VALID[nibbles], "is not one of 4, 8, 9, 12, 13, 14")
    return nibbles


def spread(values: Array, nibbles: Array) -> Array:
    """Rows [rows, 4 groups] of the values of 2:4."""
    pairs = values.reshape(*nibbles.shape, 2)
    groups = np.zeros((*nibbles.shape, 4), values.dtype)
    at = np.stack([nibbles & 3, nibbles >> 2], axis=2).astype(np.intp)
    np.put_along_axis(groups, at, pairs, axis=2)
    return groups.reshape(len(nibbles), -1)


def check_past(packed: Packed, wide: Array, cols: int) -> None:
    """Raises SparseError where there are values past the columns of the matrix."""
    past = wide[:, cols:]
    fail(packed, f"matrix[:, {cols}:]", past, past != 0, "is a value past the columns")


def check(packed: Packed) -> None:
    """Raises SparseError for nibbles that name no two positions, and values past the row."""
    _wide(packed)


def _wide(packed: Packed) -> Array:
    check_head(packed, "2:4", ("metadata",))
    wide = spread(np.asarray(packed.values), check_metadata(packed, packed.cols))
    if not packed.number_format:
        check_past(packed, wide, packed.cols)
    return wide


def unpack(packed: Packed) -> Array:
    """The matrix [rows, cols]. Raises SparseError as `check` does."""
    wide = _wide(packed)
    operands(packed)
    return np.ascontiguousarray(wide[:, : packed.cols])


def widths(packed: Packed) -> dict[str, int]:
    """Bits of a word of metadata."""
    return {"metadata": 8 * packed.arrays["metadata"].dtype.itemsize}


TWO_FOUR = SparseFormat(
    "2:4", pack, unpack, check, widths, "sparse tensor cores, Mishra et al. 2021"
)
