"""Rotary embeddings, and int8 codes of int16 that no norm has made: instructions Rotate.

Angles are in weight memory, a row of words per position, so that a run reads those of its own
tokens: cosines of a head's channel blocks, then sines, in Q1.14; the sine of the first channel of
a pair is negative. Pairs are neighbours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.graph import Array, Node
from weft.lower.context import Context
from weft.lower.geometry import UNIFIED, WIDE, Map, Value, plain_window
from weft.lower.layout import kept
from weft.lower.stage import HostOnlyError, RotateOp, Rotation, Stage
from weft.transformer_ops import rotations
from weft.units import requant
from weft.units.rotate import FRACTION

SWAP = 1  # neighbouring lanes change places


def lower_rotate(ctx: Context, node: Node) -> Stage | None:
    """A Rope, or a copy of int16 in int8. None where attention with a cache reads it as keys or
    values: it turns those of one head at a time.
    """
    if "rotate" not in ctx.overlay.units:
        raise HostOnlyError(f"overlay {ctx.overlay.name!r} has no unit rotate")
    x, out, y = ctx.value(node.inputs[0]), node.outputs[0], ctx.quant(node.outputs[0])
    if y.rows:
        raise HostOnlyError(f"{node.op} to ranges per row, which norms give")
    if y.zero_point or y.format != "int8":
        raise HostOnlyError(f"{node.op} to {y.format} with zero point {y.zero_point}")
    if kept(x.layout, len(x.layout.dims) - 1) not in (("c",), ()):
        raise HostOnlyError(f"{node.op} of what are not the channels of the map")
    scale = float(np.float32(x.quant.scale)) / float(np.float32(y.scale))
    table, head = _table(ctx, node, x) if node.op == "Rope" else ("", 1)
    rotation = rotation_of(scale * 2.0**-FRACTION, table, head)
    layout = replace(x.layout, bits=8)
    if _goes_to_cache(ctx, out):
        ctx.values[out] = Value(x.root, layout, y)
        ctx.rotations[out] = rotation
        return None
    if y.heads:
        raise HostOnlyError("ranges per token, of what no cache keeps")
    blocks = layout.blocks(ctx.lanes)
    op = RotateOp(x.root, plain_window(x.layout), blocks, rotation)
    stage = ctx.stage(node, y, layout, (op,), engine="rotate")
    if ctx.maps[out].space != UNIFIED:
        raise HostOnlyError("rotated keys or values of attention without a cache")
    return replace(stage, scratch=(table,)) if table else stage


def rotation_of(scale: float, table: str = "", head: int = 1) -> Rotation:
    """What turns by a table, and multiplies with `scale`."""
    q, s = requant.encode(scale, "single_round")
    return Rotation(int(q), int(s), table, head, scale)


def unchanged() -> Rotation:
    """What copies int16 as they are."""
    return rotation_of(2.0**-FRACTION)


def _goes_to_cache(ctx: Context, name: str) -> bool:
    """Whether attention with a cache alone reads a tensor, as keys or values."""
    readers = ctx.consumers.get(name, [])
    if len(readers) != 1 or name in ctx.graph.outputs:
        return False
    (node,) = readers
    return bool(node.op == "Attention" and node.attrs.get("cache")) and name != node.inputs[0]


def _table(ctx: Context, node: Node, x: Value) -> tuple[str, int]:
    """The map of the angles of a head, and its channel blocks."""
    heads = int(node.attrs["heads"])
    frequencies = ctx.constant(node.inputs[1])
    if frequencies is None or x.layout.channels != heads * 2 * len(frequencies):
        raise HostOnlyError("rotations by frequencies that are no constant of a head")
    width = 2 * len(frequencies)
    if width % ctx.lanes or width // ctx.lanes & width // ctx.lanes - 1:
        raise HostOnlyError(
            f"rotated heads of {width} channels: they take 1, 2, 4, ... words of {ctx.lanes}"
        )
    tokens = x.layout.height * x.layout.width
    positions = max(tokens, ctx.cached)
    head = width // ctx.lanes
    name = f"rope/{node.inputs[1]}"
    ctx.tables[name] = angles(frequencies, positions).reshape(positions, -1, ctx.lanes)
    ctx.maps[name] = Map(1, tokens * 2 * head, 1, space=WIDE)
    return name, head


def angles(frequencies: Array, positions: int) -> Array:
    """[positions, 2, channels of a head] int16: cosines and sines in Q1.14."""
    cos, sin = rotations(frequencies, positions)
    turned = np.stack([-sin, sin], axis=-1).reshape(positions, -1)
    both = np.stack([np.repeat(cos, 2, axis=1), turned], axis=1)
    return np.asarray(np.rint(both * (1 << FRACTION)), np.int16)
