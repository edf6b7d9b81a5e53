"""numpy kernels of the common operators, on batches: what the host runs, with or without onnx.

Layout is ONNX's: dimension 0 is the batch, dimension 1 the channels, then the spatial axes.
Attributes are those of the table in ARCHITECTURE.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from weft.graph import Array, Node

Arrays = list[Array]
COLUMN_LIMIT = 1 << 24  # elements of the im2col matrix per piece: 64 MiB of float32


def activate(y: Array, activation: Sequence[Any] | None, axis: int = 1) -> Array:
    """`y` after a fused activation; per-channel slopes run along `axis`."""
    if not activation:
        return y
    kind, *values = activation
    if kind == "Relu":
        return np.maximum(y, 0)
    if kind == "Clip":
        return clip(y, *values)
    slope: Array = np.asarray(values[0], y.dtype)
    if kind == "PRelu":
        shape = [1] * y.ndim
        shape[axis] = -1
        slope = slope.reshape(shape)
    return np.where(y < 0, y * slope, y)


def clip(x: Array, low: float, high: float) -> Array:
    """min(max(x, low), high) in the type of `x`, bounds saturated to that type."""
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        low, high = max(math.ceil(low), info.min), min(math.floor(high), info.max)
    bounds = np.array([low, high]).astype(x.dtype)
    return np.asarray(np.minimum(np.maximum(x, bounds[0]), bounds[1]))


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def softplus(x: Array) -> Array:
    """log(1 + e^x) without overflow."""
    return np.logaddexp(x, 0, dtype=x.dtype)


def erf(x: Array) -> Array:
    """The error function in double precision: scipy's where it is installed, else C's."""
    try:
        from scipy.special import erf as function
    except ImportError:  # a board; fifty times slower
        function = np.frompyfunc(math.erf, 1, 1)
    return np.asarray(function(np.asarray(x, np.float64)), np.float64).astype(x.dtype)


def gelu(x: Array, approximate: str = "none") -> Array:
    """x·Φ(x), or its tanh form (Hendrycks, Gimpel 2016)."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1 + erf(x * math.sqrt(0.5))))


def hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """max(0, min(1, alpha·x + beta))."""
    return np.clip(alpha * x + beta, 0, 1).astype(x.dtype)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """x, below zero alpha·(e^x − 1)."""
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def selu(x: Array, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Array:
    """gamma·elu(x, alpha)."""
    return gamma * elu(x, alpha)


UNARY: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Celu": lambda x, alpha=1.0: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)),
    "Cos": np.cos,
    "Elu": elu,
    "Erf": erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": lambda x: x * hard_sigmoid(x, 1 / 6, 0.5),
    "Identity": lambda x: x,
    "LeakyRelu": lambda x, alpha=0.01: np.where(x < 0, x * np.asarray(alpha, x.dtype), x),
    "Log": np.log,
    "Mish": lambda x: x * np.tanh(softplus(x)),
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "Selu": selu,
    "Sigmoid": sigmoid,
    "Sign": np.sign,
    "Sin": np.sin,
    "Softplus": softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Swish": lambda x, alpha=1.0: x * sigmoid(x * np.asarray(alpha, x.dtype)),
    "Tanh": np.tanh,
    "ThresholdedRelu": lambda x, alpha=1.0: np.where(x > alpha, x, np.zeros_like(x)),
}

BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Div": lambda x, y: np.divide(x, y) if x.dtype.kind == "f" else _divide_integers(x, y),
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "Pow": lambda x, y: np.power(x, y).astype(x.dtype),
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x),
    "Sub": np.subtract,
    "Xor": np.logical_xor,
}


def _divide_integers(x: Array, y: Array) -> Array:
    """Truncation toward zero, as C and ONNX divide."""
    if not np.all(y):
        raise ZeroDivisionError("division of integers by zero")
    quotient = np.abs(x) // np.abs(y)
    return np.where((x < 0) != (y < 0), -quotient, quotient).astype(x.dtype)


def spatial_pads(pads: Sequence[int]) -> list[tuple[int, int]]:
    """ONNX's pads (begins, then ends) as numpy's pairs, for x [N, C, *spatial]."""
    half = len(pads) // 2
    return [(0, 0), (0, 0), *zip(pads[:half], pads[half:], strict=True)]


def linear(node: Node, inputs: Arrays) -> Arrays:
    """x [..., K] · w [K, N] + bias [N]."""
    x, w = inputs[:2]
    y = (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[1])  # one product, not n
    if len(inputs) > 2:
        y = y + inputs[2]
    return [activate(y, node.attrs.get("activation"), axis=-1)]


def conv(node: Node, inputs: Arrays) -> Arrays:
    """Convolution with any number of spatial axes, by im2col in pieces of the batch."""
    x, w = inputs[:2]
    a = node.attrs
    x = np.pad(x, spatial_pads(a["pads"]))
    y = np.concatenate(
        [_conv_piece(piece, w, a["strides"], a["dilations"], a["group"]) for piece in _pieces(x, w)]
    )
    if "front" in a:  # tokens: behind rows of patches of zeros
        tokens = np.moveaxis(y.reshape(*y.shape[:2], -1), 1, -1)
        y = np.moveaxis(np.pad(tokens, ((0, 0), (a["front"], 0), (0, 0))), -1, 1)
    if len(inputs) > 2:
        y = y + inputs[2].reshape(-1, *[1] * (y.ndim - 2))
    y = activate(y, a.get("activation"))
    return [np.ascontiguousarray(np.moveaxis(y, 1, -1)) if "front" in a else y]


def _pieces(x: Array, w: Array) -> list[Array]:
    per_sample = x[0].size * math.prod(w.shape[2:])
    step = max(1, COLUMN_LIMIT // max(1, per_sample))
    return [x[i : i + step] for i in range(0, len(x), step)]


def _conv_piece(
    x: Array, w: Array, strides: Sequence[int], dilations: Sequence[int], group: int
) -> Array:
    kernel = w.shape[2:]
    n, per_group = len(x), w.shape[1]
    windows = taken_windows(x, kernel, strides, dilations)
    out = windows.shape[1 : 1 + len(kernel)]
    columns = windows.reshape(n * math.prod(out), group, per_group * math.prod(kernel))
    weights = w.reshape(group, w.shape[0] // group, -1).transpose(0, 2, 1)
    y = np.matmul(columns.transpose(1, 0, 2), weights)  # [group, n * positions, O / group]
    y = y.transpose(1, 0, 2).reshape(n, *out, w.shape[0])
    return np.ascontiguousarray(np.moveaxis(y, -1, 1))


def taken_windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """What a convolution reads for each output position: [n, *positions, channels, *taps].

    `x` is padded already.
    """
    axes = tuple(range(2, x.ndim))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(x, tuple(spans), axis=axes)
    steps = [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilations]
    windows = windows[(slice(None), slice(None), *steps)]
    order = (0, *range(2, 2 + len(kernel)), 1, *range(2 + len(kernel), windows.ndim))
    return windows.transpose(order)


def conv_transpose(node: Node, inputs: Arrays) -> Arrays:
    """Transposed convolution: every input value adds its scaled kernel to the output."""
    x, w = inputs[:2]
    a = node.attrs
    group, kernel = a["group"], w.shape[2:]
    n, channels, *size = x.shape
    out = w.shape[1] * group
    half = len(a["pads"]) // 2
    full = [
        (s - 1) * stride + (k - 1) * d + 1 + extra
        for s, stride, k, d, extra in zip(
            size, a["strides"], kernel, a["dilations"], a["output_padding"], strict=True
        )
    ]
    y = np.zeros((n, out, *full), x.dtype)
    xs = x.reshape(n, group, channels // group, -1)
    for tap in np.ndindex(*kernel):
        taps = w[(slice(None), slice(None), *tap)].reshape(group, channels // group, w.shape[1])
        part = np.matmul(taps.transpose(0, 2, 1), xs).reshape(n, out, *size)
        y[_tap_slices(tap, a["dilations"], a["strides"], size)] += part
    crop = [
        slice(b, f - e) for b, e, f in zip(a["pads"][:half], a["pads"][half:], full, strict=True)
    ]
    y = y[(slice(None), slice(None), *crop)]
    if len(inputs) > 2:
        y = y + inputs[2].reshape(-1, *[1] * (y.ndim - 2))
    return [activate(y, a.get("activation"))]


def _tap_slices(
    tap: Sequence[int], dilations: Sequence[int], strides: Sequence[int], count: Sequence[int]
) -> tuple[slice, ...]:
    """Where tap number `tap` meets a padded map, for `count` positions per axis."""
    starts = [t * d for t, d in zip(tap, dilations, strict=True)]
    ends = [b + (c - 1) * s + 1 for b, c, s in zip(starts, count, strides, strict=True)]
    steps = [slice(b, e, s) for b, e, s in zip(starts, ends, strides, strict=True)]
    return (slice(None), slice(None), *steps)


def _taps(x: Array, node: Node) -> Iterator[Array]:
    a = node.attrs
    spans = [d * (k - 1) + 1 for k, d in zip(a["kernel_shape"], a["dilations"], strict=True)]
    count = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], spans, a["strides"], strict=True)]
    for tap in np.ndindex(*a["kernel_shape"]):
        yield x[_tap_slices(tap, a["dilations"], a["strides"], count)]


def max_pool(node: Node, inputs: Arrays) -> Arrays:
    """Maximum over a window; what lies outside the map is left out.

    A second output holds where in the sample (channel, y, x flattened) the first maximum lies.
    """
    x = inputs[0]
    pads = spatial_pads(node.attrs["pads"])
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    taps = _taps(np.pad(x, pads, constant_values=lowest), node)
    y = next(taps).copy()
    if len(node.outputs) == 1:
        for tap in taps:
            np.maximum(y, tap, out=y)
        return [activate(y, node.attrs.get("activation"))]
    places = np.arange(x[0].size, dtype=np.int64).reshape(1, *x.shape[1:])
    spots = _taps(np.pad(places, pads, constant_values=-1), node)
    at = np.broadcast_to(next(spots), y.shape)
    for tap, spot in zip(taps, spots, strict=True):
        better = (tap > y) | (at < 0)
        y, at = np.where(better, tap, y), np.where(better, spot, at)
    return [y, at]


def average_pool(node: Node, inputs: Arrays) -> Arrays:
    """Mean over a window, of the values inside the map or (count_include_pad) of all."""
    x, a = inputs[0], node.attrs
    total = sum(_taps(np.pad(x, spatial_pads(a["pads"])), node))
    inside = np.ones((1, 1, *x.shape[2:]), x.dtype)
    border = 1 if a["count_include_pad"] else 0
    counted = np.pad(inside, spatial_pads(a["pads"]), constant_values=border)
    y = np.asarray(total / sum(_taps(counted, node)), x.dtype)
    return [activate(y, a.get("activation"))]


def softmax(x: Array, axis: int = -1) -> Array:
    """e^x / Σ e^x along `axis`."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True), x.dtype)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """Logarithm of softmax."""
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), x.dtype)


def batch_normalization(node: Node, inputs: Arrays) -> Arrays:
    """(x − mean) / √(variance + epsilon)·scale + bias per channel."""
    x, scale, bias, mean, variance = inputs
    gain = scale / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5)))
    shape = (-1, *[1] * (x.ndim - 2))
    return [x * gain.reshape(shape) + (bias - mean * gain).reshape(shape)]


def depth_to_space(x: Array, block: int, mode: str) -> Array:
    """Moves blocks of channels into space (DCR or CRD order)."""
    n, c, h, w = x.shape
    if mode == "DCR":
        y = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // block**2, h * block, w * block)


def slices(node: Node, rank: int) -> tuple[slice, ...]:
    """Slice's attributes as an index; an end of −1 of a backward slice means past the first."""
    index = [slice(None)] * rank
    a = node.attrs
    for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
        index[axis] = slice(start, None if step < 0 and end < 0 else end, step)
    return tuple(index)


def stacked(inputs: Arrays) -> Arrays:
    """The inputs with as many samples each: a constant counts for all."""
    count = max(len(a) for a in inputs)
    return [a if len(a) == count else np.broadcast_to(a, (count, *a.shape[1:])) for a in inputs]


def pad(node: Node, inputs: Arrays) -> Arrays:
    """Pads every axis; mode constant, or numpy's edge, reflect and wrap."""
    pads = node.attrs["pads"]
    half = len(pads) // 2
    width = list(zip(pads[:half], pads[half:], strict=True))
    mode = node.attrs.get("mode", "constant")
    value = {"constant_values": node.attrs.get("value", 0)} if mode == "constant" else {}
    return [np.pad(inputs[0], width, mode=mode, **value)]


def resize(node: Node, inputs: Arrays) -> Arrays:
    """Nearest neighbour with integer factors: repeats."""
    y = inputs[0]
    for axis, factor in enumerate(node.attrs["scales"]):
        if factor != 1:
            y = np.repeat(y, int(factor), axis=axis)
    return [y]


def quantize_linear(node: Node, inputs: Arrays) -> Arrays:
    """rint(x / scale) + zero_point, saturated to the type of the zero point."""
    x, scale, zero = inputs
    axis = node.attrs.get("axis", 1)
    info = np.iinfo(zero.dtype)
    q = np.rint(x / _along(scale, axis, x.ndim)) + _along(zero, axis, x.ndim).astype(np.float32)
    return [np.clip(q, info.min, info.max).astype(zero.dtype)]


def dequantize_linear(node: Node, inputs: Arrays) -> Arrays:
    """(q − zero_point)·scale in float32."""
    q, scale, zero = inputs
    axis = node.attrs.get("axis", 1)
    centred = q.astype(np.int64) - _along(zero, axis, q.ndim).astype(np.int64)
    return [centred.astype(np.float32) * _along(scale, axis, q.ndim)]


def _along(values: Array, axis: int, rank: int) -> Array:
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)
