"""Format: what every number format is made of, and what formats share.

A quantized weight is taken in the order [N, *taps, I]: output channels first, input channels last.
The array multiplies with *operands* v, integers or numbers that bf16 holds exactly, and

    real = scale[n] · v[n, tap, i]

Codes are what memory keeps of an operand. Groups of input channels may carry a byte each that is
part of v: an integer that multiplies (two-level scales: Dai et al., VS-Quant, MLSys 2021), a power
of two (MX), or an E4M3 number (NVFP4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError
from weft.graph import Array, Quant
from weft.nearest import Encoder, Float, Grid, Steps, blocks, check_operands, steps

__all__ = [
    "Encoder",
    "Float",
    "Format",
    "Grid",
    "Steps",
    "aligned",
    "check_operands",
    "divided",
    "finite",
    "larger",
    "largest",
    "on_grid",
    "rounded_to",
    "scales",
    "searched",
    "squared_error",
    "steps",
    "to_even",
    "toward_zero",
]

# No scale is smaller: products of two are still normal float32 numbers, and nothing that a
# network computes is as small as 128 of these.
SMALLEST_SCALE = 2.0**-60
# Shares of the largest magnitude that a search for the best scale tries (ANT, OliVe, GPTQ).
SEARCH = tuple(np.linspace(0.3, 1.0, 29).tolist())


@dataclass(frozen=True)
class Format:
    """A number format.

    `bits` of a code; `operand`: what the array gets ("int8", "int16" or "bf16"). `fit(x, axis,
    method)` finds scales (per output channel, axis 0, or one for all, None) by the largest
    magnitude ("max") or the least squared error ("mse"); `quantize(x, quant)` gives operands,
    `encode(operands, quant)` their codes (uint8, uint16 for 16 bits), `decode` is its inverse.

    `group`: input channels that share a byte, `record`: what that is ("none", "multiplier", "e8m0",
    "e4m3"); `asymmetric`: a zero point besides; `pairs`: codes 2k and 2k + 1 decode together;
    `per_byte`: codes in a byte where that is no power of two. `grid` [2**bits] holds the value of
    every code where each stands alone (NaN: not used). `hpp` and `decoder` name the hardware half.
    """

    name: str
    bits: int
    operand: str
    fit: Callable[..., Quant]
    quantize: Callable[[Array, Quant], Array]
    encode: Callable[[Array, Quant], Array]
    decode: Callable[[Array, Quant], Array]
    hpp: str
    decoder: str
    doc: str
    group: int = 0
    record: str = "none"
    asymmetric: bool = False
    pairs: bool = False
    codebook: bool = False
    per_byte: int = 0
    grid: Grid | None = None
    activations: bool = False

    @property
    def weight_bits(self) -> float:
        """Bits of memory per weight, with its share of a record."""
        own = 8 / self.per_byte if self.per_byte else float(self.bits)
        return own + (8 / self.group * (1 + self.asymmetric) if self.group else 0)


def finite(x: Array) -> Float:
    """`x` as float32. Raises InputError for NaN and infinities."""
    real = np.asarray(x, np.float32)
    total = np.sum(real, dtype=np.float64)  # one pass; NaN or infinite if any value is
    if not np.isfinite(total):
        bad = int(np.count_nonzero(~np.isfinite(real)))
        if bad:
            raise InputError(f"{bad} of {real.size} values are NaN or infinite")
    return real


def largest(x: Float, axis: int | None) -> Float:
    """Largest magnitude per index of axis 0, or () for all."""
    if axis is None:
        return np.asarray(max(x.max(initial=0), -x.min(initial=0)), np.float32)
    rows = x.reshape(len(x), -1)
    return np.asarray(np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)))


def scales(magnitude: Array, top: float) -> Float:
    """Scales with which `magnitude` becomes `top`; 1 for what is 0."""
    ratio = np.asarray(magnitude, np.float64) / top
    bounded = np.clip(ratio, SMALLEST_SCALE, float(np.finfo(np.float32).max))
    return np.asarray(np.where(np.asarray(magnitude) == 0, 1, bounded), np.float32)


def aligned(scale: Array, ndim: int) -> Float:
    """A scale, () or (N,), in the shape in which it broadcasts over [N, ...]."""
    own = np.asarray(scale, np.float32)
    return own.reshape(-1, *[1] * (ndim - 1)) if own.ndim else own


def divided(x: Array, quant: Quant) -> Float:
    """`x` in units of its scale. Raises InputError for NaN and infinities."""
    with np.errstate(over="ignore"):
        return np.asarray(finite(x) / aligned(quant.scale, np.ndim(x)), np.float32)


def rounded_to(table: Steps, x: Array, quant: Quant, dtype: Any) -> Array:
    """Nearest values of `x` in units of its scale, worked out in blocks that fit a cache."""
    real = finite(x)
    if real.ndim == 0:
        return table.nearest(divided(real, quant), dtype)
    scale = aligned(quant.scale, real.ndim)
    found = np.empty(real.shape, dtype)
    with np.errstate(over="ignore"):
        for part in blocks(real.shape):
            units = real[part] / (scale[part] if len(np.atleast_1d(scale)) > 1 else scale)
            found[part] = table.nearest(units, dtype)
    return found


def squared_error(x: Float, again: Array, axis: int | None) -> NDArray[np.float64]:
    """Sum of squared errors per index of axis 0, or () for all."""
    error = np.square(x - again, dtype=np.float64)
    return np.asarray(error.sum() if axis is None else error.reshape(len(x), -1).sum(axis=1))


def searched(x: Float, axis: int | None, best: Quant, quantize: Callable[..., Array]) -> Quant:
    """The quant among SEARCH shares of the scale of `best` with the least squared error."""
    from dataclasses import replace

    def error(quant: Quant) -> NDArray[np.float64]:
        again = quantize(x, quant) * aligned(quant.scale, x.ndim)
        return squared_error(x, again, axis)

    kept, least = np.asarray(best.scale, np.float32), error(best)
    for share in SEARCH:
        quant = replace(best, scale=np.maximum(best.scale * np.float32(share), SMALLEST_SCALE))
        found = error(quant)
        better = found < least
        kept, least = np.where(better, quant.scale, kept), np.where(better, found, least)
    return replace(best, scale=np.asarray(kept, np.float32))


def larger(low: float, high: float) -> bool:
    """Ties go to the larger number (ANT's kernel)."""
    return True


def toward_zero(low: float, high: float) -> bool:
    """Ties go to the smaller magnitude."""
    return low < 0


def to_even(grid: Grid) -> Callable[[float, float], bool]:
    """Ties go to the value with the even code, as IEEE 754 rounds."""
    codes = {float(v): code for code, v in reversed(list(enumerate(grid))) if v == v}
    return lambda low, high: codes[high] % 2 == 0


def on_grid(
    name: str,
    bits: int,
    grid: Grid,
    hpp: str,
    decoder: str,
    doc: str,
    up: Callable[[float, float], bool] = larger,
    **more: Any,
) -> Format:
    """A format whose codes each stand for a value of `grid`, with a scale per channel."""
    known = grid[~np.isnan(grid)]
    top, table = float(np.abs(known).max()), steps(grid, up)
    operand = str(more.pop("operand", "int8" if top <= 127 else "int16"))
    dtype: Any = {"int8": np.int8, "int16": np.int16, "bf16": np.float32}[operand]
    encoder = Encoder(name, grid, "float" if operand == "bf16" else "integer")
    every: Grid = more.pop("every", np.nan_to_num(grid))  # what hardware makes of any code
    total = every.astype(dtype)
    one_sided = bool(known.min() >= 0)

    def quantize(x: Array, quant: Quant) -> Array:
        return rounded_to(table, x, quant, dtype)

    def fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
        real = finite(x)
        magnitude = largest(np.maximum(real, 0) if one_sided else real, axis)
        best = Quant(scales(magnitude, top), axis=axis, format=name)
        return best if method == "max" else searched(real, axis, best, quantize)

    return Format(
        name, bits, operand, fit, more.pop("quantize", quantize),
        lambda operands, quant: encoder.codes(operands),
        lambda codes, quant: total.take(np.asarray(codes)), hpp, decoder, doc, grid=grid, **more,
    )  # fmt: skip


def mean_square_error(fmt: Format, x: Array, quant: Quant) -> float:
    """Mean squared error that a format makes of `x`."""
    return error(fmt, x, quant)[0]


def error(fmt: Format, x: Array, quant: Quant) -> tuple[float, float]:
    """(mean squared error, signal to quantization noise in dB) that a format makes of `x`.

    The ratio is infinite where there is no error.
    """
    real = finite(x).astype(np.float64)
    scale = aligned(quant.scale, real.ndim).astype(np.float64)
    mse = float(np.square(real - fmt.quantize(x, quant) * scale).mean())
    power = float(np.square(real).mean())
    if mse == 0:
        return 0.0, math.inf
    return mse, 10 * math.log10(power / mse) if power else -math.inf


def span(fmt: Format) -> str:
    """Largest positive value over the smallest, "-" where a tensor decides on them."""
    if fmt.grid is None:
        return "-"
    above = fmt.grid[np.nan_to_num(fmt.grid) > 0]
    return f"{above.max() / above.min():.6g}"


def describe(fmt: Format) -> dict[str, Any]:
    """A row of the list of formats: name, bits per weight, range, operands, source."""
    return {
        "name": fmt.name,
        "bits": round(fmt.weight_bits, 4),
        "range": span(fmt),
        "operands": fmt.operand,
        "source": fmt.doc,
    }
