"""A codebook of 16 numbers, 0 first, for layers in which few values occur: codes have 4 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array

ENTRIES = 16


def book_of(operands: Array) -> NDArray[np.int16] | None:
    """The values that occur, 0 first; None where there are more than 15 others."""
    found = np.unique(operands)
    others = found[found != 0]
    if len(others) >= ENTRIES:
        return None
    book = np.zeros(ENTRIES, np.int16)
    book[1 : 1 + len(others)] = others
    return book


def codes_of(operands: Array, book: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Codes of operands that all occur in `book`."""
    number = {int(value): code for code, value in reversed(list(enumerate(book)))}
    known = np.array(sorted(number))
    codes = np.array([number[int(value)] for value in known], np.uint8)
    return np.asarray(codes[np.searchsorted(known, operands)])
