"""Microscaling formats (OCP MX 1.0, 2023): 32 elements share a power of two.

The byte of a block is 127 + floor(log2(largest magnitude)) − emax (E8M0); elements are rounded to
nearest even and saturate. A block of zeros has byte 0. Elements times their power of two are bf16
numbers, which is what the array multiplies with; the scale of a channel is 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from weft import group
from weft.format import Encoder, Float, Format, Grid, Steps, finite, steps, to_even
from weft.formats import minifloat
from weft.graph import Array, Quant
from weft.nearest import blocks

BLOCK = 32
BIAS = 127
LOWEST = 16  # of a byte that stands for numbers: elements times 2^−111 are normal in bf16
HPP = "formats/microscaling.hpp"


class Element:
    """The elements of an MX format: their grid, the largest exponent, and rounding."""

    def __init__(
        self, name: str, bits: int, grid: Grid, emax: int, every: Grid | None = None
    ) -> None:
        self.name, self.bits, self.grid, self.emax = name, bits, grid, emax
        self.steps: Steps = steps(grid, to_even(grid))
        self.values = (np.nan_to_num(grid) if every is None else every).astype(np.float32)
        self._encoder = Encoder(name, grid, "float")

    def codes(self, elements: Array) -> Array:
        """Codes of values on the grid."""
        return self._encoder.codes(elements)


def powers(bytes_: Array) -> Float:
    """2^(byte − 127) of every block."""
    return np.asarray(np.ldexp(np.float32(1), np.asarray(bytes_).astype(np.int32) - BIAS))


def _fit(element: Element, x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    real = finite(x)
    most = np.abs(group.split(real, BLOCK)).max(axis=-1)
    _, exponent = np.frexp(most)  # most = f · 2^exponent, f in [0.5, 1)
    byte = np.where(most == 0, 0, np.clip(exponent - 1 - element.emax + BIAS, LOWEST, 254))
    shape = (len(real),) if axis == 0 else ()
    one = np.ones(shape, np.float32)
    return Quant(one, axis=axis, format=element.name, groups=byte.astype(np.uint8))


def _quantize(element: Element, x: Array, quant: Quant) -> Float:
    real, power = finite(x), powers(_bytes(quant))[..., None]
    found = np.empty(real.shape, np.float32)
    with np.errstate(over="ignore"):
        for part in blocks(real.shape):
            units = group.split(real[part], BLOCK) / power[part]
            again = element.steps.nearest(units) * power[part]
            found[part] = group.joined(again, real.shape[-1])
    return found


def _bytes(quant: Quant) -> Array:
    assert quant.groups is not None, "a format with blocks has their bytes in the quant"
    return quant.groups


def _encode(element: Element, operands: Array, quant: Quant) -> Array:
    real, power = np.asarray(operands, np.float32), powers(_bytes(quant))[..., None]
    found = np.empty(real.shape, np.uint8)
    with np.errstate(over="ignore"):
        for part in blocks(real.shape):
            codes = element.codes(group.split(real[part], BLOCK) / power[part])
            found[part] = group.joined(codes, real.shape[-1])
    return found


def _decode(element: Element, codes: Array, quant: Quant) -> Float:
    elements = np.asarray(element.values.take(np.asarray(codes)), np.float32)
    if quant.groups is None:
        return elements
    scaled = group.split(elements, BLOCK) * powers(quant.groups)[..., None]
    return np.asarray(group.joined(scaled, elements.shape[-1]), np.float32)


def _mx(element: Element, decoder: str) -> Format:
    return Format(
        element.name, element.bits, "bf16", partial(_fit, element), partial(_quantize, element),
        partial(_encode, element), partial(_decode, element), HPP, decoder, "OCP MX 1.0, 2023",
        group=BLOCK, record="e8m0", grid=element.grid,
    )  # fmt: skip


_INTEGERS = ((np.arange(256) ^ 128) - 128) / 64
MICROSCALING = [
    _mx(Element("mxfp4", 4, minifloat.E2M1_GRID, 2), "Minifloat<2, 1>"),
    _mx(Element("mxfp6", 6, minifloat.E2M3_GRID, 2), "Minifloat<2, 3>"),
    _mx(Element("mxfp6_e3m2", 6, minifloat.E3M2_GRID, 4), "Minifloat<3, 2>"),
    _mx(Element("mxfp8", 8, minifloat.ofp8(4), 8, minifloat.every(4, 3)), "Minifloat<4, 3>"),
    _mx(Element("mxfp8_e5m2", 8, minifloat.ofp8(5), 15, minifloat.every(5, 2)), "Minifloat<5, 2>"),
    _mx(Element("mxint8", 8, np.where(np.arange(256) == 128, np.nan, _INTEGERS), 0, _INTEGERS),
        "MicroInteger"),
]  # fmt: skip
