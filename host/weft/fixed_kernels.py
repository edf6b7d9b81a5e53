"""numpy kernels of fixed-point layers, as hls4ml's templates compute them, on int64 codes.

Layout is hls4ml's, channels last: [n, ..., K]. Types are `weft.fixed.FixedType`; F bits of a
product are those of both factors together. Sources: the templates of hls4ml (nnet_utils: dense,
conv1d, conv2d, pooling, activation), evaluated in the order of their loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from weft.fixed import Codes, FixedType, cast, from_real, to_real

_DOUBLE = float(1 << 53)  # sums below it are exact in float64, whose products are fast


def sums(
    x: Codes,
    w: Codes,
    bias: Codes,
    frac: int,
    accum: FixedType,
    result: FixedType,
    *,
    channelwise: bool = False,
) -> Codes:
    """cast(Σ x·w + bias): x [..., K], w [K, N]; if `channelwise`, x [..., K, N].

    `frac` is that of the products, `bias` [N] has the codes of `accum`. Each product is converted
    to `accum`, then added in it, k by k; where that can't matter all are added at once.
    """
    shift = accum.frac - frac
    largest = float(np.abs(x).max(initial=0)) * float(np.abs(w).sum(axis=0).max(initial=0))
    total = largest * 2.0 ** max(shift, 0) + float(np.abs(bias).max(initial=0))
    exact = shift >= 0 and (accum.overflow == "WRAP" or total <= accum.high)
    if exact and total < _DOUBLE:
        if channelwise:
            acc = (x * w).sum(axis=-2)
        else:
            acc = (x.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
        acc = cast((acc << shift) + bias, accum.frac, accum)
        return cast(acc, accum.frac, result)
    shape = (*x.shape[:-2], x.shape[-1]) if channelwise else (*x.shape[:-1], w.shape[1])
    acc = np.broadcast_to(bias, shape).copy()
    for k in range(len(w)):
        each = x[..., k, :] * w[k] if channelwise else x[..., k, None] * w[k]
        acc = cast(acc + cast(each, frac, accum), accum.frac, accum)
    return cast(acc, accum.frac, result)


def patches(
    x: Codes, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], fill: int = 0
) -> Codes:
    """Windows [n, *out, *kernel, C] of x [n, *spatial, C]; `pads` begin with all starts."""
    rank = len(kernel)
    widths = [(0, 0), *((pads[i], pads[rank + i]) for i in range(rank)), (0, 0)]
    padded = np.pad(x, widths, constant_values=fill) if any(pads) else x
    windows = sliding_window_view(padded, tuple(kernel), axis=tuple(range(1, rank + 1)))
    windows = windows[(slice(None), *(slice(None, None, s) for s in strides))]
    order = (*range(rank + 1), *range(rank + 2, 2 * rank + 2), rank + 1)
    return np.asarray(windows.transpose(order))


def conv(
    x: Codes,
    w: Codes,
    bias: Codes,
    strides: Sequence[int],
    pads: Sequence[int],
    frac: int,
    accum: FixedType,
    result: FixedType,
) -> Codes:
    """Convolution: w [*kernel, C, N], or [*kernel, C] for one filter per channel."""
    rank = x.ndim - 2
    depthwise = w.ndim == rank + 1
    found = patches(x, w.shape[:rank], strides, pads)
    place = found.shape[: rank + 1]
    if depthwise:
        taps = found.reshape(*place, -1, x.shape[-1])
        return sums(taps, w.reshape(-1, w.shape[-1]), bias, frac, accum, result, channelwise=True)
    columns = found.reshape(*place, -1)
    flat = w.reshape(-1, w.shape[-1])
    return sums(columns, flat, bias, frac, accum, result)


def pool(
    x: Codes,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    x_type: FixedType,
    accum: FixedType,
    result: FixedType,
    *,
    average: bool,
    count_pad: bool,
) -> Codes:
    """Pooling of x [n, *spatial, C]; a mean is divided with truncation toward zero.

    Padding of a maximum has only its top bit set, which is the least number if signed.
    """
    fill = 0 if average else (x_type.low if x_type.signed else 1 << (x_type.width - 1))
    rank = len(kernel)
    taps = patches(x, kernel, strides, pads, fill)
    taps = taps.reshape(*taps.shape[: rank + 1], -1, x.shape[-1])
    if not average:
        return cast(cast(taps.max(axis=-2), x_type.frac, accum), accum.frac, result)
    acc = np.zeros((*taps.shape[:-2], x.shape[-1]), np.int64)
    for k in range(taps.shape[-2]):
        acc = _added(acc, taps[..., k, :], accum, x_type)
    ones = np.ones((1, *x.shape[1:-1], 1), np.int64)
    counts = patches(ones, kernel, strides, pads).reshape(*taps.shape[1:-2], -1).sum(axis=-1)
    number = np.full_like(counts, taps.shape[-2]) if count_pad else counts
    return cast(divided(acc, number[None, ..., None]), accum.frac, result)


def _added(acc: Codes, x: Codes, accum: FixedType, x_type: FixedType) -> Codes:
    frac = max(accum.frac, x_type.frac)
    total = (acc << (frac - accum.frac)) + (x << (frac - x_type.frac))
    return cast(total, frac, accum)


def each_to_its_own(
    q: Codes, frac: int, types: Codes, rounding: str, overflow: str, result: FixedType
) -> Codes:
    """Elements converted to types of their own, then to `result`: q [n, ...], types [3, ...].

    `types` says signed, width and integer bits of each; a width of 0 makes zero.
    """
    out = np.zeros_like(q)
    for signed, width, integer in np.unique(types.reshape(3, -1), axis=1).T:
        if width <= 0:
            continue
        kind = FixedType(int(width), int(integer), bool(signed), rounding, overflow)
        at = (types[0] == signed) & (types[1] == width) & (types[2] == integer)
        out[:, at] = cast(cast(q[:, at], frac, kind), kind.frac, result)
    return out


def divided(a: Codes, b: Codes | int) -> Codes:
    """a / b toward zero, as C divides."""
    return np.asarray(np.sign(a) * (np.abs(a) // b))


def merge(a: Codes, b: Codes, fracs: tuple[int, int], function: str, result: FixedType) -> Codes:
    """Element-wise function of two operands with `fracs` fractional bits."""
    if function == "multiply":
        return cast(a * b, fracs[0] + fracs[1], result)
    frac = max(fracs)
    a, b = a << (frac - fracs[0]), b << (frac - fracs[1])
    if function == "average":
        return cast(a + b, frac + 1, result)
    return cast(MERGES[function](a, b), frac, result)


MERGES: dict[str, Callable[[Codes, Codes], Codes]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def sliced_bits(q: Codes, kind: FixedType, size: int) -> Codes:
    """The top bits of codes as an index into a table of `size` entries."""
    bits = max(size - 1, 1).bit_length()
    return (q & ((1 << kind.width) - 1)) >> (kind.width - bits)


def softmax(
    x: Codes,
    exp_table: Codes,
    inv_table: Codes,
    types: dict[str, FixedType],
    *,
    stable: bool,
) -> Codes:
    """hls4ml's softmax over the last axis by two tables.

    `types`: x, norm (of the distances to the maximum), exp, accum, inverse_input, inverse, result.
    """
    key = types["norm"] if stable else types["x"]
    q = cast(x.max(axis=-1, keepdims=True) - x, types["x"].frac, key) if stable else x
    accum = types["accum"]
    exps = cast(exp_table[sliced_bits(q, key, len(exp_table))], types["exp"].frac, accum)
    total = cast(_tree(exps, accum), accum.frac, types["inverse_input"])
    inverse = inv_table[sliced_bits(total, types["inverse_input"], len(inv_table))]
    return cast(exps * inverse[..., None], accum.frac + types["inverse"].frac, types["result"])


def _tree(x: Codes, accum: FixedType) -> Codes:
    """Sum over the last axis in hls4ml's order: the largest power of two below n, then the rest."""
    n = x.shape[-1]
    if n == 1:
        return x[..., 0]
    left = 1 << ((n - 1).bit_length() - 1)
    both = _tree(x[..., :left], accum) + _tree(x[..., left:], accum)
    return cast(both, accum.frac, accum)


def exp_table(key: FixedType, size: int, kind: FixedType, scale: float, sign: int) -> Codes:
    """exp(sign · scale · x) for every index that `sliced_bits` makes of codes of `key`."""
    x = _indexed(key, size) * np.float32(scale)
    return from_real(np.exp(sign * x.astype(np.float64)).astype(np.float32), kind)


def inverse_table(key: FixedType, size: int, kind: FixedType) -> Codes:
    """1 / x for every index; infinity becomes the largest number."""
    x = _indexed(key, size)
    with np.errstate(divide="ignore"):
        y = (np.float32(1) / x).astype(np.float64)
    return from_real(np.where(np.isfinite(y), y, to_real(kind.high, kind.frac)), kind)


def _indexed(key: FixedType, size: int) -> NDArray[np.float32]:
    bits = max(size - 1, 1).bit_length()
    codes = np.arange(size, dtype=np.int64) << (key.width - bits)
    wrapped = np.where(codes > key.high, codes - (1 << key.width), codes) if key.signed else codes
    return to_real(wrapped, key.frac).astype(np.float32)


def argmax(x: Codes, result: FixedType) -> Codes:
    """One at the first largest element of the last axis, zero elsewhere."""
    hot = np.arange(x.shape[-1]) == x.argmax(axis=-1)[..., None]
    return cast(hot.astype(np.int64), 0, result)
