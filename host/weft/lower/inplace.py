"""Copies that nothing needs: who writes the source of a Concat writes into its map at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from weft import isa
from weft.lower.context import Context
from weft.lower.geometry import Target
from weft.lower.stage import Op, Stage, VectorOp
from weft.units import requant


def without_copies(
    context: Context, stages: Sequence[Stage], kept: Collection[str]
) -> tuple[Stage, ...]:
    """`stages`, where whole maps that are only copied elsewhere are made there.

    `kept` are maps that are read behind these stages. Such a map must be resident, since several
    stages write it: this is for segments that fit the unified buffer as they are.
    """
    readers: dict[str, int] = {}
    for stage in stages:
        for op in stage.ops:
            for name in op.sources:
                readers[name] = readers.get(name, 0) + 1
    movable = {s.target for s in stages if readers.get(s.target) == 1} - set(kept)
    moved: dict[str, tuple[str, Target]] = {}
    remaining: list[Stage] = []
    for stage in stages:
        rest = []
        for op in stage.ops:
            if _is_copy(context, op) and op.sources[0] in movable:
                moved[op.sources[0]] = (stage.target, op.target)
            else:
                rest.append(op)
        remaining.append(replace(stage, ops=tuple(rest)))
    return tuple(_redirected(stage, moved) for stage in remaining if stage.ops)


def _is_copy(context: Context, op: Op) -> bool:
    """Whether `op` only moves a whole map, code by code, to consecutive places."""
    if not isinstance(op, VectorOp) or op.operation != "max" or op.block0:
        return False
    extent, window, done = context.maps[op.source], op.window, op.epilogue
    same = (window.height, window.width) == (window.out_h, window.out_w)
    shifted = window.pad_y or window.pad_x or window.stride_y != 1 or window.stride_x != 1
    whole = op.blocks == extent.blocks and same and not shifted and window.taps == 1
    plain = done.lookup is None and done.step == 0 and done.zero_point == op.zero
    plain = plain and (done.low, done.high) == (-128, 127)
    steps = (op.target.step_y, op.target.step_x)
    if not whole or not plain or steps != (1, 1):
        return False
    code = requant.encode(np.ones(context.lanes), isa.MODES[done.mode])
    return np.array_equal(done.rows, requant.pack_parameters(0, *code, *code, context.lanes))


def _redirected(stage: Stage, moved: dict[str, tuple[str, Target]]) -> Stage:
    """The stage, writing where its map would have been copied to, at the end of all copies."""
    while stage.target in moved:
        name, to = moved[stage.target]
        ops = tuple(
            replace(
                op,
                target=replace(
                    op.target,
                    block0=op.target.block0 + to.block0,
                    y0=op.target.y0 + to.y0,
                    x0=op.target.x0 + to.x0,
                ),
            )
            for op in stage.ops
        )
        stage = replace(stage, target=name, ops=ops)
    return stage
