"""Norms and merged patches as instructions: what works on rows of the wide buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weft import isa
from weft.lower.fields import even
from weft.lower.geometry import Place
from weft.lower.stage import MergeOp, NormOp
from weft.program import Rule

if TYPE_CHECKING:
    from weft.lower.emit import Emitter


def norm(
    emitter: Emitter, op: NormOp, rows: tuple[int, int], places: Mapping[str, Place], target: Place
) -> None:
    """Rows of a norm: an instruction for as many as statistics are kept of."""
    source, width, done = places[op.source], op.window.width, op.epilogue
    codes = places[op.codes] if op.codes else target
    blocks = len(done.rows) // isa.PARAMETER_ROWS
    parameter = emitter.epilogue(done, 0, blocks)
    symbol, limit = emitter.symbol(op.source), emitter.context.overlay.accumulator_rows
    for first, last in even(rows[0] * width, rows[1] * width, limit):
        rule = Rule(0, 0, "rows", symbol, first, last - first)
        emitter.put(
            isa.NORM.encode(
                source=source.at(op.block0, 0, first),
                source_block=source.block,
                source_col=1,
                rows=last - first,
                blocks=blocks,
                elements=op.elements,
                method=op.method,
                rms=int(op.rms),
                keep=int(op.keep),
                ranges=int(op.ranges),
                target=codes.at(op.target.block0, op.target.y0, op.target.x0 + first),
                target_block=codes.block,
                target_col=1,
                parameter=parameter,
                zero_point=done.zero_point,
                low=done.low,
                high=done.high,
                epsilon_low=op.epsilon & 0xFFFFFFFF,
                epsilon_high=op.epsilon >> 32,
            ),
            (rule,) if symbol else (),
        )


def merge(
    emitter: Emitter, op: MergeOp, rows: tuple[int, int], places: Mapping[str, Place], target: Place
) -> None:
    """Rows of merged patches: of each of the four neighbours a copy that skips the others."""
    source, half = places[op.source], op.window.width // 2
    for y in range(*rows):
        for quarter in range(4):
            right, down = divmod(quarter, 2)
            emitter.put(
                isa.ROTATE.encode(
                    source=source.at(0, 2 * y + down, right),
                    source_block=source.block,
                    source_col=2,
                    rows=half,
                    blocks=op.blocks,
                    plain=1,
                    multiplier=op.rotation.multiplier,
                    shift=op.rotation.shift,
                    target=target.at(quarter * op.blocks, y),
                    target_block=target.block,
                    target_col=1,
                    space=target.space,
                )
            )
