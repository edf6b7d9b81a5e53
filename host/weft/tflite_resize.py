"""Bilinear enlargement of int8 codes, as TFLite's kernels compute it.

The reference kernel walks the map in steps of 2^-10 and adds four products; XNNPACK finds places
in float32, rounds their fractions to 2^-11, and interpolates along rows, then along columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import ShapeError
from weft.graph import Array, Node, Quant, Shape
from weft.shapes import Inputs, first

Int = NDArray[np.int64]
STEPS, BITS = 10, 11  # fraction bits of places, reference; of weights, XNNPACK


def shape(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, C, H, W] → [N, C, *size]."""
    x = first(node, inputs).shape
    if len(x) != 4:
        raise ShapeError(f"{node.op} {node.name!r}: input {x}, expected 4 dimensions")
    return [(*x[:2], *node.attrs["size"])]


def resize8(node: Node, inputs: list[Array]) -> list[Array]:
    """Attributes size, way ("asymmetric", "half_pixel", "align_corners"), quant, kernels."""
    scale, zero_point = node.attrs["quant"]
    quant = Quant(np.asarray(scale, np.float32), zero_point)
    codes = quant.quantize(inputs[0])
    resize = {"reference": _reference, "xnnpack": _xnnpack}[node.attrs["kernels"]]
    y = resize(codes.astype(np.int64), tuple(node.attrs["size"]), node.attrs["way"])
    return [quant.dequantize(y.astype(np.int8))]


def _reference(q: Int, size: tuple[int, ...], way: str) -> Int:
    (y0, y1, wy), (x0, x1, wx) = (
        _steps(n, out, way) for n, out in zip(q.shape[2:], size, strict=True)
    )
    one, column = 1 << STEPS, wy[:, None]
    upper = q[:, :, y0] * (one - column)
    lower = q[:, :, y1] * column
    rows = upper + lower
    total = rows[..., x0] * (one - wx) + rows[..., x1] * wx
    half = 1 << (2 * STEPS - 1)
    return np.asarray(np.sign(total) * ((np.abs(total) + half) >> (2 * STEPS)))


def _steps(extent: int, out: int, way: str) -> tuple[Int, Int, Int]:
    """Per output position: the two indices, and the weight of the second in 2^-STEPS."""
    one, at = 1 << STEPS, np.arange(out, dtype=np.int64)
    if way == "align_corners" and out > 1:
        step = (one * (extent - 1) + (out - 1) // 2) // (out - 1)
    else:
        step = (one * extent + out // 2) // out
    place = at * step + (step // 2 - one // 2 if way == "half_pixel" else 0)
    low = np.maximum(place >> STEPS, 0)
    high = np.minimum(np.maximum((place + one - 1) >> STEPS, 0), extent - 1)
    return low, high, place - one * low


def _xnnpack(q: Int, size: tuple[int, ...], way: str) -> Int:
    (y0, y1, wy), (x0, x1, wx) = (
        _places(n, out, way) for n, out in zip(q.shape[2:], size, strict=True)
    )
    columns: Any = (q[..., x0] << BITS) + (q[..., x1] - q[..., x0]) * wx
    top, bottom = columns[:, :, y0], columns[:, :, y1]
    total = (top << BITS) + (bottom - top) * wy[:, None]
    return np.asarray((total + (1 << (2 * BITS - 1))) >> (2 * BITS))


def _places(extent: int, out: int, way: str) -> tuple[Int, Int, Int]:
    """Per output position: the two indices, and the weight of the second in 2^-BITS."""
    at, half = np.arange(out).astype(np.float32), np.float32(0.5)
    step: Any = np.float32(extent) / np.float32(out)
    if way == "align_corners" and out > 1:
        step = np.float32(extent - 1) / np.float32(out - 1)
    place = (at + half) * step - half if way == "half_pixel" else at * step
    place = np.minimum(np.maximum(place, 0), np.float32(extent - 1)).astype(np.float32)
    low = place.astype(np.int64)
    weight = np.rint((place - low.astype(np.float32)) * np.float32(1 << BITS)).astype(np.int64)
    return low, np.minimum(low + 1, extent - 1), weight
