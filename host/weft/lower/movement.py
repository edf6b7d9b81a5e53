"""Concat, Slice, Pad, Resize, DepthToSpace: copies by the vector unit, or by 0/1 matrices.

Whole channel blocks move as words. Where channels change lanes, the systolic array moves them:
a 1×1 convolution with one 1 per column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft.graph import Node, Quant
from weft.lower.context import Context
from weft.lower.conv import block_of
from weft.lower.epilogue import Scaling, epilogue, scaling
from weft.lower.geometry import HERE, Target, Value, Window, plain_window
from weft.lower.layout import kept, spatial_letters
from weft.lower.stage import HostOnlyError, MatrixOp, Op, Pass, Stage, VectorOp
from weft.lower.weights import plain
from weft.pack import extents
from weft.program import Layout


@dataclass(frozen=True)
class _Moves:
    """Where output channel c comes from: channel `channel[c]` of source number `source[c]`."""

    sources: tuple[Value, ...]
    source: NDArray[np.int64]
    channel: NDArray[np.int64]


def _gather(
    ctx: Context, node: Node, y: Quant, moves: _Moves, window: Window, target: Target = HERE
) -> Iterator[Op]:
    """Operations that move channels; runs of whole blocks as words, the others by matrices."""
    lanes, count = ctx.lanes, len(moves.source)
    tiles = -(-count // lanes)
    tile = 0
    while tile < tiles:
        start = _whole(moves, tile, lanes)
        end = tile + 1
        while start is not None and end < tiles:
            following = _whole(moves, end, lanes)
            if following != (start[0], start[1] + end - tile):
                break
            end += 1
        to = replace(target, block0=tile)
        if start is None:
            yield _selection(ctx, node, y, moves, window, tile, to)
        else:
            yield word_copy(ctx, node, y, moves.sources[start[0]], window, start[1], end - tile, to)
        tile = end


def _whole(moves: _Moves, tile: int, lanes: int) -> tuple[int, int] | None:
    """(source, block) if the tile is one block of one source, lane by lane."""
    source = moves.source[tile * lanes : (tile + 1) * lanes]
    channel = moves.channel[tile * lanes : (tile + 1) * lanes]
    in_order = (channel == channel[0] + np.arange(len(channel))).all()
    if channel[0] % lanes or not in_order or (source != source[0]).any():
        return None
    return int(source[0]), int(channel[0]) // lanes


def word_copy(
    ctx: Context,
    node: Node,
    y: Quant,
    x: Value,
    window: Window,
    block0: int,
    blocks: int,
    target: Target,
) -> VectorOp:
    """Words as they are, rescaled where the two scales differ."""
    done = epilogue(node, scaling(node, x.quant.scale, 1.0, y), y, ctx.lanes, step=0)
    zero = x.quant.zero_point
    return VectorOp("max", x.root, window, blocks, done, zero, block0=block0, target=target)


def _selection(
    ctx: Context, node: Node, y: Quant, moves: _Moves, window: Window, tile: int, target: Target
) -> MatrixOp:
    """One column tile: a pass per source, over the blocks that it takes channels from."""
    lanes = ctx.lanes
    part = slice(tile * lanes, (tile + 1) * lanes)
    source, channel = moves.source[part], moves.channel[part]
    passes, bias, scale = [], np.zeros(len(source), np.int64), np.zeros(len(source))
    for index in dict.fromkeys(source.tolist()):
        x, columns = moves.sources[index], np.flatnonzero(source == index)
        rows = channel[columns]
        first = int(rows.min()) // lanes
        dense = np.zeros((len(source), int(rows.max()) + 1 - first * lanes, 1, 1), np.int8)
        dense[columns, rows - first * lanes] = 1
        passes.append(Pass(x.root, window, plain(dense, lanes), first))
        bias[columns] = -x.quant.zero_point
        scale[columns] = scaling(node, x.quant.scale, 1.0, y).scale
    done = epilogue(node, Scaling(scale, bias), y, lanes)
    return MatrixOp(tuple(passes), block_of(done, 0), target)


def lower_concat(ctx: Context, node: Node) -> Stage:
    """Concat along channels, rows or columns."""
    values = [ctx.value(name) for name in node.inputs if name]
    y = ctx.quant(node.outputs[0])
    rank = len(ctx.graph[node.outputs[0]].shape)
    axis = int(node.attrs["axis"]) % rank
    letter = _joined_letter(values, axis, rank)
    sizes = [extents(v.layout)[letter] for v in values]
    size = {**extents(values[0].layout), letter: sum(sizes)}
    dims = [kept(values[0].layout, a) for a in range(rank)]
    dims[axis] = (letter,)
    layout = Layout(size["c"], size["h"], size["w"], tuple(dims))
    ops: list[Op] = []
    if letter == "c":
        source = np.repeat(np.arange(len(values)), sizes)
        channel = np.concatenate([np.arange(n) for n in sizes])
        moves = _Moves(tuple(values), source, channel)
        ops += _gather(ctx, node, y, moves, plain_window(values[0].layout))
    else:
        for v, at in zip(values, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True):
            target = Target(y0=at) if letter == "h" else Target(x0=at)
            blocks = v.layout.blocks(ctx.lanes)
            ops.append(word_copy(ctx, node, y, v, plain_window(v.layout), 0, blocks, target))
    return _moved(ctx, node, y, layout, ops)


def _joined_letter(values: Sequence[Value], axis: int, rank: int) -> str:
    """The letter along which maps are joined. Raises HostOnlyError if they lie differently."""
    if axis == 0:
        raise HostOnlyError("a concat of batches")
    found: set[str] = set()
    for value in values:
        for other in range(rank):
            letters = kept(value.layout, other)
            if other == axis:
                found.update(letters)
            elif letters != kept(values[0].layout, other):
                raise HostOnlyError("a concat of maps that lie in different orders")
    if len(found) > 1:
        raise HostOnlyError("a concat along an axis that several map axes make up")
    if found:
        return found.pop()
    used = {c for v in values for other in range(rank) for c in kept(v.layout, other)}
    wanted = ("c", "h", "w") if axis == 1 else ("w", "h", "c")
    return next(letter for letter in wanted if letter not in used)


def lower_slice(ctx: Context, node: Node) -> Stage:
    """Slice along any axes, with positive steps."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    shape = ctx.graph[node.inputs[0]].shape
    size = extents(x.layout)
    cuts = {letter: range(extent) for letter, extent in size.items()}
    facts = (node.attrs[key] for key in ("axes", "starts", "ends", "steps"))
    for axis, start, end, step in zip(*facts, strict=True):
        picked = range(shape[axis])[slice(start, None if step < 0 and end < 0 else end, step)]
        if picked == range(shape[axis]):
            continue
        letters = kept(x.layout, axis % len(shape))
        if len(letters) != 1 or step < 0:
            raise HostOnlyError("a slice backwards, or of an axis that several map axes make up")
        cuts[letters[0]] = picked
    rows, columns = cuts["h"], cuts["w"]
    window = Window(
        size["h"],
        size["w"],
        len(rows),
        len(columns),
        stride_y=rows.step,
        stride_x=columns.step,
        pad_y=-rows.start,
        pad_x=-columns.start,
    )
    channel = np.asarray(cuts["c"])
    moves = _Moves((x,), np.zeros(len(channel), np.int64), channel)
    layout = Layout(len(channel), len(rows), len(columns), x.layout.dims)
    return _moved(ctx, node, y, layout, list(_gather(ctx, node, y, moves, window)))


def lower_depth_to_space(ctx: Context, node: Node) -> Stage:
    """DepthToSpace: for each place in a block, a selection of channels written with a stride."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    letters = spatial_letters(x.layout)
    block = int(node.attrs["blocksize"])
    channels = x.layout.channels // block**2
    ops: list[Op] = []
    for i in range(block):
        for j in range(block):
            place = i * block + j
            if node.attrs.get("mode", "DCR") == "DCR":
                channel = place * channels + np.arange(channels)
            else:
                channel = np.arange(channels) * block**2 + place
            moves = _Moves((x,), np.zeros(channels, np.int64), channel)
            down, right = (i, j) if letters == ("h", "w") else (j, i)
            target = Target(0, down, right, block, block)
            ops += _gather(ctx, node, y, moves, plain_window(x.layout), target)
    dims = ((), ("c",), *((letter,) for letter in letters))
    layout = Layout(channels, x.layout.height * block, x.layout.width * block, dims)
    return _moved(ctx, node, y, layout, ops)


def lower_resize(ctx: Context, node: Node) -> Stage:
    """Nearest-neighbour enlargement by integers: a copy for each place in an enlarged pixel."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    factors = {"c": 1, "h": 1, "w": 1}
    named = list(x.layout.dims)
    for axis, scale in enumerate(node.attrs["scales"]):
        if scale == 1:
            continue
        letters = kept(x.layout, axis) or x.layout.dims[axis]
        if scale != int(scale) or scale < 1 or len(letters) != 1 or letters == ("c",):
            raise HostOnlyError(f"a resize by {scale} of dimension {axis}")
        named[axis] = letters
        factors[letters[0]] = int(scale)
    if node.attrs.get("mode", "nearest") not in ("nearest", b"nearest"):
        raise HostOnlyError(f"a resize by {node.attrs['mode']}")
    up, right = factors["h"], factors["w"]
    window, blocks = plain_window(x.layout), x.layout.blocks(ctx.lanes)
    ops: list[Op] = [
        word_copy(ctx, node, y, x, window, 0, blocks, Target(0, i, j, up, right))
        for i in range(up)
        for j in range(right)
    ]
    height, width = x.layout.height * up, x.layout.width * right
    layout = Layout(x.layout.channels, height, width, tuple(named))
    return _moved(ctx, node, y, layout, ops)


def lower_pad(ctx: Context, node: Node) -> Stage:
    """Constant padding of rows and columns: sums of one tap, of none outside the map."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    if node.attrs.get("mode", "constant") not in ("constant", b"constant"):
        raise HostOnlyError(f"padding by {node.attrs['mode']}")
    pads, rank = node.attrs["pads"], len(x.layout.dims)
    begins, ends = {"h": 0, "w": 0}, {"h": 0, "w": 0}
    dims = list(x.layout.dims)
    for axis in range(rank):
        if not pads[axis] and not pads[rank + axis]:
            continue
        letters = kept(x.layout, axis) or x.layout.dims[axis]
        if len(letters) != 1 or letters == ("c",):
            raise HostOnlyError(f"padding of dimension {axis}, which is not a map axis")
        dims[axis] = letters
        begins[letters[0]], ends[letters[0]] = int(pads[axis]), int(pads[rank + axis])
    height = x.layout.height + begins["h"] + ends["h"]
    width = x.layout.width + begins["w"] + ends["w"]
    window = Window(
        x.layout.height, x.layout.width, height, width, pad_y=begins["h"], pad_x=begins["w"]
    )
    zero, done = (
        x.quant.zero_point,
        epilogue(node, scaling(node, x.quant.scale, 1.0, y), y, ctx.lanes, step=0),
    )
    value = float(node.attrs.get("value", 0) or 0)
    if value:
        if float(x.quant.scale) != float(y.scale) or x.quant.zero_point != y.zero_point:
            raise HostOnlyError("padding with a value other than 0, between different scales")
        zero = int(y.quantize(np.asarray(value)))
        done = replace(done, zero_point=zero)
    op = VectorOp("sum", x.root, window, x.layout.blocks(ctx.lanes), done, zero)
    layout = Layout(x.layout.channels, height, width, tuple(dims))
    return _moved(ctx, node, y, layout, [op])


def _moved(ctx: Context, node: Node, y: Quant, layout: Layout, ops: Sequence[Op]) -> Stage:
    matrix = any(isinstance(op, MatrixOp) for op in ops)
    engine = "systolic" if matrix else "vector"
    return ctx.stage(node, y, layout, tuple(ops), engine=engine)
