"""Tiles of keys: where scores lie, and keys and values of which there are too many for the chip.

A row of scores that fits the wide buffer is made at once. Else keys come in tiles, in two sweeps
(docs/isa.md, Attend): the first one finds the maximum of each row, the second one makes the scores
of a tile again and adds up exponentials and values; nothing but the tile's scores is ever stored.
Keys and values that don't fit the operand buffer stay in memory, from where those of a head come,
a tile at a time if need be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from weft.graph import Node
from weft.lower.context import Context
from weft.lower.geometry import OPERAND, WIDE, Map
from weft.lower.stage import AttentionOp, HostOnlyError


def arrange(ctx: Context, node: Node, op: AttentionOp, queries: int) -> AttentionOp:
    """The operation with maps for its scores, for the keys and values of a head where those of all
    don't fit. Raises HostOnlyError where the accumulators can't hold a row of sums.
    """
    overlay, blocks = ctx.overlay, -(-op.keys // ctx.lanes)
    most, free = blocks, overlay.wide_words - (ctx.maps[op.bias].words if op.bias else 0)
    if _comes_from_memory(ctx, node, op):
        op = replace(op, held=(f"{op.scratch}/keys", f"{op.scratch}/values"))
        each = (op.query_blocks + op.value_blocks) * ctx.lanes
        most = min(blocks, overlay.operand_words // each)
    whole, rows = most == blocks, min(queries, overlay.accumulator_rows)
    if min(most, free) < blocks:  # the sums of values stay beside those of scores
        rows = min(rows, overlay.accumulator_rows // (op.value_blocks + 1))
        if rows == 0:
            raise HostOnlyError(
                f"attention to {op.keys} tokens takes accumulator_rows = {op.value_blocks + 1}; "
                f"overlay {overlay.name!r} has {overlay.accumulator_rows}"
            )
        most = max(1, min(most, free // rows))
    ctx.maps[op.scratch] = Map(most, rows, 1, space=WIDE)
    height = op.keys if whole else most * ctx.lanes
    for name, wide in zip(op.held, (op.query_blocks, op.value_blocks), strict=False):
        ctx.maps[name] = Map(wide, height, 1, space=OPERAND, unit=ctx.lanes)
    ctx.recalled.update(op.recalled)
    return op


def window_words(whole: Map, count: int) -> int:
    """Words of one window's keys or values, the least that has to be there at a time."""
    return whole.blocks * whole.place(0, whole.height // count).block


def _comes_from_memory(ctx: Context, node: Node, op: AttentionOp) -> bool:
    """Whether keys and values of all heads are too many, and those of a tile are not: they must be
    the accelerator's own, and no other's.
    """
    names = {op.key: node.inputs[1], op.value: node.inputs[2]}
    words = sum(window_words(ctx.maps[name], op.windows) for name in names)
    tile = (op.query_blocks + op.value_blocks) * ctx.lanes
    mine = all(ctx.sole_reader(n) and root not in ctx.hosted for root, n in names.items())
    small = words > ctx.overlay.operand_words >= tile
    return small and mine and len(names) == 2 and op.windows == 1


def cuts(first: int, count: int, most: int) -> Iterator[tuple[int, int]]:
    """`count` column tiles from `first` on in parts of at most `most`: (first, how many)."""
    for tile in range(first, first + count, most):
        yield tile, min(most, first + count - tile)
