"""LayerNorm and RMSNorm: rows of the wide buffer, in exact statistics, to int8 and int16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.activation import limits
from weft.config import TABLE_METHOD
from weft.graph import Node, Quant
from weft.lower.context import Context, key_of
from weft.lower.epilogue import scaling
from weft.lower.geometry import UNIFIED, Target, Value, plain_window
from weft.lower.layout import kept
from weft.lower.rotate import unchanged
from weft.lower.stage import Epilogue, HostOnlyError, NormOp, RotateOp, Stage
from weft.passes.row_ranges import step_of
from weft.units import requant
from weft.units.norm import MOST_ELEMENTS, NORM_FRACTION

CODES = "/codes"  # behind a tensor's name: int8 that the norm writes and nobody reads
LARGEST_SHIFT = 30
EPSILON_BITS = 62


def lower_norm(ctx: Context, node: Node) -> Stage:
    """A norm over the last dimension, or each head; to int8, or int16 in place of its input, or of
    a copy where others read that, too.
    """
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    elements = _elements(ctx, node, x)
    keep = ctx.is_wide(node.outputs[0])
    copied = keep and not ctx.sole_reader(node.inputs[0])
    if copied and ("heads" in node.attrs or "rotate" not in ctx.overlay.units):
        raise HostOnlyError("an int16 norm of what others read, too: it would overwrite it")
    done = parameters(ctx, node, y, elements, y if not keep else replace(y, format="int8"))
    epsilon = _epsilon(node, x.quant, elements)
    window, rms = plain_window(x.layout), node.op == "RMSNorm"
    method = method_of("norm", ctx.overlay.norm)
    blocks = x.layout.blocks(ctx.lanes) // int(node.attrs.get("heads", 1))
    ops = tuple(
        NormOp(x.root, window, elements, done, method, rms, epsilon, keep, y.rows, at, Target(at))
        for at in range(0, x.layout.blocks(ctx.lanes), blocks)
    )
    stage = ctx.stage(node, y, x.layout if keep else replace(x.layout, bits=8), ops, engine="norm")
    if not keep:
        return stage
    out, codes = stage.target, stage.target + CODES
    ctx.maps[codes] = replace(ctx.maps[out], space=UNIFIED)
    if not copied:
        return replace(stage, target=codes, also=out, over=x.root)
    copy = RotateOp(x.root, window, x.layout.blocks(ctx.lanes), unchanged())
    own = tuple(replace(op, source=out, codes=codes) for op in ops)
    return replace(stage, ops=(copy, *own), scratch=(codes,))


def method_of(unit: str, methods: Sequence[str]) -> int:
    """Number of the method of a unit that needs no tables: the first one."""
    found = next((i for i, name in enumerate(methods) if name != TABLE_METHOD), None)
    if found is None:
        raise HostOnlyError(f"unit {unit} has method {TABLE_METHOD} only, for models with tables")
    return found


def _elements(ctx: Context, node: Node, x: Value) -> int:
    """Channels of a row. Raises HostOnlyError for a map that lies otherwise, or too many."""
    layout = x.layout
    if kept(layout, len(layout.dims) - 1) not in (("c",), ()) or (
        layout.channels > 1 and kept(layout, len(layout.dims) - 1) == ()
    ):
        raise HostOnlyError("a norm over what are not the channels of the map")
    if layout.channels > MOST_ELEMENTS:
        raise HostOnlyError(f"a norm of {layout.channels} elements: at most {MOST_ELEMENTS}")
    if layout.blocks(ctx.lanes) > ctx.overlay.parameter_blocks:
        raise HostOnlyError("a norm of more channel blocks than the parameter table holds")
    if "heads" not in node.attrs:
        return layout.channels
    heads = int(node.attrs["heads"])
    if layout.channels % (heads * ctx.lanes):
        raise HostOnlyError(f"a norm of {heads} heads that are no whole words of {ctx.lanes}")
    return int(ctx.graph[node.inputs[1]].size)


def _epsilon(node: Node, x: Quant, elements: int) -> int:
    """What is added to n² · variance: round(epsilon · n² / scale²)."""
    scale = float(np.float32(x.scale))
    epsilon = round(float(node.attrs.get("epsilon", 1e-5)) * elements**2 / scale**2)
    if epsilon >> EPSILON_BITS:
        raise HostOnlyError(f"an epsilon of {node.attrs['epsilon']} at a scale of {scale:g}")
    return epsilon


def parameters(
    ctx: Context, node: Node, y: Quant, elements: int, codes: Quant, factor: ArrayLike = 1.0
) -> Epilogue:
    """gamma, beta and shift of a norm, for int16 of `y`'s scale (or as fine as int8 wants it),
    and the requantization of those, times a factor per channel, to `codes` (of ranges per row to
    the int16 that they are made of).
    """
    gamma = _constant(ctx, node, 1, elements, 1.0)
    beta = _constant(ctx, node, 2, elements, 0.0)
    low, high = limits(codes.format)
    scale = float(np.float32(y.scale))
    if codes.rows:
        codes = replace(codes, scale=np.asarray(step_of(codes), np.float32))
        scale = float(codes.scale) if y.rows else scale
    elif y is codes:  # nobody sees the int16: they are as fine as the range of the codes allows
        scale *= max(codes.zero_point - low, high - codes.zero_point) / 32767
    multiplier, bias, shift = _fixed(gamma / (scale * (1 << NORM_FRACTION)), beta / scale)
    values = scaling(node.with_attrs(requant="single_round"), scale, factor, codes)
    q, s = requant.encode(np.broadcast_to(values.scale, (elements,)), "single_round")
    rows = requant.pack_parameters(bias, multiplier, shift, q, s, ctx.lanes)
    return Epilogue(rows, 0, codes.zero_point, low, high)


def _fixed(
    gamma: NDArray[np.float64], beta: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(gamma, beta, shift) per channel: value = code / 2**shift, gamma int16, beta int32.

    Raises HostOnlyError for factors beyond int16.
    """
    with np.errstate(divide="ignore"):
        room = np.floor(np.log2(32767 / np.abs(gamma)))
        room = np.minimum(room, np.floor(np.log2((2.0**31 - 1) / np.abs(beta))))
    if (room < 1).any():
        raise HostOnlyError("a norm whose output scale is too small for its factors")
    shift = np.minimum(room, LARGEST_SHIFT).astype(np.int64)
    codes = [np.rint(np.ldexp(v, shift)).astype(np.int64) for v in (gamma, beta)]
    return codes[0], codes[1], shift


def _constant(
    ctx: Context, node: Node, index: int, elements: int, default: float
) -> NDArray[np.float64]:
    name = node.inputs[index] if len(node.inputs) > index else ""
    if not name:
        return np.full(elements, default)
    values = ctx.constant(name)
    if values is None:
        raise HostOnlyError("factors of a norm that are no constants")
    if not np.isfinite(values).all():
        raise HostOnlyError("factors of a norm that are not finite")
    return np.broadcast_to(values.reshape(-1), (elements,)).astype(np.float64)


def copy_of_norm(ctx: Context, node: Node, stages: Mapping[str, Stage]) -> tuple[Stage, str]:
    """The stage of a norm that writes the int8 copy, too, and the name that it had.

    Raises HostOnlyError where the int16 do not come from a norm, or it writes a copy already.
    """
    name, out = node.inputs[0], node.outputs[0]
    root = ctx.values[name].root if name in ctx.values else name
    stage = next((s for s in stages.values() if s.also == root), None)
    if stage is None or stage.target != root + CODES:
        raise HostOnlyError("int8 of int16 that no norm has just made")
    norm = ctx.graph.producers()[root]
    y, codes = ctx.quant(root), ctx.quant(out)
    op, *more = stage.ops
    assert isinstance(op, NormOp), "what keeps int16 is a norm"
    if more:
        raise HostOnlyError("int8 of a norm of heads")
    factor = 1.0 if node.op == "Identity" else ctx.constant(node.inputs[1])
    if factor is None or np.size(factor) not in (1, op.elements):
        raise HostOnlyError("a factor that is not one number per channel")
    done = parameters(ctx, norm, y, op.elements, codes, factor)
    value = ctx.values[name]
    ctx.values[out] = Value(out, replace(value.layout, bits=8), codes)
    ctx.maps[out] = ctx.map_of(ctx.values[out].layout, out)
    if ctx.maps[out].space != UNIFIED:
        raise HostOnlyError("keys or values that a norm makes")
    del ctx.maps[stage.target]
    changed = replace(op, epilogue=done, ranges=codes.rows)
    nodes = (*stage.nodes, key_of(node))
    return replace(stage, target=out, ops=(changed,), nodes=nodes), stage.target
