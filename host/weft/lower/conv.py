"""Conv and Linear: weight tiles for the systolic array, taps for depthwise convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft.errors import CapacityError
from weft.formats import int8
from weft.graph import Array, Node, Quant
from weft.isa import PARAMETER_ROWS
from weft.lower.context import Context
from weft.lower.epilogue import Scaling, epilogue, scaling
from weft.lower.layout import kept, spatial_letters
from weft.lower.stage import (
    Epilogue,
    HostOnlyError,
    MatrixOp,
    Op,
    Pass,
    Stage,
    Target,
    Value,
    VectorOp,
    Window,
)
from weft.pack import extents
from weft.program import Layout, Unfold

LARGEST_K = (1 << 31) // (128 * 128)  # products of int8 that can't overflow int32


@dataclass(frozen=True)
class _Kernel:
    """A convolution brought to (rows, columns): weights [O, I/g, kh, kw] and its bias."""

    weights: NDArray[np.int64]
    window: Window
    group: int
    values: Scaling  # bias without the input's zero point


def lower_conv(ctx: Context, node: Node) -> Stage:
    """Conv over one or two spatial axes."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w, window, dims = _kernel(ctx, node, x)
    group = int(node.attrs.get("group", 1))
    values = _values(ctx, node, x.quant, y, w.shape[0])
    layout = Layout(w.shape[0], window.out_h, window.out_w, dims)
    return _stage(ctx, node, x, layout, _Kernel(w, window, group, values))


def _kernel(
    ctx: Context, node: Node, x: Value
) -> tuple[NDArray[np.int64], Window, tuple[tuple[str, ...], ...]]:
    """Weights [O, I/g, kh, kw] of a Conv, its window, and the dims of its output."""
    letters = spatial_letters(x.layout)
    w = ctx.weights(node, 1)
    window = window_of(ctx, node, x.layout, letters, w.shape[2:])
    if letters == ("w",):
        w = w[:, :, None, :]
    elif letters == ("h",):
        w = w[:, :, :, None]
    elif letters == ("w", "h"):
        w = w.transpose(0, 1, 3, 2)
    return w, window, ((), ("c",), *((letter,) for letter in letters))


def lower_conv_bytes(ctx: Context, node: Node) -> Stage:
    """The int32 sums of a Conv as four planes of bytes, one behind the other (see dynamic.py)."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w, window, dims = _kernel(ctx, node, x)
    if int(node.attrs.get("group", 1)) != 1:
        raise HostOnlyError("whole sums of a convolution with groups")
    if w.shape[1] * window.taps >= LARGEST_K:
        raise _overflow(node, w.shape[1] * window.taps)
    tiles = -(-w.shape[0] // ctx.lanes)
    layout = Layout(4 * tiles * ctx.lanes, window.out_h, window.out_w, dims)
    return _byte_stage(ctx, node, x, y, (w, window, layout))


def lower_linear(ctx: Context, node: Node) -> Stage:
    """Linear: a convolution whose kernel covers the axes that the last dimension holds."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w = ctx.weights(node, 1)
    taps, window, out = _as_convolution(ctx, node, x, w)
    values = _values(ctx, node, x.quant, y, w.shape[1])
    return _stage(ctx, node, x, out, _Kernel(taps, window, 1, values))


def lower_linear_bytes(ctx: Context, node: Node) -> Stage:
    """The int32 sums of a Linear as four planes of bytes, one behind the other (see dynamic.py)."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w = ctx.weights(node, 1)
    kernel, window, layout = _as_convolution(ctx, node, x, w)
    tiles = -(-w.shape[1] // ctx.lanes)
    layout = replace(layout, channels=4 * tiles * ctx.lanes)
    return _byte_stage(ctx, node, x, y, (kernel, window, layout))


def _byte_stage(
    ctx: Context, node: Node, x: Value, y: Quant, parts: tuple[NDArray[np.int64], Window, Layout]
) -> Stage:
    """One operation per tile of columns, whose sums leave as bytes."""
    kernel, window, layout = parts
    tiles = -(-kernel.shape[0] // ctx.lanes)
    done = epilogue(node, scaling(node, 1.0, 1.0, y), y, ctx.lanes, step=0)
    full = weight_tiles(int8_parts(kernel)[0], ctx.lanes)
    zero = x.quant.zero_point
    ops = tuple(
        MatrixOp((Pass(x.root, window, full[t : t + 1], 0, zero),), done, Target(block0=t), tiles)
        for t in range(tiles)
    )
    macs, size = kernel.size * window.out_h * window.out_w, kernel.size
    stage = ctx.stage(node, y, layout, ops, engine="systolic", macs=macs, weight_bytes=size)
    name = node.op.removesuffix("Bytes")
    return replace(stage, layer=replace(stage.layer, op=name))


def _as_convolution(
    ctx: Context, node: Node, x: Value, w: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Window, Layout]:
    """Weights [K, N] as a kernel [N, c, h, w], its window, and the layout of the output."""
    layout, size = x.layout, extents(x.layout)
    letters = kept(layout, len(layout.dims) - 1)
    if "c" not in letters and size["c"] > 1:
        raise HostOnlyError("Linear over rows or columns of the map, with channels as positions")
    shape = [size[letter] for letter in letters]
    taps = w.T.reshape(-1, *shape)
    order = [letter for letter in ("c", "h", "w") if letter in letters]
    taps = taps.transpose(0, *(1 + letters.index(letter) for letter in order))
    kernel_h = size["h"] if "h" in letters else 1
    kernel_w = size["w"] if "w" in letters else 1
    taps = taps.reshape(w.shape[1], -1, kernel_h, kernel_w)
    out_h, out_w = layout.height // kernel_h, layout.width // kernel_w
    window = Window(layout.height, layout.width, out_h, out_w, kernel_h, kernel_w)
    if taps.shape[1] * window.taps >= LARGEST_K:
        raise _overflow(node, taps.shape[1] * window.taps)
    positions = tuple(kept(layout, axis) for axis in range(len(layout.dims) - 1))
    return taps, window, Layout(w.shape[1], out_h, out_w, (*positions, ("c",)))


def _overflow(node: Node, k: int) -> CapacityError:
    return CapacityError(
        f"{node.op} {node.name!r}: K = {k} products per output could overflow the int32 "
        f"accumulators (limit {LARGEST_K - 1}); split the layer in two"
    )


def _values(ctx: Context, node: Node, x: Quant, y: Quant, channels: int) -> Scaling:
    """Scale per output channel, bias in units of the accumulators."""
    weights = ctx.graph[node.inputs[1]]
    assert weights.quant is not None
    w_scale = np.asarray(weights.quant.scale)
    bias: Array = np.zeros(channels, np.int64)
    if len(node.inputs) > 2 and node.inputs[2]:
        tensor = ctx.graph[node.inputs[2]]
        if tensor.data is None:
            raise HostOnlyError("a bias that is no constant")
        bias = tensor.data
        if bias.dtype.kind == "f":
            unit = np.asarray(x.scale, np.float64) * np.asarray(w_scale, np.float64)
            bias = np.rint(bias / unit)
        bias = np.broadcast_to(bias.reshape(-1), (channels,))
    return scaling(node, x.scale, w_scale.reshape(-1), y, bias.astype(np.int64))


def window_of(
    ctx: Context, node: Node, layout: Layout, letters: tuple[str, ...], kernel: tuple[int, ...]
) -> Window:
    """The window of a node with ONNX's attributes, over the map axes `letters`."""
    rank = len(letters)
    if len(kernel) != rank:
        raise HostOnlyError(f"a kernel of {len(kernel)} axes over {rank}")
    strides = node.attrs.get("strides") or [1] * rank
    pads = node.attrs.get("pads") or [0] * (2 * rank)
    dilations = node.attrs.get("dilations") or [1] * rank
    size = extents(layout)
    facts: dict[str, dict[str, int]] = {letter: {"out": size[letter]} for letter in ("h", "w")}
    for axis, letter in enumerate(letters):
        span = (kernel[axis] - 1) * dilations[axis] + 1
        padded = size[letter] + pads[axis] + pads[rank + axis]
        facts[letter] = {
            "out": (padded - span) // strides[axis] + 1,
            "kernel": kernel[axis],
            "stride": strides[axis],
            "dilation": dilations[axis],
            "pad": pads[axis],
        }
    named = {f"{key}_{'y' if a == 'h' else 'x'}": v for a in facts for key, v in facts[a].items()}
    return Window(
        layout.height,
        layout.width,
        named["out_y"],
        named["out_x"],
        named.get("kernel_y", 1),
        named.get("kernel_x", 1),
        named.get("stride_y", 1),
        named.get("stride_x", 1),
        named.get("dilation_y", 1),
        named.get("dilation_x", 1),
        named.get("pad_y", 0),
        named.get("pad_x", 0),
    )


def _stage(ctx: Context, node: Node, x: Value, layout: Layout, kernel: _Kernel) -> Stage:
    """Chooses the engine and writes the stage."""
    w, window = kernel.weights, kernel.window
    outputs, depth = w.shape[:2]
    y = ctx.quant(node.outputs[0])
    macs = w.size * window.out_h * window.out_w
    ctx.check_shape(node, layout)
    int8 = bool((w >= -128).all() and (w <= 127).all())
    depthwise = kernel.group == outputs == x.layout.channels and outputs > 1
    if depthwise and int8 and window.taps <= ctx.overlay.tap_words:
        ops: tuple[Op, ...] = (_depthwise(ctx, node, x, y, kernel),)
        return ctx.stage(node, y, layout, ops, engine="vector", macs=macs, weight_bytes=w.size)
    if depth * window.taps >= LARGEST_K:
        raise _overflow(node, depth * window.taps)
    unfolded = ctx.unfoldable(node.inputs[0]) and _unfold(ctx, x, kernel)
    if unfolded:
        w, window = unfolded
    bias = kernel.values.bias - x.quant.zero_point * kernel.weights.sum(axis=(1, 2, 3))
    done = epilogue(node, Scaling(kernel.values.scale, bias), y, ctx.lanes)
    ops = _matrix_ops(ctx, x, w, window, kernel.group, done)
    return ctx.stage(node, y, layout, ops, engine="systolic", macs=macs, weight_bytes=w.size)


def _depthwise(ctx: Context, node: Node, x: Value, y: Quant, kernel: _Kernel) -> VectorOp:
    w = kernel.weights
    blocks = -(-len(w) // ctx.lanes)
    rows = np.zeros((blocks * ctx.lanes, kernel.window.taps), np.int8)
    rows[: len(w)] = w.reshape(len(w), -1)
    taps = rows.reshape(blocks, ctx.lanes, -1).transpose(0, 2, 1)
    done = epilogue(node, kernel.values, y, ctx.lanes)
    zero = x.quant.zero_point
    return VectorOp("depthwise", x.root, kernel.window, blocks, done, zero, taps=taps)


def _matrix_ops(
    ctx: Context, x: Value, w: NDArray[np.int64], window: Window, group: int, done: Epilogue
) -> tuple[Op, ...]:
    """One operation for all tiles; where groups or wide weights ask for it, one per tile."""
    parts = int8_parts(w)
    if group == 1 and len(parts) == 1:
        tiles = weight_tiles(parts[0], ctx.lanes)
        return (MatrixOp((Pass(x.root, window, tiles, 0, x.quant.zero_point),), done),)
    return tuple(
        _tile_op(ctx, x, parts, window, group, done, tile)
        for tile in range(-(-w.shape[0] // ctx.lanes))
    )


def _tile_op(
    ctx: Context,
    x: Value,
    parts: list[NDArray[np.int8]],
    window: Window,
    group: int,
    done: Epilogue,
    tile: int,
) -> MatrixOp:
    """Column tile number `tile`, over only the channel blocks that its groups read."""
    lanes, outputs = ctx.lanes, parts[0].shape[0]
    depth, per_group = parts[0].shape[1], outputs // group
    low, high = tile * lanes, min((tile + 1) * lanes, outputs)
    first = low // per_group * depth // lanes
    last = ((high - 1) // per_group + 1) * depth
    passes = []
    for number, part in enumerate(parts):
        dense = np.zeros((high - low, last - first * lanes, *part.shape[2:]), np.int8)
        for row in range(low, high):
            at = row // per_group * depth - first * lanes
            dense[row - low, at : at + depth] = part[row]
        if number == 0 or dense.any():
            tiles = weight_tiles(dense, lanes)
            passes.append(Pass(x.root, window, tiles, first, x.quant.zero_point))
    return MatrixOp(tuple(passes), block_of(done, tile), Target(block0=tile))


def block_of(done: Epilogue, block: int) -> Epilogue:
    """The epilogue of one channel block."""
    rows = done.rows[block * PARAMETER_ROWS : (block + 1) * PARAMETER_ROWS]
    return replace(done, rows=rows)


def int8_parts(w: NDArray[np.int64]) -> list[NDArray[np.int8]]:
    """int8 arrays that add up to `w`; one if it fits."""
    parts: list[NDArray[np.int8]] = []
    rest = w
    while not parts or rest.any():
        part = np.clip(rest, -128, 127)
        parts.append(part.astype(np.int8))
        rest = rest - part
    return parts


def weight_tiles(w: NDArray[np.int8], lanes: int) -> NDArray[np.int8]:
    """Tiles [tiles, blocks, kernel_h, kernel_w, input lane, output lane] of w [O, I, kh, kw]."""
    blocks = -(-w.shape[1] // lanes)
    tiles = int8.pack(np.ascontiguousarray(w.transpose(1, 2, 3, 0)), lanes)
    return tiles.reshape(len(tiles), blocks, *w.shape[2:], lanes, lanes)


def _unfold(ctx: Context, x: Value, kernel: _Kernel) -> tuple[NDArray[np.int64], Window] | None:
    """Weights and window after the host has gathered taps into lanes; None where it won't help."""
    w, window = kernel.weights, kernel.window
    outputs, depth, kernel_h, kernel_w = w.shape
    if kernel.group != 1 or depth * kernel_w > ctx.lanes or window.taps == 1:
        return None
    rows = min(kernel_h, ctx.lanes // (depth * kernel_w))
    groups = -(-kernel_h // rows)
    jump = rows * window.dilation_y
    step = window.stride_y if groups == 1 else math.gcd(window.stride_y, jump)
    stride, dilation = window.stride_y // step, (jump // step if groups > 1 else 1)
    height = (window.out_h - 1) * stride + (groups - 1) * dilation + 1
    gathered = np.zeros((outputs, depth, groups * rows, kernel_w), np.int64)
    gathered[:, :, :kernel_h] = w
    lanes_last = gathered.reshape(outputs, depth, groups, rows, kernel_w)
    taps = lanes_last.transpose(0, 3, 4, 1, 2).reshape(outputs, -1, groups, 1)
    ctx.unfold(
        x.root,
        Unfold(
            rows=rows,
            kernel_w=kernel_w,
            step_y=step,
            stride_x=window.stride_x,
            dilation_y=window.dilation_y,
            dilation_x=window.dilation_x,
            pad_y=window.pad_y,
            pad_x=window.pad_x,
            height=height,
            width=window.out_w,
        ),
    )
    return taps, Window(
        height, window.out_w, window.out_h, window.out_w, groups, 1, stride, 1, dilation, 1
    )
