"""Fixed-point pieces of the nonlinear units: rounding shifts, leading ones, mantissas.

Golden model of hls/weft/units/fixed.hpp. Every unit of the family is a value that is called with
integer codes (int64 arrays of any shape), has the name of its C++ type in `cpp`, that of its header
in `hpp`, and gives in `words()` the parameters that the hardware loads, in the order it does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Codes = NDArray[np.int64]

ONE = 1 << 15  # 1.0 of exponentials, reciprocals and mantissas
LOG2E = 23637  # log2(e), 14 fraction bits
LEAST_EXPONENT = 16  # exp(-16) is below half an output step


class Unit(Protocol):
    """A nonlinear unit: a golden model, and what its hardware half needs."""

    @property
    def cpp(self) -> str:
        """Its C++ type in namespace weft."""
        ...

    @property
    def hpp(self) -> str:
        """The header of that type, below hls/weft."""
        ...

    def words(self) -> list[int]:
        """Parameters, int32 each, in the order the hardware loads them."""
        ...

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        ...


def codes(x: ArrayLike) -> Codes:
    """As int64, which no intermediate of a 32-bit unit overflows."""
    return np.asarray(x, np.int64)


def rounded(x: Any, shift: Any) -> Any:
    """x / 2**shift, ties up; shift 1 or more, an integer or an array of them."""
    return ((x >> np.minimum(np.asarray(shift, np.int64) - 1, 63)) + 1) >> 1


def leading_one(x: ArrayLike) -> Codes:
    """Bit number of the highest one; 0 for 0. Exact for 0 <= x < 2**63."""
    rest, lead = codes(x).copy(), np.zeros(np.shape(x), np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = rest >> step
        lead += np.where(high > 0, step, 0)
        rest = np.where(high > 0, high, rest)
    return lead


def normalized(x: ArrayLike) -> tuple[Codes, Codes]:
    """(mantissa, exponent): mantissa in [1, 2) with 15 fraction bits, x ~ mantissa * 2**exponent.

    Cuts what is below; 0 has mantissa 0.
    """
    exponent = leading_one(x) - 15
    return _aligned(codes(x), exponent), exponent


def normalized_even(x: ArrayLike) -> tuple[Codes, Codes]:
    """As `normalized` with an even exponent: mantissa in [1, 4) with 14 fraction bits."""
    exponent = leading_one(x) // 2 * 2 - 14
    return _aligned(codes(x), exponent), exponent


def _aligned(x: Codes, right: Codes) -> Codes:
    return (x >> np.maximum(right, 0)) << np.maximum(-right, 0)


def joined(parts: Iterable[Iterable[Any]]) -> list[int]:
    """Columns of parameters as one list, element by element: a0 b0 a1 b1 ..."""
    return [int(value) for row in zip(*parts, strict=True) for value in row]
