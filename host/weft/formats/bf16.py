"""bf16: the upper half of a float32 (TPU v2 and v3). Rounded to nearest even; subnormal numbers are
0, as in the floating-point cores of FPGAs, and what rounds beyond the largest number is that.
"""

from __future__ import annotations

import numpy as np

from weft.format import Float, Format, check_operands, divided, finite
from weft.graph import Array, Quant

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


def _encode(operands: Array, quant: Quant) -> Array:
    real = np.asarray(operands, np.float32)
    check_operands("bf16", real, rounded(real))
    return (real.view(np.uint32) >> 16).astype(np.uint16)


def _decode(codes: Array, quant: Quant) -> Float:
    return (np.asarray(codes).astype(np.uint32) << 16).view(np.float32)


BF16 = Format(
    "bf16", 16, "bf16", _fit, lambda x, quant: rounded(divided(x, quant)), _encode, _decode,
    "formats/bf16.hpp", "Bf16", "TPU v2, Norrie et al., IEEE Micro 2021", activations=True,
)  # fmt: skip
