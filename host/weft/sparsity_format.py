"""SparseFormat: what every sparse storage format is made of, and what formats share.

A weight matrix is [rows, cols]: outputs N, then input channels K. A format keeps the values that
are not 0, and index arrays that say where they belong. Values are *operands* (int8, int16: what an
array multiplies with) until `encoded` makes codes of a number format of them, so that each number
format whose codes stand alone goes with each sparse format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError, SparseError, UsageError
from weft.format import Format
from weft.graph import Array, Quant

# More elements than any layer has: what a corrupt shape may make `unpack` allocate is bounded.
MOST_ELEMENTS = 1 << 30


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed matrix: its `shape`, the kept `values`, index `arrays` by name, and `options`.

    `number_format` names the format whose codes `values` are; "" if they are operands.
    """

    format: str
    shape: tuple[int, int]
    values: Array
    arrays: Mapping[str, Array]
    options: Mapping[str, int] = field(default_factory=dict)
    number_format: str = ""

    @property
    def rows(self) -> int:
        """Outputs."""
        return self.shape[0]

    @property
    def cols(self) -> int:
        """Input channels."""
        return self.shape[1]

    def replaced(self, **arrays: Array) -> Packed:
        """The same with some index arrays replaced."""
        return replace(self, arrays={**self.arrays, **arrays})


@dataclass(frozen=True)
class SparseFormat:
    """A sparse storage format.

    `pack(matrix, **options)` takes int8 or int16 [rows, cols] and raises InputError for anything
    else, SparseError where the matrix lacks the format's pattern, CapacityError where a field is
    too narrow. `check(packed)` raises SparseError with the array, the position, the value and the
    limit of what is wrong. `unpack(packed)` checks, then gives the very matrix back.

    `widths(packed)` holds the bits of an element of each index array. `value_bits` is set where
    values are indices of a codebook in the arrays; else the number format decides.
    """

    name: str
    pack: Callable[..., Packed]
    unpack: Callable[[Packed], Array]
    check: Callable[[Packed], None]
    widths: Callable[[Packed], dict[str, int]]
    doc: str
    value_bits: int = 0

    def nbits(self, packed: Packed, bits: int) -> int:
        """Size in bits, with values of `bits` bits."""
        widths = self.widths(packed)
        index = sum(int(array.size) * widths[name] for name, array in packed.arrays.items())
        return int(packed.values.size) * (self.value_bits or bits) + index

    def nbytes(self, packed: Packed, number_format: Format) -> int:
        """Bytes with values in codes of a number format, its codebook included."""
        bits = self.nbits(packed, number_format.bits)
        if not self.value_bits:
            if number_format.per_byte:
                own = -(-packed.values.size // number_format.per_byte) * 8
                bits = self.nbits(packed, 0) + own
            if number_format.codebook:
                bits += 16 << number_format.bits
        return -(-bits // 8)


def dense(matrix: Array) -> Array:
    """`matrix` as a contiguous array. Raises InputError unless it is int8 or int16 [rows, cols]."""
    whole = np.asarray(matrix)
    if whole.ndim != 2 or whole.dtype not in (np.int8, np.int16) or not whole.size:
        raise InputError(
            f"a matrix {whole.shape} of {whole.dtype} can't be packed: int8 or int16 "
            "[rows, cols] is needed, with at least one element"
        )
    if whole.size > MOST_ELEMENTS:
        raise InputError(f"a matrix {whole.shape} is too large: {MOST_ELEMENTS} elements at most")
    # In between flat: an axis of one element may have any stride else, which views stumble over.
    return np.ascontiguousarray(whole).reshape(-1).reshape(whole.shape)


def bits_for(count: int) -> int:
    """Bits of an index of `count` things: log2, rounded up."""
    return max(int(count) - 1, 0).bit_length()


def smallest(array: Array, count: int) -> Array:
    """Indices below `count` as uint16, as uint32 if that can't hold them."""
    return np.asarray(array).astype(index_type(count), copy=False)


def index_type(count: int) -> Any:
    """The type of indices below `count`: uint16, or uint32 if that can't hold them."""
    return np.uint16 if count <= 1 << 16 else np.uint32


def encoded(packed: Packed, fmt: Format, quant: Quant) -> Packed:
    """`packed` with codes of a number format for its operands.

    Raises UsageError where codes don't stand alone (pairs, groups), are real or know no 0, or where
    the sparse format has a codebook of its own; InputError for operands that are no values of it.
    """
    if "codebook" in packed.arrays:
        raise UsageError(f"{packed.format!r} has a codebook of its own: no {fmt.name} on top of it")
    if packed.number_format:
        raise UsageError(f"values are codes of {packed.number_format} already")
    grid = quant.codebook if fmt.codebook else fmt.grid
    if fmt.pairs or fmt.group or fmt.operand == "bf16" or grid is None or 0 not in grid:
        raise UsageError(
            f"{fmt.name} can't be stored sparse: codes must stand alone, for integers and for 0"
        )
    return replace(packed, values=fmt.encode(packed.values, quant), number_format=fmt.name)


def decoded(packed: Packed, fmt: Format, quant: Quant) -> Packed:
    """The inverse of `encoded`. Raises SparseError for codes that the number format has not."""
    if packed.number_format != fmt.name:
        raise UsageError(
            f"values are codes of {packed.number_format or 'no format'!r}, not {fmt.name!r}"
        )
    values = np.asarray(packed.values)
    if values.dtype.kind != "u":
        raise SparseError(f"{packed.format}: values are {values.dtype}, not unsigned codes")
    below(packed, "values", values, 1 << fmt.bits)
    return replace(packed, values=np.asarray(fmt.decode(values, quant)), number_format="")


def check_head(packed: Packed, fmt: str, arrays: tuple[str, ...], indexed: bool = False) -> None:
    """Raises SparseError for another format, a bad shape, missing arrays, or unfit values.

    `indexed`: values are indices of a codebook.
    """
    if packed.format != fmt:
        raise SparseError(f"packed as {packed.format!r}, not as {fmt!r}")
    whole = [isinstance(size, (int, np.integer)) and size > 0 for size in packed.shape]
    if whole != [True, True] or int(packed.rows) * int(packed.cols) > MOST_ELEMENTS:
        raise SparseError(f"{fmt}: shape {packed.shape} is not within 1..{MOST_ELEMENTS} elements")
    if set(packed.arrays) != set(arrays):
        raise SparseError(f"{fmt}: arrays {sorted(packed.arrays)} are not {sorted(arrays)}")
    codes = indexed or bool(packed.number_format)
    kinds = ("uint8", "uint16") if codes else ("int8", "int16")
    found = np.asarray(packed.values).dtype.name
    if found not in kinds:
        raise SparseError(f"{fmt}: values are {found}, not {' or '.join(kinds)}")


def option(packed: Packed, name: str, low: int, high: int) -> int:
    """An option within low..high, or SparseError."""
    value = packed.options.get(name)
    return within(packed.format, name, value, low, high)


def within(fmt: str, name: str, value: Any, low: int, high: int) -> int:
    """`value` if it is an integer within low..high, or SparseError."""
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise SparseError(f"{fmt}: {name} = {value!r} is not within {low}..{high}")
    return int(value)


def operands(packed: Packed) -> Array:
    """The values. Raises SparseError if they are codes still."""
    if packed.number_format:
        raise SparseError(
            f"{packed.format}: values are codes of {packed.number_format}; use decoded() first"
        )
    return np.asarray(packed.values)


def sized(packed: Packed, name: str, shape: tuple[int, ...]) -> Array:
    """An index array, or "values", that has `shape`. Raises SparseError if it has not."""
    array = np.asarray(packed.values if name == "values" else packed.arrays[name])
    if name != "values" and array.dtype.kind not in "iu":
        raise SparseError(f"{packed.format}: array {name!r} is {array.dtype}, not of integers")
    if array.shape != shape:
        raise SparseError(f"{packed.format}: array {name!r} has shape {array.shape}, not {shape}")
    return array


def fail(packed: Packed, name: str, array: Array, wrong: Array, limit: str) -> None:
    """Raises SparseError for the first element of `array` that is `wrong`, if there is one."""
    if not wrong.any():
        return
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = at[0] if len(at) == 1 else at
    raise SparseError(f"{packed.format}: {name}[{place}] = {array[at]} {limit}")


def below(packed: Packed, name: str, array: Array, limit: int) -> None:
    """Raises SparseError unless all elements are within 0..limit - 1."""
    wrong = (array < 0) | (array >= limit)
    fail(packed, name, array, wrong, f"is not within 0..{limit - 1}")


def indices(packed: Packed, name: str, shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    """An index array of `shape` with elements below `limit`, as int64. Raises SparseError."""
    array = sized(packed, name, shape)
    below(packed, name, array, limit)
    return array.astype(np.int64)


def pointers(packed: Packed, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """A pointer array: along its last axis from 0 upwards; the last ones add up to the values.

    Raises SparseError if it is not.
    """
    count = packed.values.size
    array = indices(packed, name, shape, count + 1)
    wrong = np.zeros(array.shape, bool)
    wrong[..., 0] = array[..., 0] != 0
    fail(packed, name, array, wrong, "is not 0, where pointers begin")
    wrong[..., 1:] = array[..., 1:] < array[..., :-1]
    fail(packed, name, array, wrong, "is below the one before it")
    total = int(array[..., -1].sum())
    if total != count:
        raise SparseError(f"{packed.format}: {name} end at {total}, but there are {count} values")
    return array


def rising(packed: Packed, name: str, array: Array, starts: Array) -> None:
    """Raises SparseError unless `array` rises strictly between `starts` (positions in it)."""
    wrong = np.zeros(array.shape, bool)
    wrong[1:] = array[1:] <= array[:-1]
    wrong[starts[starts < len(array)]] = False
    fail(packed, name, array, wrong, "does not exceed the one before it: sort, and sum duplicates")
