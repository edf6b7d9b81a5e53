"""bf16: the upper half of a float32 (TPU v2 and v3). Rounded to nearest even; subnormal numbers are
0, as in the floating-point cores of FPGAs, and what rounds beyond the largest number is that.
"""

from __future__ import annotations

import numpy as np

from weft.format import Float, Format, check_operands, divided, finite
from weft.graph import Array, Quant
from weft.nearest import blocks

LARGEST = np.float32(3.3895313892515355e38)
SMALLEST = np.float32(2.0**-126)


def rounded(x: Array) -> Float:
    """The nearest bf16 numbers, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    up = (bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    near = up.view(np.float32)
    near = np.where(np.abs(near) < SMALLEST, np.float32(0), near)
    return np.clip(near, -LARGEST, LARGEST)


def _fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    real = finite(x)
    shape = (len(real),) if axis == 0 else ()
    return Quant(np.ones(shape, np.float32), axis=axis, format="bf16")


def _quantize(x: Array, quant: Quant) -> Array:
    real = divided(x, quant)
    if real.ndim == 0:
        return rounded(real)
    found = np.empty(real.shape, np.float32)
    for part in blocks(real.shape):
        found[part] = rounded(real[part])
    return found


def _encode(operands: Array, quant: Quant) -> Array:
    real = np.ascontiguousarray(operands, np.float32)
    bits = real.view(np.uint16).reshape(*real.shape, 2) if real.ndim else None
    if bits is None or _strange(bits):
        check_operands("bf16", real, rounded(real))
        return (real.view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(bits[..., 1])


def _strange(halves: Array) -> bool:
    """Whether any number (low half, high half) is none of bf16's, or 0 with bits below."""
    exponent = halves[..., 1] & np.uint16(0x7F80)
    zero = (halves[..., 1] & np.uint16(0x7FFF)) == 0
    regular = (exponent != 0) & (exponent != 0x7F80) | zero
    return bool(halves[..., 0].any() or not regular.all())


def _decode(codes: Array, quant: Quant) -> Float:
    return (np.asarray(codes).astype(np.uint32) << 16).view(np.float32)


BF16 = Format(
    "bf16", 16, "bf16", _fit, _quantize, _encode, _decode,
    "formats/bf16.hpp", "Bf16", "TPU v2, Norrie et al., IEEE Micro 2021", activations=True,
)  # fmt: skip
