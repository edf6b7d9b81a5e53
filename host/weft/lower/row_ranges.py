"""Ranges per row: the epilogue of products that read such codes, and what must hold for them.

The accelerator keeps the magnitudes M of the rows of one Norm at a time. With the int16 in steps s
and weights in steps w, a sum of products stands for sum * M * s * w / 127; what the epilogue gets
is sum * M / 2^12, so that it counts in s * w * 2^12 / 127, the bias too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from weft import isa
from weft.errors import CapacityError
from weft.graph import Array, Graph, Quant
from weft.instruction import Words
from weft.lower.stage import Epilogue, HostOnlyError
from weft.passes.row_ranges import step_of
from weft.units import ranges

if TYPE_CHECKING:
    from weft.lower.partition import Partition

LARGEST = (1 << 31) - 1


def unit_of(x: Quant) -> float:
    """What the epilogue of a product counts in, but for the scales of weights."""
    return step_of(x) * (1 << ranges.SHIFT) / ranges.CODE


def bias_of(x: Quant, bias: Array) -> Array:
    """A bias in units of the calibrated scale as one in those of the epilogue.

    Raises HostOnlyError where int32 does not hold it.
    """
    found = np.rint(np.asarray(bias, np.float64) * (float(np.float32(x.scale)) / unit_of(x)))
    if np.abs(found).max(initial=0) > LARGEST:
        raise HostOnlyError("a bias beyond int32 in units of ranges per row")
    return np.asarray(found, np.int64)


def ranged(x: Quant, done: Epilogue, weights: Array) -> Epilogue:
    """The epilogue of a product that reads `x`: sums times magnitudes, where it has them.

    `weights` are operands [O, ...]. Raises HostOnlyError where a product could leave int32.
    """
    if not x.rows:
        return done
    if done.mode >= isa.RAW_BYTE:
        raise HostOnlyError("sums as they are of products of ranges per row")
    sums = ranges.CODE * np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(1)
    if (int(sums.max(initial=0)) * ranges.MOST) >> ranges.SHIFT > LARGEST:
        raise HostOnlyError("sums that leave int32 when their row's magnitude multiplies them")
    return replace(done, normalize=isa.BY_MAGNITUDE)


def check_placed(found: Partition) -> None:
    """Raises CapacityError where the ranges of rows, or products of such codes, are not on the
    accelerator.
    """
    graph, overlay = found.context.graph, found.context.overlay
    names = {name for name, t in graph.tensors.items() if t.quant is not None and t.quant.rows}
    for place in found.placements:
        touches = names & {*place.node.inputs, *place.node.outputs}
        if not touches:
            continue
        why = place.why if place.where == "host" else ""
        if "ranges" not in overlay.units:
            why = "no unit ranges"
        if why:
            raise CapacityError(
                f"{place.op} {place.name!r} has ranges per row, which overlay {overlay.name!r} "
                f"can't take ({why}): leave row_ranges out, or take another overlay"
            )


def check_order(graph: Graph, segment: Iterable[Words]) -> None:
    """Raises CapacityError unless products find the magnitudes of the very rows that they read.

    `segment` are instructions of one segment, in order.
    """
    norm: dict[str, int] = {}
    product: dict[str, int] = {}
    for words in segment:
        kind, f = isa.decode(words)
        if kind is isa.NORM and f["ranges"]:
            norm = f
        if kind is isa.MAT_MUL:
            product = f
        if kind is not isa.ACTIVATE or f["normalize"] != isa.BY_MAGNITUDE:
            continue
        rows = product["out_h"] * product["out_w"]
        if not norm or (norm["target"], norm["rows"]) != (product["source"], rows):
            raise CapacityError(
                f"{graph.name!r}: products of ranges per row run in parts, of {rows} rows, where "
                f"the magnitudes of {norm.get('rows', 0)} are known: take fewer tokens, an overlay "
                "with more accumulator_rows and words on chip, or leave row_ranges out"
            )
