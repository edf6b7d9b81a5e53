"""Conv and Linear: weight tiles for the systolic array, taps for depthwise convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft.activation import WIDE
from weft.errors import CapacityError, UsageError
from weft.graph import Array, Node, Quant
from weft.isa import PARAMETER_ROWS
from weft.lower import dense
from weft.lower.context import Context
from weft.lower.engines import packed_pad
from weft.lower.epilogue import Scaling, epilogue, float_epilogue, scaling
from weft.lower.few_rows import check_rows, check_wide_sums
from weft.lower.geometry import Target, Value, Window
from weft.lower.layout import kept, spatial_letters
from weft.lower.row_ranges import bias_of, ranged, unit_of
from weft.lower.sparse import Choice, choose, told
from weft.lower.stage import Epilogue, HostOnlyError, MatrixOp, Op, Pass, Stage, VectorOp
from weft.lower.unfold import unfold
from weft.lower.weights import (
    elementwise,
    int8_parts,
    is_float,
    plain,
    stored_as,
    stored_bytes,
)
from weft.pack import extents
from weft.program import Layout

LARGEST_SUM = (1 << 31) // 128  # of the magnitudes of weights: with int8 codes it fits int32


@dataclass(frozen=True)
class _Kernel:
    """A convolution brought to (rows, columns): weights [O, I/g, kh, kw] and its bias."""

    weights: Array
    window: Window
    group: int
    values: Scaling  # bias without the input's zero point
    quant: Quant  # of the weights: how they may be stored


def lower_conv(ctx: Context, node: Node) -> Stage:
    """Conv over one or two spatial axes."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w, window, dims, quant = _kernel(ctx, node, x)
    group = int(node.attrs.get("group", 1))
    values = _values(ctx, node, x.quant, y, w.shape[0])
    layout, front = Layout(w.shape[0], window.out_h, window.out_w, dims), node.attrs.get("front")
    if front is not None:
        if spatial_letters(x.layout) != ("h", "w"):
            raise HostOnlyError("tokens of a convolution whose axes don't lie as rows and columns")
        rows = front + window.out_h * window.out_w
        layout = Layout(w.shape[0], rows, 1, ((), ("h",), ("c",)))
    stage = _stage(ctx, node, x, layout, _Kernel(w, window, group, values, quant))
    return stage if front is None else _with_front(stage, front)


def _with_front(stage: Stage, front: int) -> Stage:
    """The stage of a convolution as tokens one below the other, behind `front` rows of patches that
    are not there: their windows lie above the map.
    """
    (op, *more) = stage.ops
    plain = isinstance(op, MatrixOp) and not more and not op.byte_blocks
    if not isinstance(op, MatrixOp) or not plain or any(part.flat for part in op.passes):
        raise HostOnlyError("tokens of a convolution in several operations")
    behind = replace(op, target=Target(y0=front, step_y=op.window.out_w, flat=True))
    above = [
        replace(
            part,
            window=replace(
                part.window,
                out_h=1,
                out_w=front,
                pad_y=part.window.kernel_h * part.window.dilation_y,
            ),
        )
        for part in op.passes
    ]
    first = (replace(op, passes=tuple(above)),) if front else ()
    return replace(stage, ops=(*first, behind))


def _kernel(
    ctx: Context, node: Node, x: Value
) -> tuple[Array, Window, tuple[tuple[str, ...], ...], Quant]:
    """Weights [O, I/g, kh, kw] of a Conv, its window, the dims of its output, and how the weights
    may be stored.
    """
    letters = spatial_letters(x.layout)
    w = ctx.weights(node, 1)
    window = window_of(ctx, node, x.layout, letters, w.shape[2:])
    if letters == ("w",):
        w = w[:, :, None, :]
    elif letters == ("h",):
        w = w[:, :, :, None]
    elif letters == ("w", "h"):
        w = w.transpose(0, 1, 3, 2)
    dims = ((), ("c",), *((letter,) for letter in letters))
    quant = stored_as(ctx, node, w, in_order=letters in (("h",), ("w",), ("h", "w")))
    return w, window, dims, quant


def lower_conv_bytes(ctx: Context, node: Node) -> Stage:
    """The int32 sums of a Conv as four planes of bytes, one behind the other (see dynamic.py)."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w, window, dims, _ = _kernel(ctx, node, x)
    if int(node.attrs.get("group", 1)) != 1:
        raise HostOnlyError("whole sums of a convolution with groups")
    _check_sums(ctx, node, w, x.quant)
    tiles = -(-w.shape[0] // ctx.lanes)
    layout = Layout(4 * tiles * ctx.lanes, window.out_h, window.out_w, dims)
    return _byte_stage(ctx, node, x, y, (w, window, layout))


def lower_linear(ctx: Context, node: Node) -> Stage:
    """Linear: a convolution whose kernel covers the axes that the last dimension holds."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    w = ctx.weights(node, 1)
    taps, window, out = _as_convolution(ctx, node, x, w)
    values = _values(ctx, node, x.quant, y, w.shape[1])
    quant = stored_as(ctx, node, w, in_order=window.taps == 1)
    return _stage(ctx, node, x, out, _Kernel(taps, window, 1, values, quant))


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
    codes, lanes, zero = int8_parts(kernel)[0], ctx.lanes, x.quant.zero_point
    ops = tuple(
        MatrixOp(
            (Pass(x.root, window, plain(codes[t * lanes : (t + 1) * lanes], lanes), 0, zero),),
            done,
            Target(block0=t),
            tiles,
        )
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
    _check_sums(ctx, node, taps, x.quant)
    positions = tuple(kept(layout, axis) for axis in range(len(layout.dims) - 1))
    return taps, window, Layout(w.shape[1], out_h, out_w, (*positions, ("c",)))


def _check_sums(ctx: Context, node: Node, w: NDArray[np.int64], x: Quant) -> None:
    """Raises CapacityError where codes of int8, or int16, could make sums that leave int32."""
    k = math.prod(w.shape[1:])
    if x.format == WIDE:
        return check_wide_sums(ctx.graph, node, w.reshape(len(w), -1))
    largest = 128 if k * 128 < LARGEST_SUM else int(np.abs(w).sum(axis=(1, 2, 3)).max()) // k + 1
    if k * largest >= LARGEST_SUM:
        raise CapacityError(
            f"{node.op} {node.name!r}: K = {k} products per output, of weights up to "
            f"{np.abs(w).max()}, could overflow the int32 accumulators; split the layer in two"
            + ("" if np.abs(w).max() <= 128 else ", or take a format with smaller values")
        )


def _values(ctx: Context, node: Node, x: Quant, y: Quant, channels: int) -> Scaling:
    """Scale per output channel, bias in units of the accumulators."""
    weights = ctx.graph[node.inputs[1]]
    assert weights.quant is not None
    w_scale = np.asarray(weights.quant.scale)
    bias: Array = np.zeros(channels, np.int64)
    real = is_float(weights.quant)
    if len(node.inputs) > 2 and node.inputs[2]:
        tensor = ctx.graph[node.inputs[2]]
        if tensor.data is None:
            raise HostOnlyError("a bias that is no constant")
        bias = tensor.data
        if bias.dtype.kind == "f":
            unit = np.asarray(x.scale, np.float64) * np.asarray(w_scale, np.float64)
            bias = bias / unit if real else np.rint(bias / unit)
        bias = np.broadcast_to(bias.reshape(-1), (channels,))
    if x.rows:
        if real:
            raise HostOnlyError("products of bf16 with ranges per row")
        return scaling(node, unit_of(x), w_scale.reshape(-1), y, bias_of(x, bias))
    return scaling(node, x.scale, w_scale.reshape(-1), y, bias, real=real)


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
    outputs = w.shape[0]
    y = ctx.quant(node.outputs[0])
    macs = w.size * window.out_h * window.out_w
    ctx.check_shape(node, layout)
    int8 = not is_float(kernel.quant) and bool((w >= -128).all() and (w <= 127).all())
    depthwise = kernel.group == outputs == x.layout.channels and outputs > 1
    if depthwise and int8 and window.taps <= ctx.overlay.tap_words:
        ops: tuple[Op, ...] = (_depthwise(ctx, node, x, y, kernel),)
        return ctx.stage(node, y, layout, ops, engine="vector", macs=macs, weight_bytes=w.size)
    if not is_float(kernel.quant):
        _check_sums(ctx, node, w, x.quant)
    movable = elementwise(kernel.quant) and ctx.unfoldable(node.inputs[0])
    unfolded = unfold(ctx, x, w, window) if movable and kernel.group == 1 else None
    if unfolded:
        w, window = unfolded
    found, note = choose(ctx, node, x, w, window, kernel.quant) if kernel.group == 1 else (None, "")
    done = _done(node, x, y, kernel, ctx.lanes, found)
    if found is not None:
        part = Pass(x.root, window, found.weights, 0, x.quant.zero_point, found.precision)
        made: tuple[MatrixOp, ...] = (MatrixOp((replace(part, flat=found.flat),), done),)
        nbytes = found.nbytes
    else:
        made = _matrix_ops(ctx, node, x, replace(kernel, weights=w, window=window), done)
        nbytes = stored_bytes(kernel.weights, kernel.quant)
    ops = tuple(_with_known_weights(ctx, node, op, i) for i, op in enumerate(made))
    engine = made[0].passes[0].precision.engine
    stage = ctx.stage(node, y, layout, ops, engine=engine, macs=macs, weight_bytes=nbytes)
    return told(stage, found, note)


def _with_known_weights(ctx: Context, node: Node, op: MatrixOp, number: int) -> MatrixOp:
    """The operation with the very weights of another layer that has the same constant, such as the
    step before of a recurrent one: they lie in memory once.
    """
    passes = []
    for i, part in enumerate(op.passes):
        facts = number, i, part.window, part.block0, part.precision, part.flat
        known = ctx.known.setdefault((node.inputs[1], *facts), part.weights)
        passes.append(replace(part, weights=known))
    return replace(op, passes=tuple(passes))


def _done(
    node: Node, x: Value, y: Quant, kernel: _Kernel, lanes: int, found: Choice | None
) -> Epilogue:
    """The epilogue; an engine that multiplies codes less their zero point leaves nothing of it."""
    if is_float(kernel.quant):
        return float_epilogue(node, kernel.values, y, lanes)
    bias = kernel.values.bias
    if found is None or not found.skips:
        bias = bias - x.quant.zero_point * kernel.weights.sum(axis=(1, 2, 3))
    done = epilogue(node, Scaling(kernel.values.scale, bias), y, lanes)
    return ranged(x.quant, done, kernel.weights)


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
    ctx: Context, node: Node, x: Value, kernel: _Kernel, done: Epilogue
) -> tuple[MatrixOp, ...]:
    """One operation for all tiles; where groups or wide weights ask for it, one per tile."""
    w, window, group = kernel.weights, kernel.window, kernel.group
    parts = int8_parts(w) if kernel.quant.format == "int8" else []
    if group == 1 and len(parts) <= 1:
        return (_whole_op(ctx, node, x, kernel, done),)
    if "systolic" not in ctx.overlay.engines:
        raise HostOnlyError("groups, or weights beyond int8, on an overlay without the int8 array")
    parts = parts or int8_parts(w)
    return tuple(
        _tile_op(ctx, x, parts, window, group, done, tile)
        for tile in range(-(-w.shape[0] // ctx.lanes))
    )


def _whole_op(ctx: Context, node: Node, x: Value, kernel: _Kernel, done: Epilogue) -> MatrixOp:
    """One operation for all tiles, on the engine that makes the most products per clock."""
    w = kernel.weights
    if x.quant.format == WIDE:
        check_rows(ctx.overlay, node, kernel.window.out_h * kernel.window.out_w)
    precision = dense.engine_of(ctx, x, w, kernel.quant)
    if precision is None:
        raise UsageError(
            f"{node.op} {node.name!r}: no engine of overlay {ctx.overlay.name!r} "
            f"({', '.join(ctx.overlay.engines)}) multiplies {kernel.quant.format} weights with "
            f"{x.quant.format} activations"
        )
    weights = dense.stored(ctx, w, kernel.quant, precision)
    if precision.words > 1:
        ctx.maps[x.root] = replace(ctx.maps[x.root], odd=True)
    pad = packed_pad(x.quant.zero_point, precision.activation_bits)
    return MatrixOp((Pass(x.root, kernel.window, weights, 0, pad, precision),), done)


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
        whole = np.zeros((high - low, last - first * lanes, *part.shape[2:]), np.int8)
        for row in range(low, high):
            at = row // per_group * depth - first * lanes
            whole[row - low, at : at + depth] = part[row]
        if number == 0 or whole.any():
            weights = plain(whole, lanes)
            passes.append(Pass(x.root, window, weights, first, x.quant.zero_point))
    return MatrixOp(tuple(passes), block_of(done, tile), Target(block0=tile))


def block_of(done: Epilogue, block: int) -> Epilogue:
    """The epilogue of one channel block."""
    rows = done.rows[block * PARAMETER_ROWS : (block + 1) * PARAMETER_ROWS]
    return replace(done, rows=rows)
