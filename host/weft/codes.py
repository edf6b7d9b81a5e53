"""Codes of activations: which int8 numbers stand for values of a format.

Integers of N bits are codes within a narrower range. In formats whose values are not equally far
apart (flint4, pot4, e2m1, ternary, binary) codes are the grid's values, with zero point 0.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from weft.errors import UsageError, unknown
from weft.formats import FORMATS, parse

_INTEGER = re.compile(r"(u?)int([2-8])")
KINDS = tuple(f.name for f in FORMATS.values() if f.activations and f.name != "bf16")


def check(name: str) -> str:
    """Returns the name; raises UsageError if activations can't have that format."""
    if name not in KINDS:
        hint = " (as weights it can be had)" if name.partition(":")[0] in FORMATS else ""
        raise UsageError(unknown("format of activations", name, KINDS) + hint)
    return name


def code_range(name: str) -> tuple[int, int]:
    """Smallest and largest code."""
    found = _INTEGER.fullmatch(name)
    if found is None:
        values = grid(name)
        return int(values[0]), int(values[-1])
    bits = int(found[2])
    return (0, (1 << bits) - 1) if found[1] else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def uniform(name: str) -> bool:
    """Whether codes are equally far apart, with a zero point."""
    return _INTEGER.fullmatch(name) is not None


@cache
def grid(name: str) -> NDArray[np.int8]:
    """The values of a format that is not uniform, in order."""
    found = parse(name).grid
    assert found is not None, "formats of activations have a grid"
    return np.unique(found[~np.isnan(found)] + 0.0).astype(np.int8)


def nearest(units: NDArray[np.float32], name: str) -> NDArray[np.int8]:
    """Nearest values of the grid to numbers in units of the scale; ties go to the larger one."""
    values = grid(name)
    middle = (values[:-1].astype(np.float32) + values[1:]) / 2
    return values[np.searchsorted(middle, units, side="right")]
