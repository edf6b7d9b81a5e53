"""Tokens of an image in the order of its windows, and merged patches: copies of rectangles.

A map in that order has the width of a window, and window lies below window: so the tokens of one
are together, as attention reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from weft.graph import Node
from weft.lower.context import Context
from weft.lower.geometry import WIDE, Target, Value, Window, plain_window
from weft.lower.layout import kept
from weft.lower.movement import word_copy
from weft.lower.stage import HostOnlyError, MergeOp, Op, Rotation, Stage
from weft.program import Layout
from weft.units import requant
from weft.units.rotate import FRACTION
from weft.window_ops import map_of

Span = tuple[int, int, int]  # first place in the image, first one in the window, how many
TOKENS = ("h", "w")


def lower_windows(ctx: Context, node: Node) -> Stage:
    """A copy per window, or per part of one that goes round an edge."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    window, inverse = node.attrs["window"], node.attrs["inverse"]
    source, made = (map_of(node, given) for given in (True, False))
    _check_tokens(x, source)
    ops: list[Op] = []
    for place, down, right in _rectangles(node):
        at, among = (down[0], right[0]), (place * window[0] + down[1], right[1])
        origin, to = (among, at) if inverse else (at, among)
        cut = Window(*source, down[2], right[2], pad_y=-origin[0], pad_x=-origin[1])
        blocks = x.layout.blocks(ctx.lanes)
        ops.append(word_copy(ctx, node, y, x, cut, 0, blocks, Target(0, *to)))
    layout = Layout(x.layout.channels, *made, ((), TOKENS, ("c",)))
    return ctx.stage(node, y, layout, tuple(ops), engine="vector")


def _rectangles(node: Node) -> Iterator[tuple[int, Span, Span]]:
    """(window, rows, columns) of what lies together in the image as well."""
    size, window, shift = (node.attrs[name] for name in ("size", "window", "shift"))
    across = size[1] // window[1]
    for place in range(size[0] // window[0] * across):
        number = divmod(place, across)
        spans = [_spans(number[i] * window[i] + shift[i], window[i], size[i]) for i in (0, 1)]
        yield from ((place, down, right) for down in spans[0] for right in spans[1])


def _spans(first: int, count: int, size: int) -> list[Span]:
    """Places first..first+count-1 of an axis that goes round at `size`."""
    first %= size
    straight = min(count, size - first)
    return [(first, 0, straight), (0, straight, count - straight)][: 1 + (straight < count)]


def lower_merge(ctx: Context, node: Node) -> Stage:
    """Copies that skip every other row and column, into channel blocks of their own."""
    x, y, size = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0]), node.attrs["size"]
    _check_tokens(x, size)
    channels = x.layout.channels
    if channels % ctx.lanes:
        raise HostOnlyError(
            f"merged patches of {channels} channels, which are no whole words of {ctx.lanes}"
        )
    half = size[0] // 2, size[1] // 2
    layout = Layout(4 * channels, *half, ((), TOKENS, ("c",)))
    blocks = channels // ctx.lanes
    if ctx.maps[x.root].space == WIDE:
        return _wide_merge(ctx, node, x, layout, blocks)
    ops: list[Op] = []
    for quarter in range(4):
        right, down = divmod(quarter, 2)
        cut = Window(size[0], size[1], *half, stride_y=2, stride_x=2, pad_y=-down, pad_x=-right)
        ops.append(word_copy(ctx, node, y, x, cut, 0, blocks, Target(quarter * blocks)))
    return ctx.stage(node, y, layout, tuple(ops), engine="vector")


def _wide_merge(ctx: Context, node: Node, x: Value, layout: Layout, blocks: int) -> Stage:
    if "rotate" not in ctx.overlay.units:
        raise HostOnlyError(f"overlay {ctx.overlay.name!r} has no unit rotate")
    y = ctx.quant(node.outputs[0])
    scale = float(x.quant.scale) / float(y.scale)
    q, s = requant.encode(scale * 2.0**-FRACTION, "single_round")
    op = MergeOp(x.root, plain_window(x.layout), blocks, Rotation(int(q), int(s)))
    return ctx.stage(node, y, replace(layout, bits=16), (op,), engine="rotate")


def _check_tokens(x: Value, size: tuple[int, int]) -> None:
    """Raises HostOnlyError unless the tokens are the positions of a map of that size."""
    layout = x.layout
    if (layout.height, layout.width) != tuple(size) or kept(layout, 1) not in (
        TOKENS,
        *((letter,) for letter in TOKENS),
        (),
    ):
        raise HostOnlyError(f"tokens that are not the positions of a map of {tuple(size)}")
    if kept(layout, 2) not in (("c",), ()):
        raise HostOnlyError("windows of what are not the channels of the map")
