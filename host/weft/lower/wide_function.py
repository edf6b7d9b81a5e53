"""Functions of single elements of int16, such as SiLU and GELU between a decoder's products.

The hardware has lookups of 256 entries for int8. Three of them make a function of int16: the range
of int16 has 255 cells of 258 codes; in each the function is a straight line through its value in
the middle, of two lookups (high and low byte), with the slope of the secant across the cell:

    c = round(x / 258)      d = x - 258 c      y = slope[c] · d + 256 · high[c] + low[c]

so that the error is curvature, (129 s)² / 2 · max|f''|, and a few codes of int16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft import isa, ops
from weft.activation import WIDE
from weft.graph import Node, Quant
from weft.lower.context import Context
from weft.lower.epilogue import Scaling, epilogue
from weft.lower.fields import Rules, even
from weft.lower.function import variable_input
from weft.lower.geometry import HERE, UNIFIED, Place, Window, plain_window
from weft.lower.rotate import rotation_of
from weft.lower.stage import Epilogue, FunctionOp, HostOnlyError, Stage
from weft.program import Rule
from weft.units import requant
from weft.units.rotate import FRACTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft.lower.emit import Emitter

Floats = NDArray[np.float64]
Int8 = NDArray[np.int8]
CELL = 258  # codes of int16; 127 of them on each side reach 32,766
CENTERS = np.arange(-128, 128)  # of cells; Rotate makes none of number -128
MOST = 127
BYTE = 256
ONE = {"residual": isa.ADDED, "residual_multiplier": 1 << 30, "residual_shift": 1}
BACK, SLOPE, HIGH, LOW, SAME, SHIFTED = range(6)  # of FunctionOp.copy
COPIES, LOOKUPS, BLOCKS = 7, 3, 3  # that a function takes; blocks: parameters of 1, 256 and -258


def lower_wide_function(ctx: Context, node: Node) -> Stage:
    """A function of int16, to int16. Raises HostOnlyError for one that has no lookup."""
    name = variable_input(ctx.graph, node)
    x, y = ctx.value(name), ctx.quant(node.outputs[0])
    if x.quant.format != WIDE or y.format != WIDE or "rotate" not in ctx.overlay.units:
        raise HostOnlyError(f"{node.op} of {x.quant.format} to {y.format}")
    if ctx.graph[name].size != ctx.graph[node.outputs[0]].size:
        raise HostOnlyError("a constant that broadcasts the activation")
    blocks, out = x.layout.blocks(ctx.lanes), node.outputs[0]
    high, low, slope, unit = lines(node, x.quant, y)
    back, byte = -float(CELL), float(BYTE)
    kinds = (back, None), (1.0, slope), (1.0, high), (1.0, low), (1.0, None), (byte, None)
    made = [_copy(node, ctx.lanes, *each) for each in kinds]
    q, s = requant.encode(1 / unit, "single_round")
    op = FunctionOp(
        x.root,
        plain_window(x.layout),
        blocks,
        rotation_of(2.0**-FRACTION / CELL),
        tuple(made),
        (int(q), int(s)),
        f"{out}/cells",
        f"{out}/values",
    )
    stage = ctx.stage(node, y, x.layout, (op,), engine="vector")
    for scratch in (op.codes, op.values):
        ctx.maps[scratch] = replace(ctx.maps[out], space=UNIFIED)
    return replace(stage, scratch=(op.codes, op.values))


def lines(node: Node, x: Quant, y: Quant) -> tuple[Int8, Int8, Int8, float]:
    """High and low bytes of the values in the middle of cells, and slopes, in steps of `y` per step
    of `x`, times the number that is the last of the result; each [256], by number of cell.
    """
    function, step = _function(node), float(np.float32(x.scale))
    unit = float(np.float32(y.scale))
    middle = np.asarray(CENTERS * (CELL * step), np.float64)
    values = np.clip(np.rint(function(middle) / unit), -MOST * BYTE, MOST * BYTE + MOST)
    high = np.floor((values + BYTE // 2) / BYTE)
    half = CELL / 2 * step
    rise = function(middle + half) - function(middle - half)
    slopes = rise / (CELL * unit)
    largest = float(np.abs(slopes[1:]).max())
    factor = MOST / largest if largest > 0 else 1.0
    rounded = np.clip(np.rint(slopes * factor), -MOST, MOST)
    low = values - BYTE * high
    return high.astype(np.int8), low.astype(np.int8), rounded.astype(np.int8), factor


def _function(node: Node) -> Callable[[Floats], Floats]:
    """The operator's reference. Raises HostOnlyError where it is none of single elements."""
    spec = ops.OPS.get(node.op)
    if spec is None or spec.category != "elementwise" or node.op in ("Lookup", "Cast"):
        raise HostOnlyError(f"{node.op} of int16 has no accelerator form")

    def run(x: Floats) -> Floats:
        with np.errstate(all="ignore"):
            found = np.asarray(spec.reference(node, [x.astype(np.float32)])[0], np.float64)
        return np.where(np.isnan(found), 0.0, found)

    return run


def _copy(node: Node, lanes: int, scale: float, table: Int8 | None) -> Epilogue:
    """An epilogue that multiplies codes with `scale`, or looks them up."""
    plain = node.with_attrs(activation=None, requant="single_round")
    one = Quant(np.asarray(1.0, np.float32))
    values = Scaling(np.asarray(scale), np.asarray(0, np.int64))
    return replace(epilogue(plain, values, one, lanes, step=0), lookup=table)


def wide_function(
    emitter: Emitter,
    op: FunctionOp,
    rows: tuple[int, int],
    places: Mapping[str, Place],
    target: Place,
) -> None:
    """Rows of a function: cells, the way into each, then slope and value are added up in place."""
    assert op.target == HERE, "nothing joins maps of int16"
    limit = emitter.context.overlay.accumulator_rows
    width, symbol = op.window.width, emitter.symbol(op.source)
    x, codes, values = (places[name] for name in (op.source, op.codes, op.values))
    for first, last in even(rows[0] * width, rows[1] * width, limit):
        count = last - first
        rule = (Rule(0, 0, "", symbol, first, count),) if symbol else ()
        part = _Part(emitter, op, first, count, rule)
        part.cells(x, codes)
        part.copy(codes, BACK, target, x, ONE)
        part.copy(codes, SLOPE, values)
        q, s = op.product
        factor = {"residual": isa.FACTOR, "residual_multiplier": q, "residual_shift": s}
        part.copy(values, SAME, target, target, factor)
        part.copy(codes, HIGH, values)
        part.copy(values, SHIFTED, target, target, ONE)
        part.copy(codes, LOW, values)
        part.copy(values, SAME, target, target, ONE)


class _Part:
    """Tokens first..first+count-1 of a function; `rules` are those of their number."""

    def __init__(
        self, emitter: Emitter, op: FunctionOp, first: int, count: int, rules: Rules
    ) -> None:
        self.emitter, self.op, self.first, self.count = emitter, op, first, count
        self.rules = rules

    def _named(self, *fields: str) -> Rules:
        return tuple(replace(rule, field=field) for rule in self.rules for field in fields)

    def cells(self, source: Place, target: Place) -> None:
        """The numbers of cells, as int8."""
        self.emitter.put(
            isa.ROTATE.encode(
                source=source.at(0, 0, self.first),
                source_block=source.block,
                source_col=1,
                rows=self.count,
                blocks=self.op.blocks,
                plain=1,
                multiplier=self.op.cell.multiplier,
                shift=self.op.cell.shift,
                target=target.at(0, 0, self.first),
                target_block=target.block,
                target_col=1,
                space=target.space,
            ),
            self._named("rows"),
        )

    def copy(
        self,
        source: Place,
        which: int,
        target: Place,
        other: Place | None = None,
        joined: Mapping[str, int] | None = None,
    ) -> None:
        """int8 codes through an epilogue, `joined` with words of the wide buffer."""
        done = self.op.copy[which]
        parameter = self.emitter.epilogue(done, 0, 1)
        window = Window(self.count, 1, self.count, 1)
        self.emitter.put(
            isa.VECTOR.encode(
                **vars(window),
                source=source.at(0, 0, self.first),
                source_block=source.block,
                source_row=1,
                source_col=1,
                operation=isa.OPERATIONS.index("max"),
                blocks=self.op.blocks,
            ),
            self._named("out_h"),
        )
        beside = {} if other is None else {
            "residual_base": other.at(0, 0, self.first),
            "residual_block": other.block,
            "residual_row": 1,
            "residual_col": 1,
        }  # fmt: skip
        plain = target.space == UNIFIED
        self.emitter.put(
            isa.ACTIVATE.encode(
                target=target.at(0, 0, self.first),
                target_block=target.block,
                target_row=1,
                target_col=1,
                parameter=parameter,
                mode=done.mode,
                low=done.low if plain else 0,
                high=done.high if plain else 0,
                lookup=int(done.lookup is not None),
                space=target.space,
                **beside,
                **(joined or {}),
            ),
            self._named(""),
        )
