"""The dense engine of a layer: its weights, and the clocks that sparse ones must beat."""

from __future__ import annotations

from weft.graph import Array, Quant
from weft.lower import few_rows
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
    if precision.engine not in ("systolic", "bf16", FEW_ROWS):
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
    single = precision.engine == "systolic" and len(parts) <= 1
    few = _of_few_rows(ctx, made, positions, pace) if single else None
    if few is not None and few < taken.total:
        return few, FEW_ROWS
    return taken.total, precision.engine


def _of_few_rows(ctx: Context, made: Dense, positions: int, pace: int) -> int | None:
    """Clocks of engine matvec, without the instruction's own issue; None where it is slower."""
    if not isinstance(made, Weights) or made.taps > 1:
        return None
    f = few_rows.product(made.tiles, made.blocks, positions, pace)
    few = few_rows.of_few_rows(f, made.tiles * len(made.packed(0, 1)), ctx.overlay, 1)
    taken = matvec.clocks(f | few, ctx.overlay, 1) if few else None
    return taken.total - taken.issue if taken else None
