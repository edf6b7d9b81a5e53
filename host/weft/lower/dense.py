"""The dense engine of a layer: its weights, and the clocks that sparse ones must beat."""

from __future__ import annotations

from weft.graph import Array, Quant
from weft.lower.context import Context
from weft.lower.engines import FEW_ROWS, fused, precisions
from weft.lower.fused import FusedWeights
from weft.lower.geometry import Value
from weft.lower.precision import Precision
from weft.lower.weights import Weights, coded, int8_parts, plain
from weft.units import matvec, systolic

Dense = Weights | FusedWeights


def engine_of(ctx: Context, x: Value, w: Array, quant: Quant) -> Precision | None:
    """The engine that makes the most products per clock; None where no dense one takes them.

    `w` are operands [O, I, kernel_h, kernel_w], `quant` says how they may be stored.
    """
    found = precisions(ctx.overlay, x.quant.format, x.layout.bits, quant, w.shape[1])
    return next(iter(found), None)


def stored(ctx: Context, w: Array, quant: Quant, precision: Precision) -> Dense:
    """Weights as the engine of `precision` takes them."""
    if precision.engine not in ("systolic", "bf16"):
        return fused(w, quant, precision, ctx.lanes)
    if quant.format == "int8":
        return plain(w.astype("int8"), ctx.lanes)
    return coded(w, quant, ctx.overlay)


def clocks(
    ctx: Context, x: Value, w: Array, quant: Quant, positions: int
) -> tuple[int, str] | None:
    """Clocks of the array for one sample of `positions`, and the engine; None: no engine.

    Weights beyond int8 are multiplied in parts, on the int8 array.
    """
    parts = int8_parts(w) if quant.format == "int8" else []
    if len(parts) > 1:
        precision = Precision() if "systolic" in ctx.overlay.engines else None
    else:
        precision = engine_of(ctx, x, w, quant)
    if precision is None:
        return None
    made = stored(ctx, parts[0] if len(parts) > 1 else w, quant, precision)
    per_tap = made.groups if isinstance(made, FusedWeights) else made.blocks
    folds = made.tiles * per_tap * w.shape[2] * w.shape[3] * max(1, len(parts))
    pace, engine = precision.pace(made.pace(ctx.overlay)), systolic.ENGINES[precision.engine]
    taken = systolic.array_clocks(positions, folds, ctx.overlay, pace=pace, engine=engine)
    few = _of_few_rows(ctx, made, positions) if precision.engine == "systolic" else None
    if few is not None and len(parts) <= 1 and few < taken.total:
        return few, FEW_ROWS
    return taken.total, precision.engine


def _of_few_rows(ctx: Context, made: Dense, positions: int) -> int | None:
    """Clocks of engine matvec, without the instruction's own issue; None where it can't."""
    if FEW_ROWS not in ctx.overlay.engines or not isinstance(made, Weights) or made.taps > 1:
        return None
    if positions > matvec.ROWS:
        return None
    rows, memory_rows = made.blocks * ctx.lanes, len(made.packed(0, 1))  # of a column tile
    f = {"tiles": made.tiles, "blocks": made.blocks, "last": 1, "engine": matvec.NUMBER}
    f |= {"activation_bits": 8, "out_h": 1, "out_w": positions}
    taken = matvec.clocks(f | matvec.arrival(rows, memory_rows, ctx.overlay), ctx.overlay, 1)
    return taken.total - taken.issue
