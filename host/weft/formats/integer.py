"""Integers of 2 to 7 bits (int8 has a file of its own).

intN is symmetric, −(2^(N−1)−1)..2^(N−1)−1, with a scale per channel, or two-level scales: a
multiplier of 8 bits per group of input channels (VS-Quant: Dai et al., MLSys 2021). uintN has a
zero point besides, per group or for all input channels of a tap. Ties go to the even integer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from weft import group
from weft.errors import InputError
from weft.format import (
    Float,
    Format,
    aligned,
    check_operands,
    divided,
    finite,
    largest,
    scales,
    searched,
)
from weft.graph import Array, Quant
from weft.nearest import blocks

MULTIPLIER = 255  # largest
HPP = "formats/integer.hpp"
WHOLE = 1 << 15  # group of a zero point that all channels of a tap share


def bounds(bits: int, asymmetric: bool) -> tuple[int, int]:
    """Smallest and largest code as a number."""
    return (0, (1 << bits) - 1) if asymmetric else (1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _fit(
    fmt: tuple[str, int, bool, int], x: Array, axis: int | None = 0, method: str = "max"
) -> Quant:
    name, bits, asymmetric, size = fmt
    real = finite(x)
    if not size and not asymmetric:
        best = Quant(scales(largest(real, axis), bounds(bits, False)[1]), axis=axis, format=name)
        return best if method == "max" else searched(real, axis, best, partial(_quantize, fmt))
    own = _records(fmt, real, axis)
    if method == "max":
        return own
    return searched(real, axis, own, partial(_quantize, fmt))


def _records(fmt: tuple[str, int, bool, int], x: Float, axis: int | None) -> Quant:
    """Scale per channel, multiplier (and zero point) per group."""
    name, bits, asymmetric, size = fmt
    low_code, high_code = bounds(bits, asymmetric)
    parts = group.split(x, size or x.shape[-1])
    high = np.maximum(parts.max(axis=-1), 0)
    low = np.minimum(parts.min(axis=-1), 0)
    step = (high - low) / high_code if asymmetric else np.maximum(high, -low) / high_code
    most = step.reshape(len(step), -1).max(axis=1) if axis == 0 else np.asarray(step.max())
    scale = scales(most, MULTIPLIER if size else 1)
    relative = step / aligned(scale, step.ndim)
    multiplier = np.clip(np.ceil(relative - 1e-3), 1, MULTIPLIER).astype(np.uint8)
    quant = Quant(scale, axis=axis, format=name, groups=multiplier)
    if not asymmetric:
        return quant
    unit = aligned(scale, step.ndim) * multiplier
    zeros = np.clip(np.rint(-low / unit), low_code, min(high_code, 127)).astype(np.int8)
    return Quant(scale, axis=axis, format=name, groups=multiplier, zeros=zeros)


def _records_of(quant: Quant) -> tuple[Any, Any]:
    """Multiplier and zero point per group, to broadcast over weights that are split into groups."""
    if quant.groups is None:
        return None, None
    zero = None if quant.zeros is None else quant.zeros[..., None].astype(np.int16)
    return quant.groups[..., None].astype(np.int16), zero


def _quantize(fmt: tuple[str, int, bool, int], x: Array, quant: Quant) -> Array:
    _, bits, asymmetric, size = fmt
    low, high = bounds(bits, asymmetric)
    real, (multiplier, zero) = finite(x), _records_of(quant)
    if multiplier is None:
        q = divided(real, quant)
        return np.clip(np.rint(q, out=q), low, high, out=q).astype(np.int8)
    found = np.empty(real.shape, np.int16)
    unit = aligned(quant.scale, real.ndim + 1) * multiplier.astype(np.float32)
    least: Any = low if zero is None else (low - zero).astype(np.float32)
    most: Any = high if zero is None else (high - zero).astype(np.float32)
    with np.errstate(over="ignore"):
        for part in blocks(real.shape):
            q = group.split(real[part], size or real.shape[-1]) / unit[part]
            np.rint(q, out=q)
            ends = (least, most) if zero is None else (least[part], most[part])
            np.clip(q, *ends, out=q)
            found[part] = group.joined(q.astype(np.int16) * multiplier[part], real.shape[-1])
    return found


def _encode(fmt: tuple[str, int, bool, int], operands: Array, quant: Quant) -> Array:
    name, bits, asymmetric, size = fmt
    low, high = bounds(bits, asymmetric)
    whole, (multiplier, zero) = np.asarray(operands), _records_of(quant)
    mask = np.uint8((1 << bits) - 1)
    if multiplier is None:
        if whole.size and not (whole.min() >= low and whole.max() <= high):
            check_operands(name, whole, np.clip(whole, low, high))
        return np.asarray(whole.astype(np.int8).view(np.uint8) & mask)
    found = np.empty(whole.shape, np.uint8)
    for part in blocks(whole.shape):
        v, m = group.split(whole[part], size or whole.shape[-1]), multiplier[part]
        q = np.rint(v / m.astype(np.float32))
        shift: Any = 0 if zero is None else zero[part]
        codes = np.clip(q + shift, low, high).astype(np.int16)
        check_operands(name, v, (codes - shift) * m)
        found[part] = group.joined(codes.view(np.uint16).astype(np.uint8) & mask, whole.shape[-1])
    return found


def _decode(fmt: tuple[str, int, bool, int], codes: Array, quant: Quant) -> Array:
    _, bits, asymmetric, size = fmt
    q, (multiplier, zero) = np.asarray(codes).astype(np.int16), _records_of(quant)
    if not asymmetric:
        top = 1 << (bits - 1)
        q = (q ^ top) - top
    if multiplier is None:
        return np.asarray(q, np.int16 if asymmetric else np.int8)
    parts = group.split(q, size or q.shape[-1])
    return group.joined((parts - (0 if zero is None else zero)) * multiplier, q.shape[-1])


def make(bits: int, asymmetric: bool = False, size: int = 0) -> Format:
    """intN or uintN, with groups of `size` input channels (0: none)."""
    if size and size not in (32, 64, 128):
        raise InputError(f"groups of {size} input channels: they are of 32, 64 or 128")
    base = f"{'u' if asymmetric else ''}int{bits}"
    name = f"{base}:g{size}" if size else base
    facts = (name, bits, asymmetric, size)
    codes = np.arange(1 << bits)
    grid = codes if asymmetric else (codes ^ (1 << (bits - 1))) - (1 << (bits - 1))
    return Format(
        name=name,
        bits=bits,
        operand="int16" if size or asymmetric else "int8",
        fit=partial(_fit, facts),
        quantize=partial(_quantize, facts),
        encode=partial(_encode, facts),
        decode=partial(_decode, facts),
        hpp=HPP,
        decoder=f"{'Unsigned' if asymmetric else 'Signed'}<{bits}>",
        doc="uniform, Jacob et al., CVPR 2018" + ("; groups: VS-Quant" if size else ""),
        group=size,
        record="multiplier",
        asymmetric=asymmetric,
        grid=grid.astype(np.float64),
        activations=not size,
    )


INTEGERS = [make(bits) for bits in range(2, 8)]
UNSIGNED = [make(bits, asymmetric=True) for bits in range(2, 8)]
