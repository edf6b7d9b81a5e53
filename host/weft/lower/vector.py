"""Pooling, and add, sub, mul of two activations: operations of the vector unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from weft.graph import Node, Quant
from weft.lower import exact
from weft.lower.context import Context
from weft.lower.conv import window_of
from weft.lower.epilogue import Scaling, epilogue, scaling
from weft.lower.function import lower_constant
from weft.lower.geometry import HERE, Rect, Target, Value, Window, plain_window
from weft.lower.layout import kept, ranked, spatial_letters
from weft.lower.stage import Epilogue, HostOnlyError, Second, Stage, VectorOp
from weft.pack import extents
from weft.passes.fuse import same_quant
from weft.program import Layout

LARGEST_FACTOR = 32767  # of add: int16


def lower_pool(ctx: Context, node: Node) -> Stage:
    """MaxPool, AveragePool and their global forms, over one or two axes."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        raise HostOnlyError("the indices of a pool")
    size = extents(x.layout)
    if node.op.startswith("Global"):
        if size["c"] > 1 and kept(x.layout, 1) != ("c",):
            raise HostOnlyError("channels that are not dimension 1 of the map")
        height, width = x.layout.height, x.layout.width
        window = Window(height, width, 1, 1, height, width)
        dims: tuple[tuple[str, ...], ...] = ((), ("c",), *((),) * (len(x.layout.dims) - 2))
    else:
        letters = spatial_letters(x.layout)
        kernel = tuple(int(k) for k in node.attrs["kernel_shape"])
        window = window_of(ctx, node, x.layout, letters, kernel)
        dims = ((), ("c",), *((letter,) for letter in letters))
    layout = Layout(size["c"], window.out_h, window.out_w, dims)
    if node.op in ("MaxPool", "GlobalMaxPool"):
        done = _uniform(ctx, node, x.quant.scale, 1.0, y)
        ops = [_vector(ctx, "max", x, window, done)]
    else:
        ops = list(_averages(ctx, node, x, y, window))
    return ctx.stage(node, y, layout, tuple(ops), engine="vector")


def _averages(ctx: Context, node: Node, x: Value, y: Quant, window: Window) -> Iterator[VectorOp]:
    """One sum per rectangle of output positions that average equally many taps."""
    counted = node.op == "AveragePool" and not node.attrs.get("count_include_pad", 0)
    if counted and "kernels" in node.attrs and same_quant(x.quant, y):
        mean, zero = exact.code_mean, 0
    else:
        mean, zero = _mean, x.quant.zero_point
    if not counted:
        codes = node.attrs.get("kernels") == "xnnpack" and same_quant(x.quant, y)
        whole = exact.even_mean if codes else _mean
        done = whole(ctx, node, x.quant, window.taps, y)
        zero = 0 if codes else x.quant.zero_point
        yield replace(_vector(ctx, "sum", x, window, done), zero=zero)
        return
    w = window
    rows = _runs(w.out_h, w.kernel_h, w.stride_y, w.dilation_y, w.pad_y, w.height)
    columns = _runs(w.out_w, w.kernel_w, w.stride_x, w.dilation_x, w.pad_x, w.width)
    for y0, y1, in_y in rows:
        for x0, x1, in_x in columns:
            part = w.cut(Rect(y0, y1, x0, x1), 0, w.height)
            done = mean(ctx, node, x.quant, max(in_y * in_x, 1), y)
            yield replace(_vector(ctx, "sum", x, part, done, Target(0, y0, x0)), zero=zero)


def _mean(ctx: Context, node: Node, x: Quant, count: int, y: Quant) -> Epilogue:
    return _uniform(ctx, node, x.scale, 1.0 / count, y)


def _runs(
    out: int, kernel: int, stride: int, dilation: int, pad: int, size: int
) -> list[tuple[int, int, int]]:
    """(first, end, valid taps) of the runs of output positions with equally many valid taps."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - pad
    counts = ((at >= 0) & (at < size)).sum(axis=1)
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), out]
    return [(a, b, int(counts[a])) for a, b in pairwise(edges)]


def _uniform(ctx: Context, node: Node, x_scale: object, factor: float, y: Quant) -> Epilogue:
    return _shared(ctx, node, scaling(node, np.asarray(x_scale), factor, y), y)


def _shared(ctx: Context, node: Node, values: Scaling, y: Quant) -> Epilogue:
    """The epilogue of one scale for all channels, unless the activation has slopes per channel."""
    activation = node.attrs.get("activation")
    if activation and activation[0] == "PRelu" and np.size(activation[1]) > 1:
        values = Scaling(np.full(np.size(activation[1]), values.scale), values.bias)
        return epilogue(node, values, y, ctx.lanes)
    return epilogue(node, values, y, ctx.lanes, step=0)


def _vector(
    ctx: Context,
    operation: str,
    x: Value,
    window: Window,
    done: Epilogue,
    target: Target = HERE,
) -> VectorOp:
    blocks = x.layout.blocks(ctx.lanes)
    return VectorOp(operation, x.root, window, blocks, done, x.quant.zero_point, target=target)


def lower_binary(ctx: Context, node: Node) -> Stage:
    """Add, Sub, Mul of two activations, or of one and a constant per channel."""
    constants = [ctx.constant(name) for name in node.inputs[:2]]
    if constants[0] is not None or constants[1] is not None:
        return lower_constant(ctx, node, constants[0], constants[1])
    x, z = ctx.value(node.inputs[0]), ctx.value(node.inputs[1])
    y = ctx.quant(node.outputs[0])
    signs = (1, -1) if node.op == "Sub" else (1, 1)
    if _covers(z.layout, x.layout) and not _covers(x.layout, z.layout):
        x, z, signs = z, x, (signs[1], signs[0])
    if not _covers(x.layout, z.layout):
        raise HostOnlyError("operands that broadcast each other")
    _check_axes(ctx, node, x, z)
    if z.root == x.root and z.layout != x.layout:
        raise HostOnlyError("a tensor combined with its own transpose")
    node, factors, values = _combined(node, (x.quant, z.quant, y), signs)
    second = Second(
        z.root,
        per_block=z.layout.channels > 1,
        per_row=z.layout.height > 1,
        per_col=z.layout.width > 1,
        zero=z.quant.zero_point,
        scale=factors[1],
    )
    op = VectorOp(
        "mul" if node.op == "Mul" else "add",
        x.root,
        plain_window(x.layout),
        x.layout.blocks(ctx.lanes),
        _shared(ctx, node, values, y),
        x.quant.zero_point,
        factors[0],
        second=second,
    )
    layout = ranked(x.layout, ctx.graph[node.outputs[0]].shape)
    return ctx.stage(node, y, layout, (op,), engine="vector")


def _combined(
    node: Node, quants: tuple[Quant, Quant, Quant], signs: tuple[int, int]
) -> tuple[Node, tuple[int, int], Scaling]:
    """The node with its rounding, the factors of both operands, and the scale of the result."""
    x, z, y = quants
    if node.op == "Mul":
        return node, (1, 1), scaling(node, x.scale, z.scale, y)
    if "kernels" in node.attrs:
        return exact.sum_of_codes(node, quants, signs)
    factors, unit = _factors(x, z)
    return node, (factors[0] * signs[0], factors[1] * signs[1]), scaling(node, unit, 1.0, y)


def _covers(x: Layout, z: Layout) -> bool:
    """Whether `z` broadcasts to `x` (or is as large)."""
    pairs = ((x.channels, z.channels), (x.height, z.height), (x.width, z.width))
    if z.channels == 1 and x.channels > 1:
        return False  # would need one lane copied to all
    return all(b in (1, a) for a, b in pairs)


def _check_axes(ctx: Context, node: Node, x: Value, z: Value) -> None:
    """Raises HostOnlyError unless both operands hold each dimension in the same letters."""
    rank = max(len(x.layout.dims), len(z.layout.dims))
    for axis in range(1, rank + 1):
        a = kept(x.layout, -axis) if axis <= len(x.layout.dims) else ()
        b = kept(z.layout, -axis) if axis <= len(z.layout.dims) else ()
        if b and a != b:
            raise HostOnlyError("operands whose maps lie in different orders")


def _factors(x: Quant, z: Quant) -> tuple[tuple[int, int], float]:
    """Integers in the ratio of the two scales, and the scale of 1: best rational approximation."""
    a, b = float(np.float32(x.scale)), float(np.float32(z.scale))
    large, small = max(a, b), min(a, b)
    ratio = Fraction(small / large).limit_denominator(LARGEST_FACTOR)
    factors = (ratio.denominator, ratio.numerator)
    return (factors if a >= b else factors[::-1]), large / ratio.denominator
