"""int8: uniform quantization, real = scale * (q - zero_point).

Scales and zero points follow Jacob et al. (CVPR 2018) and TFLite: activations are asymmetric per
tensor, weights symmetric in [-127, 127], per output channel. Codes are rounded half to even,
zero points half away from zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.errors import InputError
from weft.format import SMALLEST_SCALE as SMALLEST_SCALE
from weft.format import Format, finite, searched
from weft.graph import Array, Quant, Shape

Codes = NDArray[np.int8]
Tiles = NDArray[np.int8]

LOW, HIGH = -128, 127
_BLOCK = 1 << 17  # elements that are converted at a time; with its buffers it stays in cache


def affine(low: float, high: float, symmetric: bool = False) -> Quant:
    """Quant of an activation that lies in low..high: per tensor, 0 exactly representable.

    The range is extended to 0 first; an empty one (0..0) gets scale 1. Every value of it is met
    to half a step. `symmetric` asks for zero point 0. Raises InputError for bounds that are not
    finite or the wrong way round.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(f"a range of {low}..{high} can't be quantized: finite bounds are needed")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if low == high:
        return Quant(np.asarray(1, np.float32))
    if symmetric:
        return Quant(np.asarray(max(max(-low, high) / HIGH, SMALLEST_SCALE), np.float32))
    levels = HIGH - LOW
    # Not high - low: two large float32 bounds may be further apart than a float32 holds.
    scale = high / levels - low / levels
    zero = LOW - low / scale if scale > SMALLEST_SCALE else 0.0
    scale = min(max(scale, SMALLEST_SCALE), float(np.finfo(np.float32).max))
    return Quant(np.asarray(scale, np.float32), min(max(_half_away(zero), LOW), HIGH))


def _half_away(x: float) -> int:
    """Nearest integer, ties away from zero."""
    return math.floor(x + 0.5) if x >= 0 else math.ceil(x - 0.5)


def symmetric(x: Array, axis: int | None = None) -> Quant:
    """Quant of a weight: scale = max |x| / 127, per index of `axis` or (None) for all of `x`.

    Channels of zeros get scale 1. Raises InputError if `x` holds NaN or infinities.
    """
    largest = _largest(np.asarray(x, np.float32), axis)
    return Quant(_scales(largest), axis=axis)


def _scales(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(largest).all():
        count = int(np.count_nonzero(~np.isfinite(largest)))
        raise InputError(
            f"NaN or infinite values in {count} of {largest.size} channels: they can't be quantized"
        )
    scales = np.maximum(largest / np.float32(HIGH), np.float32(SMALLEST_SCALE))
    return np.asarray(np.where(largest == 0, 1, scales), np.float32)


def _largest(x: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """max |x| over all axes but `axis`; NaN where there is one."""
    if x.ndim == 0 or axis is None:
        return np.asarray(np.maximum(x.max(), -x.min()), np.float32)
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    high = np.full(x.shape[axis], -np.inf, np.float32)
    low = np.full(x.shape[axis], np.inf, np.float32)
    for part in _parts(x.shape):
        where = part if axis % x.ndim == 0 else slice(None)
        high[where] = np.maximum(high[where], x[part].max(axis=others))
        low[where] = np.minimum(low[where], x[part].min(axis=others))
    return np.maximum(high, -low)


def _parts(shape: Shape) -> Iterator[slice]:
    """Slices of the first axis that hold about _BLOCK elements each."""
    step = max(1, _BLOCK // max(1, math.prod(shape[1:])))
    return (slice(i, i + step) for i in range(0, shape[0], step))


def quantize(x: ArrayLike, quant: Quant) -> Codes:
    """int8 codes of the real values `x` (not NaN): clip(rint(x / scale) + zero_point).

    Per-channel codes are weights and stay in -127..127, the others use -128, too. Works through
    `x` in blocks that fit a cache.
    """
    real = np.asarray(x, np.float32)
    flat = real.reshape(1) if real.ndim == 0 else real
    scale = np.asarray(quant.scale, np.float32)
    if quant.axis is not None and scale.ndim:
        shape = [1] * flat.ndim
        shape[quant.axis] = -1
        scale = scale.reshape(shape)
    sliced = scale.ndim > 0 and scale.shape[0] > 1 and len(scale) == len(flat)
    low = LOW if quant.axis is None else -HIGH
    codes = np.empty(flat.shape, np.int8)
    buffer: NDArray[np.float32] | None = None
    for part in _parts(flat.shape):
        if buffer is None:
            buffer = np.empty_like(flat[part])
        q = buffer[: len(flat[part])]
        with np.errstate(over="ignore"):  # clipped below
            np.divide(flat[part], scale[part] if sliced else scale, out=q)
        np.rint(q, out=q)
        if quant.zero_point:
            np.add(q, np.float32(quant.zero_point), out=q)
        np.clip(q, np.float32(low), np.float32(HIGH), out=q)
        codes[part] = q
    return codes.reshape(real.shape)


def dequantize(codes: Codes, quant: Quant) -> NDArray[np.float32]:
    """Real values of `codes`."""
    return quant.dequantize(codes)


def pack(codes: Codes, lanes: int) -> Tiles:
    """Weight tiles [tiles, folds, lanes, lanes] of codes [K, *taps, N], as MatMul takes them.

    K (input channels, padded with zeros to blocks of `lanes`) are the rows of a tile, N (output
    channels, padded to `tiles` of `lanes`) its columns; a fold is one (block, tap), the taps of a
    block together and in the order of their axes (docs/isa.md, MatMul).
    """
    k, *taps, n = codes.shape
    blocks, tiles, folds = -(-k // lanes), -(-n // lanes), math.prod(taps)
    whole = codes.reshape(k, folds, n)
    if (k, n) != (blocks * lanes, tiles * lanes):
        whole = np.zeros((blocks * lanes, folds, tiles * lanes), np.int8)
        whole[:k, :, :n] = codes.reshape(k, folds, n)
    # Rows of lanes are moved as one item each: byte by byte it takes twice the time.
    items = np.ascontiguousarray(whole).view(f"V{lanes}")
    ordered = items.reshape(blocks, lanes, folds, tiles).transpose(3, 0, 2, 1)
    packed = np.ascontiguousarray(ordered).view(np.int8)
    return packed.reshape(tiles, blocks * folds, lanes, lanes)


def unpack(tiles: Tiles, shape: Shape) -> Codes:
    """Codes of `shape` [K, *taps, N] from their weight tiles: the inverse of `pack`."""
    k, *taps, n = shape
    count, folds, lanes, _ = tiles.shape
    per_block = math.prod(taps)
    ordered = tiles.reshape(count, folds // per_block, per_block, lanes, lanes)
    whole = ordered.transpose(1, 3, 2, 0, 4).reshape(-1, per_block, count * lanes)
    return np.ascontiguousarray(whole[:k, :, :n]).reshape(shape)


def quantize_and_pack(x: ArrayLike, lanes: int, quant: Quant | None = None) -> tuple[Tiles, Quant]:
    """Weight tiles and scales (per column) of a real matrix [K, N].

    The same as `symmetric(x, 1)` (unless scales are given), `quantize` and `pack`, without whole
    matrices in between. `lanes` is a power of two. Raises InputError if scales are to be found
    and `x` holds NaN or infinities.
    """
    real = np.asarray(x, np.float32)
    k, n = real.shape
    own = quant or symmetric(real, 1)
    count, blocks = -(-n // lanes), -(-k // lanes)
    exact = (k, n) == (blocks * lanes, count * lanes)
    tiles = (np.empty if exact else np.zeros)((count, blocks, lanes, lanes), np.int8)
    rows = min(lanes, 1 << (max(1, _BLOCK // n).bit_length() - 1))
    buffer, codes = np.empty((rows, n), np.float32), np.zeros((rows, count * lanes), np.int8)
    target = tiles.view(f"V{lanes}")[..., 0]
    items = codes.view(f"V{lanes}")
    for first in range(0, k, rows):
        used = min(rows, k - first)
        q = buffer[:used]
        with np.errstate(over="ignore"):
            np.divide(real[first : first + used], own.scale, out=q)
        np.rint(q, out=q)
        if quant:  # a column's own scale takes it to 127 at most
            np.clip(q, np.float32(-HIGH), np.float32(HIGH), out=q)
        codes[:used, :n] = q
        block, row = divmod(first, lanes)
        target[:, block, row : row + used] = items[:used].T
    return tiles, own


def fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    """Scales of weights [N, ...]: the largest magnitude is 127, or the least squared error."""
    best = symmetric(x, axis)
    return best if method == "max" else searched(np.asarray(x, np.float32), axis, best, quantize)


INT8 = Format(
    name="int8",
    bits=8,
    operand="int8",
    fit=fit,
    quantize=lambda x, quant: quantize(finite(x), quant),
    encode=lambda operands, quant: np.asarray(operands).astype(np.int8).view(np.uint8),
    decode=lambda codes, quant: np.asarray(codes).astype(np.uint8).view(np.int8),
    hpp="formats/integer.hpp",
    decoder="Signed<8>",
    doc="uniform, Jacob et al., CVPR 2018",
    grid=((np.arange(256) ^ 128) - 128).astype(np.float64),
    activations=True,
)
