"""Pooling, add, sub, mul and lone element-wise functions: operations of the vector unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Graph, Node, Quant
from weft.lower.context import Context
from weft.lower.conv import window_of
from weft.lower.epilogue import Scaling, epilogue, scaling
from weft.lower.layout import kept, spatial_letters
from weft.lower.stage import (
    HERE,
    Epilogue,
    HostOnlyError,
    Rect,
    Second,
    Stage,
    Target,
    Value,
    VectorOp,
    Window,
)
from weft.pack import extents
from weft.program import Layout

LARGEST_FACTOR = 32767  # of add: int16
CONSTANT_FACTOR = 16384  # of the activation where the other operand is a constant
_NOT_TABLES = ("BatchNormalization", "Cast", "QuantizeLinear", "DequantizeLinear", "Where")


def lower_pool(ctx: Context, node: Node) -> Stage:
    """MaxPool, AveragePool and their global forms, over one or two axes."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        raise HostOnlyError("the indices of a pool")
    letters = spatial_letters(x.layout)
    size = extents(x.layout)
    if node.op.startswith("Global"):
        height, width = x.layout.height, x.layout.width
        window = Window(height, width, 1, 1, height, width)
    else:
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
    if not counted:
        done = _uniform(ctx, node, x.quant.scale, 1.0 / window.taps, y)
        yield _vector(ctx, "sum", x, window, done)
        return
    w = window
    rows = _runs(w.out_h, w.kernel_h, w.stride_y, w.dilation_y, w.pad_y, w.height)
    columns = _runs(w.out_w, w.kernel_w, w.stride_x, w.dilation_x, w.pad_x, w.width)
    for y0, y1, in_y in rows:
        for x0, x1, in_x in columns:
            part = w.cut(Rect(y0, y1, x0, x1), 0, w.height)
            done = _uniform(ctx, node, x.quant.scale, 1.0 / max(in_y * in_x, 1), y)
            yield _vector(ctx, "sum", x, part, done, Target(0, y0, x0))


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
        return _with_constant(ctx, node, constants[0], constants[1])
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
    if node.op == "Mul":
        factors = (1, 1)
        values = scaling(node, x.quant.scale, z.quant.scale, y)
    else:
        factors, unit = _factors(x.quant, z.quant)
        factors = (factors[0] * signs[0], factors[1] * signs[1])
        values = scaling(node, unit, 1.0, y)
    second = Second(
        z.root,
        per_block=z.layout.channels > 1,
        per_row=z.layout.height > 1,
        per_col=z.layout.width > 1,
        zero=z.quant.zero_point,
        scale=factors[1],
    )
    window = plain_window(x.layout)
    op = VectorOp(
        "mul" if node.op == "Mul" else "add",
        x.root,
        window,
        x.layout.blocks(ctx.lanes),
        _shared(ctx, node, values, y),
        x.quant.zero_point,
        factors[0],
        second=second,
    )
    layout = Layout(x.layout.channels, x.layout.height, x.layout.width, x.layout.dims)
    return ctx.stage(node, y, _ranked(ctx, node, layout), (op,), engine="vector")


def _ranked(ctx: Context, node: Node, layout: Layout) -> Layout:
    """`layout` with dimensions of 1 in front, if the output has more of them."""
    extra = len(ctx.graph[node.outputs[0]].shape) - len(layout.dims)
    if extra < 0:
        raise HostOnlyError("an operand of more dimensions than the output")
    return Layout(layout.channels, layout.height, layout.width, ((),) * extra + tuple(layout.dims))


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


def plain_window(layout: Layout) -> Window:
    """Every position of a map, one by one."""
    return Window(layout.height, layout.width, layout.height, layout.width)


def _with_constant(ctx: Context, node: Node, left: Array | None, right: Array | None) -> Stage:
    """Add, Sub, Mul with a constant per channel: it becomes the bias, or the scale."""
    constant = left if right is None else right
    if constant is None or (left is not None and right is not None):
        raise HostOnlyError("two constants")
    x = ctx.value(node.inputs[0 if left is None else 1])
    y = ctx.quant(node.outputs[0])
    per_channel = channel_values(ctx, node, x, constant)
    blocks, window, zero = x.layout.blocks(ctx.lanes), plain_window(x.layout), x.quant.zero_point
    if node.op == "Mul":
        signs = np.zeros(blocks * ctx.lanes, np.int8)
        signs[: x.layout.channels] = np.sign(per_channel)
        done = epilogue(node, scaling(node, x.quant.scale, np.abs(per_channel), y), y, ctx.lanes)
        taps = signs.reshape(blocks, 1, ctx.lanes)
        op = VectorOp("depthwise", x.root, window, blocks, done, zero, taps=taps)
        return ctx.stage(node, y, x.layout, (op,), engine="vector")
    unit = float(np.float32(x.quant.scale)) / CONSTANT_FACTOR
    bias = np.rint(per_channel / unit * (-1 if node.op == "Sub" and left is None else 1))
    if np.abs(bias).max() >= 1 << 30:
        raise HostOnlyError("a constant far larger than the activation's scale")
    factor = -CONSTANT_FACTOR if node.op == "Sub" and left is not None else CONSTANT_FACTOR
    values = scaling(node, unit, np.ones(len(bias)), y, bias.astype(np.int64))
    done = epilogue(node, values, y, ctx.lanes)
    second = Second(x.root, True, True, True, 0, 0)
    op = VectorOp("add", x.root, window, blocks, done, zero, factor, second=second)
    return ctx.stage(node, y, x.layout, (op,), engine="vector")


def channel_values(ctx: Context, node: Node, x: Value, constant: Array) -> NDArray[np.float64]:
    """A constant operand as one number per channel. Raises HostOnlyError if it varies in space."""
    shape = ctx.graph[node.outputs[0]].shape
    if shape != ctx.graph[variable_input(ctx.graph, node)].shape or constant.ndim > len(shape):
        raise HostOnlyError("a constant that broadcasts the activation")
    for axis in range(1, constant.ndim + 1):
        if constant.shape[-axis] > 1 and kept(x.layout, -axis) != ("c",):
            raise HostOnlyError("a constant that is not one number per channel")
    return np.broadcast_to(constant.reshape(-1), (x.layout.channels,)).astype(np.float64)


def lower_prelu(ctx: Context, node: Node) -> Stage:
    """A lone PRelu with a slope per channel: a copy with a second scale below zero."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    slopes = ctx.constant(node.inputs[1])
    if slopes is None:
        raise HostOnlyError("slopes that are no constant")
    per_channel = channel_values(ctx, node, x, slopes)
    values = scaling(node, x.quant.scale, np.ones(len(per_channel)), y)
    done = epilogue(node, values, y, ctx.lanes, activation=("PRelu", per_channel))
    op = _vector(ctx, "max", x, plain_window(x.layout), done)
    return ctx.stage(node, y, x.layout, (op,), engine="vector")


def lower_unary(ctx: Context, node: Node) -> Stage:
    """A lone element-wise function: a copy through the lookup table."""
    table = lookup_table(ctx.graph, node)
    x, y = ctx.value(variable_input(ctx.graph, node)), ctx.quant(node.outputs[0])
    if ctx.graph[x.root].size != ctx.graph[node.outputs[0]].size:
        raise HostOnlyError("a constant that broadcasts the activation")
    identity = Quant(np.asarray(1.0, np.float32), x.quant.zero_point)
    bare = node.with_attrs(activation=None, requant="single_round")
    values = scaling(bare, 1.0, 1.0, identity)
    done = epilogue(bare, values, identity, ctx.lanes, step=0)
    done = with_lookup(done, table)
    op = _vector(ctx, "max", x, plain_window(x.layout), done)
    return ctx.stage(node, y, _ranked(ctx, node, x.layout), (op,), engine="vector")


def with_lookup(done: Epilogue, table: NDArray[np.int8]) -> Epilogue:
    """The epilogue followed by a table [256]; two tables become one."""
    if done.lookup is not None:
        table = table[done.lookup.astype(np.int64) + 128]
    return replace(done, lookup=table)


def lookup_table(graph: Graph, node: Node) -> NDArray[np.int8]:
    """Output code for each input code -128..127, by the operator's reference on real values.

    All but one operand must be single numbers. Raises HostOnlyError where they are not, or where
    the function is not one of single elements.
    """
    from weft import ops

    if "opset" in node.attrs or node.op not in ops.OPS or node.op in _NOT_TABLES:
        raise HostOnlyError(f"no lookup table for {node.op}")
    spec = ops.OPS[node.op]
    if spec.category not in ("elementwise", "binary"):
        raise HostOnlyError(f"{node.op} has no accelerator form")
    variable = variable_input(graph, node)
    x, y = graph[variable], graph[node.outputs[0]]
    if x.quant is None or y.quant is None:
        raise HostOnlyError("an activation that is not quantized")
    codes = np.arange(-128, 128).astype(np.int8)
    operands = [
        x.quant.dequantize(codes) if name == variable else np.asarray(graph[name].real())
        for name in node.inputs
        if name
    ]
    if any(operand.size > 1 for operand in operands if operand.shape != (256,)):
        raise HostOnlyError(f"{node.op} with a constant that is not one number")
    operands = [o if o.shape == (256,) else o.reshape(()).astype(np.float32) for o in operands]
    with np.errstate(all="ignore"):
        found = np.asarray(spec.reference(node, operands)[0], np.float32)
        return y.quant.quantize(np.where(np.isnan(found), np.float32(0), found))


def variable_input(graph: Graph, node: Node) -> str:
    """The only operand that is no constant. Raises HostOnlyError if there are others."""
    names = {name for name in node.inputs if name and graph[name].data is None}
    if len(names) != 1 or len([n for n in node.inputs if n in names]) != 1:
        raise HostOnlyError(f"{node.op} of several activations")
    return names.pop()
