"""OliVe: outliers take the place of their neighbours (Guo et al., ISCA 2023).

Codes 2k and 2k + 1 along the input channels are a pair. The code 10…0, which normal values do not
use, marks a victim: it is 0, and the partner's code is an outlier in abfloat, a float whose bias
begins where normal values end. Of two outliers the even one is kept, whatever the
magnitudes. The last of an odd number of channels has no partner: it is a normal value.

olive4: int4 normals −7..7, abfloat E2M1 with bias 2 (±12..96); olive4f: flint4 normals ±16,
abfloat E2M1 with bias 3 (±24..192); olive8: int8 normals ±127, abfloat E4M3 with bias 4 (the
paper's), kept where int16 holds it: ±144..30720.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from weft import group
from weft.errors import InputError
from weft.format import (
    Encoder,
    Float,
    Format,
    Grid,
    Steps,
    aligned,
    finite,
    larger,
    scales,
    squared_error,
    steps,
)
from weft.formats.flint import FLINTS
from weft.graph import Array, Quant
from weft.nearest import blocks

HPP = "formats/olive.hpp"
DEVIATIONS = 3.0  # of the mean: where a normal value ends, at 100 %
SHARES = tuple((np.arange(20, 101, 2) / 100).tolist())


@dataclass(frozen=True, eq=False)
class Pairs:
    """Values of a pair's codes: normal ones, and outliers where the partner is a victim."""

    name: str
    bits: int
    normal: Grid
    outlier: Grid
    all_steps: Steps
    encoder: Encoder

    @property
    def victim(self) -> int:
        """The code that marks one."""
        return 1 << (self.bits - 1)

    @property
    def top(self) -> float:
        """The largest normal value."""
        return float(np.nanmax(self.normal))


def abfloat(exponent_bits: int, mantissa_bits: int, bias: int, most: int) -> Grid:
    """Values in code order; code 0 and −0 are not used, nor what is beyond `most`."""
    code = np.arange(1 << (exponent_bits + mantissa_bits))
    whole = (1 << mantissa_bits) + (code & ((1 << mantissa_bits) - 1))
    value = whole * 2.0 ** ((code >> mantissa_bits) + bias)
    value = np.where((code == 0) | (value > most), np.nan, value)
    return np.concatenate([value, -value])


def _pairs(name: str, bits: int, normal: Grid, outlier: Grid) -> Pairs:
    every = np.concatenate([normal, outlier])
    encoder = Encoder(name, every)  # above 2**bits: outliers, whose codes are the low bits
    return Pairs(name, bits, normal, outlier, steps(every, larger), encoder)


def _integers(bits: int) -> Grid:
    code = np.arange(1 << bits)
    value = ((code ^ (1 << (bits - 1))) - (1 << (bits - 1))).astype(np.float64)
    value[1 << (bits - 1)] = np.nan
    return value


def _quantize(p: Pairs, x: Array, quant: Quant) -> Array:
    real, scale = finite(x), aligned(quant.scale, np.ndim(x))
    found = np.empty(real.shape, _dtype(p))
    with np.errstate(over="ignore"):
        for part in blocks(real.shape):
            units = real[part] / (scale[part] if np.size(scale) > 1 else scale)
            near = p.all_steps.nearest(group.split(units, 2), np.int16)
            even, odd = _halves(near)
            first = np.abs(even) > int(p.top)
            second = np.abs(odd) > int(p.top)
            odd *= ~first  # of two outliers the even one stays
            even *= ~second | first
            again = group.joined(near, real.shape[-1])
            if real.shape[-1] & 1:  # no partner that could be a victim
                again[..., -1] = np.clip(again[..., -1], -p.top, p.top)
            found[part] = again
    return found


def _halves(pairs: Array) -> tuple[Array, Array]:
    """Views of the even and the odd ones of [..., 2]: long vectors, unlike the last axis."""
    flat = pairs.reshape(-1)
    return flat[0::2], flat[1::2]


def _dtype(p: Pairs) -> Any:
    return np.int8 if np.nanmax(p.outlier) <= 127 else np.int16


def _fit(p: Pairs, x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    """Normal values end at a share of max |mean ± 3 deviations|, the one with the least error.

    The search is part of the format: "max" and "mse" are the same, but for the step of the shares.
    """
    real = finite(x)
    rows = real.reshape(len(real) if axis == 0 else 1, -1)
    mean, deviation = rows.mean(axis=1, dtype=np.float64), rows.std(axis=1, dtype=np.float64)
    end = np.maximum(np.abs(mean + DEVIATIONS * deviation), np.abs(mean - DEVIATIONS * deviation))
    end = np.asarray(end if axis == 0 else end.reshape(()))
    kept: Any = None
    least: Any = None
    for share in SHARES if method == "mse" else SHARES[::4]:
        quant = Quant(scales(end * share, p.top), axis=axis, format=p.name)
        again = _quantize(p, real, quant) * aligned(quant.scale, real.ndim).astype(np.float64)
        found = squared_error(real, again, axis)
        better = found < least if least is not None else np.ones_like(found, bool)
        kept = np.where(better, quant.scale, quant.scale if kept is None else kept)
        least = np.where(better, found, found if least is None else least)
    return Quant(np.asarray(kept, np.float32), axis=axis, format=p.name)


def _encode(p: Pairs, operands: Array, quant: Quant) -> Array:
    whole = np.asarray(operands)
    found = np.empty(whole.shape, np.uint8)
    for part in blocks(whole.shape):
        codes = group.split(p.encoder.codes(whole[part]) & np.uint8(2 * p.victim - 1), 2)
        values = group.split(whole[part].astype(np.int16), 2)
        first, second = (np.abs(v) > int(p.top) for v in _halves(values))
        lost = _lost(values, first, second, bool(whole.shape[-1] & 1))
        if lost:
            raise InputError(f"{lost} outliers of {p.name} have no partner that is 0")
        even, odd = _halves(codes)
        np.copyto(odd, np.uint8(p.victim), where=first)
        np.copyto(even, np.uint8(p.victim), where=second)
        found[part] = group.joined(codes, whole.shape[-1])
    return found


def _lost(values: Array, first: Array, second: Array, alone: bool) -> int:
    """Outliers whose partner is no victim; `alone`: the last channel has none."""
    even, odd = _halves(values)
    lost = np.count_nonzero(first & (odd != 0)) + np.count_nonzero(second & (even != 0))
    if alone:
        lost += np.count_nonzero(first.reshape(values.shape[:-1])[..., -1])
    return int(lost)


def _decode(p: Pairs, codes: Array, quant: Quant) -> Float:
    both = group.split(np.asarray(codes).astype(np.int64), 2)
    victim = both == p.victim
    value = np.where(
        victim[..., ::-1], np.nan_to_num(p.outlier)[both], np.nan_to_num(p.normal)[both]
    )
    found = np.where(victim, 0, value)
    return group.joined(found, np.shape(codes)[-1]).astype(_dtype(p))


def _olive(p: Pairs, decoder: str, doc: str) -> Format:
    operand = "int8" if _dtype(p) is np.int8 else "int16"
    return Format(
        p.name, p.bits, operand, partial(_fit, p), partial(_quantize, p), partial(_encode, p),
        partial(_decode, p), HPP, decoder, f"OliVe, ISCA 2023, {doc}", pairs=True,
    )  # fmt: skip


_FLINT4 = next(f for f in FLINTS if f.name == "flint4")
assert _FLINT4.grid is not None, "flint is a grid"
OLIVES = [
    _olive(_pairs("olive4", 4, _integers(4), abfloat(2, 1, 2, 127)), "OliveInteger", "int4"),
    _olive(_pairs("olive4f", 4, _FLINT4.grid, abfloat(2, 1, 3, 255)), "OliveFlint", "flint4"),
    _olive(_pairs("olive8", 8, _integers(8), abfloat(4, 3, 4, 32767)), "OliveByte", "int8"),
]
