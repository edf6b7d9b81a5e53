"""Residual additions of int16: they become part of the layer whose output is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from weft.graph import Node, Quant
from weft.lower.context import Context, key_of
from weft.lower.conv import lower_conv, lower_linear
from weft.lower.geometry import WIDE, Map, Value
from weft.lower.layout import RELABELS, kept
from weft.lower.stage import HostOnlyError, MatrixOp, Residual, Stage
from weft.pack import Packer, joined
from weft.program import Layout, Region
from weft.units import requant

MODE = "single_round"
LAYERS: dict[str, Callable[[Context, Node], Stage]] = {"Linear": lower_linear, "Conv": lower_conv}


def lower_residual(ctx: Context, node: Node, stages: Mapping[str, Stage]) -> tuple[Stage, str]:
    """The stage of a layer with what is added to its output, and the name of the one it replaces.

    Raises HostOnlyError where neither operand is the output of a Linear or Conv for this alone.
    """
    layer, name, other = _operands(ctx, node, stages)
    old, out, y = stages[layer.outputs[0]], node.outputs[0], ctx.quant(node.outputs[0])
    like = ctx.values[name]
    added = _added(ctx, other, like)
    made = _again(ctx, old, layer, y)
    del ctx.values[made.target], ctx.maps[made.target]
    ctx.values[out] = Value(out, replace(like.layout, bits=16), y)
    ctx.maps[out] = ctx.map_of(like.layout, out)
    q, s = requant.encode(float(np.float32(added.quant.scale)) / float(np.float32(y.scale)), MODE)
    residual = Residual(added.root, int(q), int(s))
    ops = tuple(replace(op, residual=residual) for op in made.ops if isinstance(op, MatrixOp))
    nodes = (*old.nodes, key_of(node))
    constant = (added.root,) if added.root in ctx.constants else ()
    scratch = (*made.scratch, *constant)
    stage = replace(made, target=out, ops=ops, nodes=nodes, scratch=scratch)
    if not constant and ctx.maps[added.root].words == ctx.maps[out].words:
        stage = replace(stage, over=added.root)
    return stage, old.target


def _again(ctx: Context, old: Stage, layer: Node, y: Quant) -> Stage:
    """The stage of a layer that writes codes of `y`. Raises HostOnlyError, leaving all as it was,
    where it can't.
    """
    if not all(isinstance(op, MatrixOp) for op in old.ops):
        raise HostOnlyError("an addition of int16 to a depthwise convolution")
    known = dict(ctx.values), dict(ctx.maps), dict(ctx.unfolds)
    _undo(ctx, old)
    ctx.quants[old.target] = y
    try:
        return LAYERS[layer.op](ctx, layer)
    except HostOnlyError:
        ctx.values, ctx.maps, ctx.unfolds = known
        del ctx.quants[old.target]
        raise


def _operands(ctx: Context, node: Node, stages: Mapping[str, Stage]) -> tuple[Node, str, str]:
    """The layer that the addition joins, its output as the addition reads it, and the other
    operand: the later layer, if there are two. Raises HostOnlyError if there is none.
    """
    producers = ctx.graph.producers()
    for operand, other in (node.inputs[:2][::-1], node.inputs[:2]):
        name = operand
        while _alone(ctx, name) and name in producers and producers[name].op in RELABELS:
            name = producers[name].inputs[0]
        layer = producers.get(name)
        fits = layer is not None and layer.op in LAYERS and not layer.attrs.get("activation")
        if fits and _alone(ctx, name) and name in stages and operand != other:
            assert layer is not None, "it fits"
            return layer, operand, other
    raise HostOnlyError("an addition of int16 neither of which is the output of a layer")


def _alone(ctx: Context, name: str) -> bool:
    """Whether one node reads a tensor, and nobody outside."""
    return len(ctx.consumers.get(name, [])) == 1 and name not in ctx.graph.outputs


def _undo(ctx: Context, old: Stage) -> None:
    """Forgets the layer's stage, so that it can be lowered again."""
    for name in old.sources:
        if name in ctx.unfolds:
            del ctx.unfolds[name]
            ctx.maps[name] = ctx.map_of(ctx.values[name].layout, name)
    del ctx.values[old.target], ctx.maps[old.target]


def _added(ctx: Context, name: str, like: Value) -> Value:
    """Where the other operand lies, in the same order as the layer's output."""
    if ctx.graph[name].data is not None:
        return wide_constant(ctx, name, like)
    value = ctx.value(name)
    same = (value.layout.channels, value.layout.height, value.layout.width)
    if same != (like.layout.channels, like.layout.height, like.layout.width):
        raise HostOnlyError("an addition of int16 maps of different sizes")
    if order(value.layout) != order(like.layout):
        raise HostOnlyError("an addition of int16 maps that lie in different orders")
    return value


def order(layout: Layout) -> list[tuple[str, ...]]:
    """The letters of every dimension that has some."""
    return [kept(layout, axis) for axis in range(len(layout.dims))]


def wide_constant(ctx: Context, name: str, like: Value) -> Value:
    """A constant of the shape of `like` as words that are loaded into the wide buffer."""
    real = np.asarray(ctx.constant(name), np.float32)
    if real.size != like.layout.channels * like.layout.height * like.layout.width:
        raise HostOnlyError("an int16 constant that broadcasts")
    largest = max(float(np.abs(real).max()), float(np.finfo(np.float32).tiny))
    quant = Quant(np.asarray(largest / 32767, np.float32), format="int16")
    layout = replace(like.layout, bits=16)
    rows = Packer(Region(0, layout, quant), ctx.lanes).pack(real.reshape(1, -1))
    root = f"{name}/int16"
    ctx.constants[root] = joined(rows)
    ctx.maps[root] = Map(layout.blocks(ctx.lanes), layout.height, layout.width, space=WIDE)
    ctx.values[root] = Value(root, layout, quant)
    return ctx.values[root]
