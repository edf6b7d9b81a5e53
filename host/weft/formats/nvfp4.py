"""NVFP4: E2M1 elements, an E4M3 scale per 16 of them, and a float32 scale of the whole tensor.

    g = largest / (448 · 6)        byte = E4M3(clamp(block's largest / 6 / g, 2^−6, 448))
    element = E2M1(x · ((1 / g) / byte's value)), saturated at 6

The reciprocal, not a division, is what implementations take. An element times its block's scale has
six significant bits: a bf16 number.
"""

from __future__ import annotations

import numpy as np

from weft import group
from weft.format import SMALLEST_SCALE, Float, Format, aligned, finite, steps, to_even
from weft.formats import minifloat
from weft.formats.microscaling import Element
from weft.graph import Array, Quant
from weft.nearest import blocks

BLOCK = 16
LARGEST, LEAST, TOP = 448.0, 2.0**-6, 6.0  # of a block's scale; of an element
_E4M3 = np.nan_to_num(minifloat.ofp8(4)[:128]).astype(np.float32)
_ROUND = steps(minifloat.ofp8(4), to_even(minifloat.ofp8(4)))
ELEMENT = Element("nvfp4", 4, minifloat.E2M1_GRID, 2)


def _fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    real = finite(x)
    most = np.abs(group.split(real, BLOCK)).max(axis=-1)
    whole = np.float32(most.max(initial=0))
    ratio = float(whole / np.float32(LARGEST * TOP))
    g = np.float32(max(ratio, SMALLEST_SCALE) if whole else 1)
    block = np.clip(most / np.float32(TOP) / g, np.float32(LEAST), np.float32(LARGEST))
    byte = np.searchsorted(_E4M3[:127], _ROUND.nearest(block)).astype(np.uint8)
    scale = np.full(len(real), g, np.float32) if axis == 0 else g
    return Quant(np.asarray(scale, np.float32), axis=axis, format="nvfp4", groups=byte)


def _blocks(quant: Quant) -> Float:
    assert quant.groups is not None, "a format with blocks has their bytes in the quant"
    return _E4M3[quant.groups][..., None]


def _quantize(x: Array, quant: Quant) -> Float:
    real, block, top = finite(x), _blocks(quant), np.float32(TOP)
    inverse = np.float32(1) / aligned(quant.scale, real.ndim + 1)
    factor = np.asarray(inverse / block, np.float32)
    found = np.empty(real.shape, np.float32)
    with np.errstate(over="ignore"):
        for part in blocks(real.shape):
            units = np.clip(group.split(real[part], BLOCK) * factor[part], -top, top)
            again = ELEMENT.steps.nearest(units) * block[part]
            found[part] = group.joined(again, real.shape[-1])
    return found


def _encode(operands: Array, quant: Quant) -> Array:
    real, block = np.asarray(operands, np.float32), _blocks(quant)
    found = np.empty(real.shape, np.uint8)
    for part in blocks(real.shape):
        codes = ELEMENT.codes(group.split(real[part], BLOCK) / block[part])
        found[part] = group.joined(codes, real.shape[-1])
    return found


def _decode(codes: Array, quant: Quant) -> Float:
    elements = np.asarray(ELEMENT.values.take(np.asarray(codes)), np.float32)
    if quant.groups is None:
        return elements
    scaled = group.split(elements, BLOCK) * _blocks(quant)
    return np.asarray(group.joined(scaled, elements.shape[-1]), np.float32)


NVFP4 = Format(
    "nvfp4", 4, "bf16", _fit, _quantize, _encode, _decode, "formats/nvfp4.hpp", "Minifloat<2, 1>",
    "NVIDIA, two-level scale", group=BLOCK, record="e4m3", grid=minifloat.E2M1_GRID,
)  # fmt: skip
