"""Products of two activations in int16: the words of one are factors of the other's layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from weft import isa
from weft.graph import Node
from weft.lower.context import Context, key_of
from weft.lower.geometry import Value
from weft.lower.residual import LAYERS, MODE, order
from weft.lower.stage import HostOnlyError, MatrixOp, Residual, Stage
from weft.units import requant


def lower_gated(ctx: Context, node: Node, stages: Mapping[str, Stage]) -> tuple[Stage, str]:
    """The stage of a layer whose output is multiplied with other int16, and the name that it had.

    Raises HostOnlyError where neither operand is the output of a Linear or Conv for this alone.
    """
    name, other = _operands(ctx, node, stages)
    old, up, gate, out = stages[name], ctx.value(name), ctx.value(other), node.outputs[0]
    y = ctx.quant(out)
    if order(up.layout) != order(gate.layout) or ctx.maps[up.root].words != _words(ctx, gate):
        raise HostOnlyError("a product of int16 maps that lie differently")
    units = [float(np.float32(quant.scale)) for quant in (up.quant, gate.quant, y)]
    q, s = requant.encode(units[0] * units[1] / units[2], MODE)
    factor = Residual(gate.root, int(q), int(s), isa.FACTOR)
    ops = tuple(replace(op, residual=factor) for op in old.ops if isinstance(op, MatrixOp))
    if len(ops) != len(old.ops):
        raise HostOnlyError("a product of int16 with a depthwise convolution")
    ctx.values[out] = Value(out, up.layout, y)
    ctx.maps[out] = ctx.map_of(up.layout, out)
    del ctx.values[name], ctx.maps[old.target]
    nodes = (*old.nodes, key_of(node))
    return replace(old, target=out, ops=ops, nodes=nodes, over=gate.root), name


def _operands(ctx: Context, node: Node, stages: Mapping[str, Stage]) -> tuple[str, str]:
    """The output of a layer for this product alone, and the other operand."""
    producers, (left, right) = ctx.graph.producers(), node.inputs[:2]
    for name, other in ((right, left), (left, right)):
        layer = producers.get(name)
        alone = len(ctx.consumers.get(name, [])) == 1 and name not in ctx.graph.outputs
        if layer is not None and layer.op in LAYERS and alone and name in stages and name != other:
            return name, other
    raise HostOnlyError("a product of int16 neither of which is the output of a layer")


def _words(ctx: Context, value: Value) -> int:
    return ctx.maps[value.root].words
