"""Inputs of a program as it takes them: shapes, dtypes and values, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.errors import InputError
from weft.graph import Array
from weft.program import TensorInfo


def check_input(info: TensorInfo, x: Any, fewer: bool = False) -> Array:
    """`x` as an array [n, ...] of the input's dtype; InputError says what is wrong with it.

    `fewer`: dimension 1 counts tokens, of which there may be fewer.
    """
    fits = type(x) is np.ndarray and x.dtype == info.dtype
    array: Array = x if fits else _as_dtype(info, x)
    shape = info.shape[1:]
    if fewer and array.ndim == len(info.shape) and 1 <= array.shape[1] <= shape[0]:
        shape = (array.shape[1], *shape[1:])
    if array.shape[1:] != shape or array.ndim != len(info.shape) or not len(array):
        limit = f"1 to {shape[0]}" if fewer else str(info.shape[1]) if info.shape[1:] else ""
        expected = ", ".join(["n", limit, *map(str, info.shape[2:])] if limit else ["n"])
        raise InputError(
            f"input {info.name!r}: shape {array.shape} given, ({expected}) expected, n at least 1: "
            "the first dimension counts the samples"
        )
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            place = tuple(int(i) for i in np.argwhere(~finite)[0])
            value = array[place]
            raise InputError(f"input {info.name!r}: {value} at {place}; values must be finite")
    return array


def _as_dtype(info: TensorInfo, x: Any) -> Array:
    """`x` converted where that loses nothing but precision."""
    try:
        given = np.asarray(x)
    except ValueError as error:
        raise InputError(f"input {info.name!r}: not an array: {error}") from None
    wanted = np.dtype(info.dtype)
    if given.dtype.kind not in ("fiu" if wanted.kind == "f" else "iu"):
        raise InputError(
            f"input {info.name!r}: dtype {given.dtype} given, {wanted} expected; convert it first"
        )
    if wanted.kind in "iu" and given.size:
        limits = np.iinfo(wanted)
        if given.min() < limits.min or given.max() > limits.max:
            raise InputError(
                f"input {info.name!r}: values {given.min()}..{given.max()} don't fit {wanted} "
                f"({limits.min}..{limits.max})"
            )
    with np.errstate(over="ignore"):  # a float64 past float32 becomes inf, which is told below
        return given.astype(wanted)
