"""Requantization: int32 accumulators times a real scale, rounded, in three named modes.

TFLite, gemmlowp and ONNX Runtime differ in how they round, so a layer names its mode:

- `double_round`: gemmlowp and TFLite's default; rounds after the multiplication (ties up) and
  again after the right shift (ties away from zero).
- `single_round`: one 64-bit product and one rounding shift, ties toward +infinity; TFLite built
  with TFLITE_SINGLE_ROUNDING.
- `float_even`: one float32 product, ties to even; ONNX Runtime's QLinear operators.

The integer modes follow Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), section 2.2: scale = q * 2**(s - 31). A negative
scale (a PReLU slope) has a negative q, the magnitude of which is encoded as any other; the
formulas are applied to x * q as they stand, so ties go where they go for every other product.

Results are saturated to int32. Whoever adds a zero point of 8 bits and clamps to 8 bits may
saturate earlier or later: the outcome is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.errors import InputError, UsageError, unknown
from weft.isa import MODES, PARAMETER_ROWS

Int32 = NDArray[np.int32]
Int8 = NDArray[np.int8]

SHIFT_LOW, SHIFT_HIGH = -31, 30
_SHIFT_PLANES = (8, 13)
_INFINITE = 0x7F800000  # float32's exponent of infinities and NaNs
_INT32_LOW, _INT32_HIGH = -(1 << 31), (1 << 31) - 1


def combined_scale(
    input_scale: ArrayLike, weight_scale: ArrayLike, output_scale: ArrayLike, mode: str
) -> NDArray[np.float64]:
    """input_scale * weight_scale / output_scale, with the rounding that `mode` is used with.

    float_even: float32 after each step, as ONNX Runtime does; else float64 throughout, as TFLite.
    Raises UsageError for an unknown mode.
    """
    kind: Any = np.float32 if _checked(mode) == "float_even" else np.float64
    x, w, y = (np.asarray(v, kind) for v in (input_scale, weight_scale, output_scale))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        return np.asarray(x * w / y, np.float64)  # what is not finite, `encode` refuses


def encode(scale: ArrayLike, mode: str) -> tuple[Int32, Int8]:
    """(multiplier, shift) of `scale`, element by element.

    Integer modes: |scale| = f * 2**s with f in [0.5, 1), multiplier q = ±floor(f * 2**31 + 0.5),
    shift s in -31..30. float_even: the bits of float32(scale), shift 0. Scales below 2**-32 in
    magnitude become 0 in every mode: no int32 times them reaches more than a half (and so
    float_even never meets subnormal numbers, which FPGA multipliers flush).

    Raises InputError for a scale that is not finite, or of 2**30 and above; UsageError for an
    unknown mode.
    """
    _checked(mode)
    real = np.asarray(scale, np.float64)
    bad = ~np.isfinite(real)
    if bad.any():
        raise InputError(
            f"scale {real[bad].flat[0]} (element {int(np.flatnonzero(bad)[0])} of {real.size}) is "
            "not finite: look for a tensor scale that is 0, infinite or NaN"
        )
    fraction, exponent = np.frexp(np.abs(real))
    q = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    carry = q == 1 << 31
    q = np.where(carry, 1 << 30, q)
    shift = np.where(q == 0, 0, exponent + carry)
    if (shift > SHIFT_HIGH).any():
        raise InputError(
            f"scale {real[shift > SHIFT_HIGH].flat[0]:g} is too large to requantize with (the "
            "limit is 2**30): the output's scale is too small for its input's"
        )
    tiny = shift < SHIFT_LOW
    if mode == "float_even":
        single = np.where(tiny, 0, real).astype(np.float32)
        return single.view(np.int32), np.zeros(real.shape, np.int8)
    q = np.where(tiny, 0, np.where(real < 0, -q, q))
    return q.astype(np.int32), np.where(tiny, 0, shift).astype(np.int8)


def decode(multiplier: ArrayLike, shift: ArrayLike, mode: str) -> NDArray[np.float64]:
    """The scale that (multiplier, shift) stands for: the inverse of `encode`, exactly.

    Raises UsageError for an unknown mode.
    """
    q = np.asarray(multiplier, np.int32)
    if _checked(mode) == "float_even":
        return np.asarray(q.view(np.float32), np.float64)
    return np.asarray(np.ldexp(q.astype(np.float64), np.asarray(shift, np.int32) - 31))


def requantize(
    x: ArrayLike, multiplier: ArrayLike, shift: ArrayLike, mode: str
) -> NDArray[np.int64]:
    """Scaled and rounded accumulators, before zero point and clamp.

    `x` holds int32 values, in any shape; `multiplier` and `shift` are () or (channels,) and
    broadcast along the last axis. The result holds int32 values in int64, so that a zero point
    can be added. Raises UsageError for an unknown mode.
    """
    q, s = np.asarray(multiplier, np.int32), np.asarray(shift, np.int64)
    if _checked(mode) == "float_even":
        # The hardware knows no infinity: its codes are large numbers, so what is not 0 saturates.
        q = np.where((q & _INFINITE) == _INFINITE, q - 0x800000, q).astype(np.int32)
        return _float_even(np.asarray(x, np.int32), q.view(np.float32))
    wide, q64 = np.asarray(x, np.int64), q.astype(np.int64)
    rounded = _single_round if mode == "single_round" else _double_round
    return np.asarray(np.clip(rounded(wide, q64, s), _INT32_LOW, _INT32_HIGH))


def _single_round(x: Any, q: Any, s: Any) -> Any:
    return (x * q + (np.int64(1) << (30 - s))) >> (31 - s)


def _double_round(x: Any, q: Any, s: Any) -> Any:
    """gemmlowp's SaturatingRoundingDoublingHighMul, then its RoundingDivideByPOT.

    The first one's nudge of 1 - 2**30 and truncation for negative products is, for every one of
    them, the same as adding 2**30 and flooring: its ties go up for both signs.
    """
    left, right = np.maximum(s, 0), np.maximum(-s, 0)
    shifted = np.clip(x << left, _INT32_LOW, _INT32_HIGH)
    high = np.minimum((shifted * q + (1 << 30)) >> 31, _INT32_HIGH)
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def _float_even(x: Int32, m: Any) -> NDArray[np.int64]:
    with np.errstate(over="ignore"):
        y = np.rint(x.astype(np.float32) * m)
    return np.asarray(np.clip(y.astype(np.float64), _INT32_LOW, _INT32_HIGH).astype(np.int64))


def pack_parameters(
    bias: ArrayLike,
    multiplier: ArrayLike,
    shift: ArrayLike,
    negative_multiplier: ArrayLike,
    negative_shift: ArrayLike,
    lanes: int,
) -> Int8:
    """Rows of the weight stream [blocks * 14, lanes] that SetTable takes as parameter blocks.

    Each argument is () or (channels,); channels are filled up to whole blocks of `lanes` with
    zeros. The bytes of a block are planes: docs/isa.md, "Tables". Raises InputError for values
    that don't fit (bias and multipliers int32, shifts int8) or lengths that differ.
    """
    named = {
        "bias": (bias, np.int32),
        "multiplier": (multiplier, np.int32),
        "shift": (shift, np.int8),
        "negative_multiplier": (negative_multiplier, np.int32),
        "negative_shift": (negative_shift, np.int8),
    }
    channels = max(np.size(value) for value, _ in named.values())
    blocks = -(-channels // lanes)
    planes = []
    for name, (value, kind) in named.items():
        column = np.zeros(blocks * lanes, np.dtype(kind).newbyteorder("<"))
        column[:channels] = _fitting(name, value, kind, channels)
        planes.append(column.view(np.int8).reshape(blocks, lanes, -1).transpose(0, 2, 1))
    return np.ascontiguousarray(np.concatenate(planes, 1).reshape(blocks * PARAMETER_ROWS, lanes))


def unpack_parameters(rows: Int8) -> tuple[Int32, Int32, Int8, Int32, Int8]:
    """(bias, multiplier, shift, negative_multiplier, negative_shift), each [blocks * lanes].

    The inverse of `pack_parameters`; `rows` is [blocks * 14, lanes].
    """
    planes = np.asarray(rows, np.int8).reshape(-1, PARAMETER_ROWS, rows.shape[-1])

    def word(first: int) -> Int32:
        column = np.ascontiguousarray(planes[:, first : first + 4].transpose(0, 2, 1))
        return column.view("<i4").astype(np.int32).reshape(-1)

    def byte(index: int) -> Int8:
        return planes[:, index].reshape(-1)

    return word(0), word(4), byte(8), word(9), byte(13)


def legal_shifts(blocks: Int8) -> Int8:
    """Parameter blocks [n, 14, lanes] with shifts beyond -31..30 moved to the nearest of these."""
    blocks = blocks.copy()
    for plane in _SHIFT_PLANES:
        blocks[:, plane] = np.clip(blocks[:, plane], SHIFT_LOW, SHIFT_HIGH)
    return blocks


def _checked(mode: str) -> str:
    if mode not in MODES:
        raise UsageError(unknown("requantization mode", mode, MODES))
    return mode


def _fitting(name: str, value: ArrayLike, kind: Any, channels: int) -> NDArray[Any]:
    array, limit = np.asarray(value), np.iinfo(kind)
    if array.size not in (1, channels):
        raise InputError(f"{name} has {array.size} values where the others have {channels}")
    outside = (array < limit.min) | (array > limit.max)
    if outside.any():
        raise InputError(
            f"{name} = {array[outside].flat[0]} does not fit {limit.dtype} "
            f"({limit.min}..{limit.max})"
        )
    return array.astype(kind).reshape(-1)
